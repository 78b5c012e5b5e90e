"""Aggregation that some silos may try to spoil; each silo counts the same, whatever examples it claims.

All hold the round's updates: one model of memory a silo. Coordinates are worked on in blocks, so that no second copy is
made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from coordinator.strategies.base import Held, Stateless, usable
from federation.errors import RunFailedError
from federation.wire import Weights

_BLOCK = 16384


class _HeldFold(Held):
    """Updates for a function of all of them, ordered by the silos' names."""

    def __init__(self, size: int, combine: Callable[[list[tuple[str, Weights]]], Weights]) -> None:
        super().__init__(size)
        self._combine = combine

    def fold(self, silo: str, weights: Weights, examples: int, _metrics: Mapping[str, float], _steps: int = 1) -> None:
        """Keep one silo's weights; raises WireError."""
        self.hold(silo, weights, examples)

    def result(self) -> Weights:
        """What the function makes of the updates."""
        return usable(self._combine(self.ordered()))


def _by_coordinate(
    updates: list[tuple[str, Weights]], middle: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]
) -> Weights:
    """Apply a function of each coordinate's sorted values, shape (silos, block), a block at a time."""
    out = np.empty(updates[0][1].size, dtype=np.float32)
    for start in range(0, out.size, _BLOCK):
        block = np.stack([weights[start : start + _BLOCK] for _, weights in updates])
        block.sort(axis=0)
        out[start : start + _BLOCK] = middle(block)
    return out


class TrimmedMean(Stateless):
    """The mean of each coordinate without its largest and smallest values (Yin et al., ICML 2018)."""

    def __init__(self, trim: float) -> None:
        self._trim = trim

    def begin(self, model: Weights, _planned_examples: int) -> _HeldFold:
        """Begin a round."""
        return _HeldFold(model.size, self._combine)

    def _combine(self, updates: list[tuple[str, Weights]]) -> Weights:
        cut = math.floor(self._trim * len(updates))
        return _by_coordinate(
            updates,
            lambda block: block[cut : len(updates) - cut].mean(axis=0, dtype=np.float64),
        )


class Median(Stateless):
    """The median of each coordinate; for an even number of silos the mean of the two in the middle (same paper)."""

    def begin(self, model: Weights, _planned_examples: int) -> _HeldFold:
        """Begin a round."""
        return _HeldFold(model.size, self._combine)

    def _combine(self, updates: list[tuple[str, Weights]]) -> Weights:
        low, high = (len(updates) - 1) // 2, len(updates) // 2
        return _by_coordinate(
            updates, lambda block: (block[low].astype(np.float64) + block[high].astype(np.float64)) / 2
        )


class Krum(Stateless):
    """The one update that is nearest to its n - f - 2 nearest others (Blanchard et al., NeurIPS 2017), f being faulty.

    Of updates equally near, the first by name. A round needs at least 2 f + 3 updates.
    """

    def __init__(self, byzantine: int) -> None:
        self._byzantine = byzantine

    def begin(self, model: Weights, _planned_examples: int) -> _HeldFold:
        """Begin a round."""
        return _HeldFold(model.size, self._combine)

    def _combine(self, updates: list[tuple[str, Weights]]) -> Weights:
        needed = 2 * self._byzantine + 3
        if len(updates) < needed:
            raise RunFailedError(
                f"got {len(updates)} updates, expected at least {needed}: Krum needs 2 f + 3 with f = {self._byzantine}"
            )
        distances = np.zeros((len(updates), len(updates)))
        for one in range(len(updates)):
            for two in range(one):
                distances[one, two] = distances[two, one] = _squared_distance(updates[one][1], updates[two][1])
        near = len(updates) - self._byzantine - 2
        scores = [float(np.sort(np.delete(row, index))[:near].sum()) for index, row in enumerate(distances)]
        return updates[scores.index(min(scores))][1]


def _squared_distance(one: Weights, two: Weights) -> float:
    total = 0.0
    for start in range(0, one.size, _BLOCK):
        part = np.subtract(one[start : start + _BLOCK], two[start : start + _BLOCK], dtype=np.float64)
        total += float(np.dot(part, part))
    return total
