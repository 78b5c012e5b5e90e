"""The running weighted mean of silo updates: folded in as they arrive, the same bits in whatever order they arrive.

Floating-point addition depends on its order. Here each weighted value is first rounded to a multiple of one fixed
power of two and then added in float64, where sums of such multiples are exact; so the order cannot matter (the
fixed-boundary case of Demmel and Nguyen's reproducible summation, ARITH 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.wire import Weights

LARGEST_VALUE = 4096.0
"""The largest magnitude a model weight may have."""

_BLOCK = 16384
"""Values folded at a time: 128 KiB of float64, within a core's second-level cache."""

_BOUNDARY = 1.5 * 2.0**13
"""Adding and subtracting this rounds a float64 of magnitude up to 2^12 to a multiple of 2^-39, about 2e-12.

Scaled by examples over planned examples, all weighted values together stay within 2^12, so float64 adds such multiples
exactly.
"""


@dataclass(frozen=True)
class Contribution:
    """One silo's part in a round."""

    silo: str
    examples: int


class RunningMean:
    """The mean of float32 vectors weighted by examples; two models of memory (one float64 sum), however many silos.

    `planned_examples` is the number of examples all silos together announced; it scales the sum and must not depend on
    who answers.
    """

    def __init__(self, size: int, planned_examples: int) -> None:
        if size < 1 or planned_examples < 1:
            raise WireError(f"got size {size} and {planned_examples} examples, expected both at least 1")
        self._sum: npt.NDArray[np.float64] = np.zeros(size, dtype=np.float64)
        self._scale = 2.0 ** -math.ceil(math.log2(planned_examples))
        self._planned = planned_examples
        self._contributions: list[Contribution] = []

    @property
    def contributions(self) -> tuple[Contribution, ...]:
        """Who was folded in, by name."""
        return tuple(sorted(self._contributions, key=lambda part: part.silo))

    @property
    def examples(self) -> int:
        """The sum of the examples folded in."""
        return sum(part.examples for part in self._contributions)

    def fold(self, silo: str, weights: Weights, examples: int) -> None:
        """Add one silo's float32 weights; raises WireError, with nothing added, where they cannot be folded exactly."""
        if weights.shape != self._sum.shape or weights.dtype != np.float32:
            raise WireError(
                f"{silo} sent {weights.dtype} weights of shape {weights.shape}, expected float32 {self._sum.shape}"
            )
        if any(part.silo == silo for part in self._contributions):
            raise WireError(f"{silo} sent a second update for one round")
        if examples < 1 or self.examples + examples > self._planned:
            raise WireError(
                f"{silo} counts {examples} examples, expected at least 1 and with the others at most "
                f"the {self._planned} that were announced"
            )
        # max and min propagate NaN, so this also refuses what is not finite.
        largest = max(float(weights.max()), -float(weights.min()))
        if not largest <= LARGEST_VALUE:
            raise WireError(f"{silo} sent a weight of magnitude {largest}, expected at most {LARGEST_VALUE}")
        factor = examples * self._scale
        scratch = np.empty(min(_BLOCK, weights.size), dtype=np.float64)
        for start in range(0, weights.size, _BLOCK):
            part = weights[start : start + _BLOCK]
            work = scratch[: part.size]
            np.multiply(part, factor, out=work, dtype=np.float64)
            work += _BOUNDARY
            work -= _BOUNDARY
            self._sum[start : start + _BLOCK] += work
        self._contributions.append(Contribution(silo, examples))

    def result(self) -> Weights:
        """The weighted mean as float32; raises WireError where nothing was folded in."""
        if not self._contributions:
            raise WireError("got no updates to average, expected at least one")
        factor = 1.0 / (self.examples * self._scale)
        out = np.empty(self._sum.size, dtype=np.float32)
        for start in range(0, out.size, _BLOCK):
            np.multiply(
                self._sum[start : start + _BLOCK],
                factor,
                out=out[start : start + _BLOCK],
                casting="same_kind",
            )
        return out
