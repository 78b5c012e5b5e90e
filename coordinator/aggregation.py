"""The running weighted mean of silo updates: folded in as they arrive, the same bits in whatever order they arrive.

Floating-point addition depends on its order. Here each weighted value is first rounded to a multiple of one fixed
power of two, and those multiples are added as integers; so the order cannot matter (the fixed-boundary case of Demmel
and Nguyen's reproducible summation, ARITH 2013).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.wire import Weights

LARGEST_VALUE = 4096.0
"""The largest magnitude a model weight may have."""

_BLOCK = 1 << 17
"""Values checked and folded at a time: half a MiB of an update, which is fetched from memory once for all passes."""

_PARALLEL = 1 << 20
"""From this many values on, two threads share the work; each value is folded alone, so the result is the same."""

_BOUNDARY = 1.5 * 2.0**13
"""Adding this to a float64 of magnitude up to 2^12 rounds it to a multiple of 2^-39, about 2e-12.

The exponent of such a sum is always the same, so that its bits, read as an integer, are those of the boundary plus the
number of multiples: they add up as integers. Scaled by examples over planned examples, all weighted values together
stay within 2^12.
"""

Part = TypeVar("Part")

_BOUNDARY_BITS = int(np.float64(_BOUNDARY).view(np.int64))


@dataclass(frozen=True)
class Contribution:
    """One silo's part in a round."""

    silo: str
    examples: int


class RunningMean:
    """The mean of float32 vectors weighted by examples; two models of memory (one sum of 64 bits), however many silos.

    `planned_examples` is the number of examples all silos together announced; it scales the sum and must not depend on
    who answers.
    """

    def __init__(self, size: int, planned_examples: int) -> None:
        if size < 1 or planned_examples < 1:
            raise WireError(f"got size {size} and {planned_examples} examples, expected both at least 1")
        self._sum: npt.NDArray[np.int64] = np.zeros(size, dtype=np.int64)
        self._scratch: npt.NDArray[np.float64] = np.empty((2, min(_BLOCK, size)), dtype=np.float64)
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
        check_shape(silo, weights, self._sum.size)
        if any(part.silo == silo for part in self._contributions):
            raise WireError(f"{silo} sent a second update for one round")
        if examples < 1 or self.examples + examples > self._planned:
            raise WireError(
                f"{silo} counts {examples} examples, expected at least 1 and with the others at most "
                f"the {self._planned} that were announced"
            )
        factor = examples * self._scale
        parts = in_parts(weights.size, lambda first, last: (first, self._add(weights, factor, first, last), last))
        if any(reached < last for _, reached, last in parts):
            for first, reached, _ in parts:
                self._take_back(weights, factor, first, reached)
            check_values(silo, weights)
        self._contributions.append(Contribution(silo, examples))

    def _add(self, weights: Weights, factor: float, first: int, last: int) -> int:
        """Add values block by block up to one that holds what cannot be folded; returns where it stopped."""
        scratch = self._scratch_of(first)
        for start in range(first, last, _BLOCK):
            part = weights[start : min(last, start + _BLOCK)]
            if not magnitude(part) <= LARGEST_VALUE:
                return start
            self._sum[start : start + part.size] += _rounded(part, factor, scratch)
        return last

    def _scratch_of(self, first: int) -> npt.NDArray[np.float64]:
        """The scratch memory of the thread whose part begins there."""
        scratch: npt.NDArray[np.float64] = self._scratch[0 if first == 0 else 1]
        return scratch

    def _take_back(self, weights: Weights, factor: float, first: int, last: int) -> None:
        """Undo `_add`, exactly, as integers are added."""
        scratch = self._scratch_of(first)
        for start in range(first, last, _BLOCK):
            part = weights[start : min(last, start + _BLOCK)]
            self._sum[start : start + part.size] -= _rounded(part, factor, scratch)

    def result(self) -> Weights:
        """The weighted mean as float32, in the memory of the sum, which ends with it.

        Raises WireError where nothing was folded in, or the mean was taken already.
        """
        if not self._contributions or not self._sum.size:
            raise WireError("got no updates to average, expected at least one")
        total, self._sum = self._sum, np.empty(0, dtype=np.int64)
        size = total.size
        self._scale_down(total)
        total.resize(-(-size // 2), refcheck=False)
        mean: Weights = total.view(np.float32)[:size]
        return mean

    def _scale_down(self, total: npt.NDArray[np.int64]) -> None:
        """Put the mean as float32 where the sum's first half is; what is written was read before."""
        factor = 1 / (self.examples * self._scale)
        # Sums wrap around at 2^64, and so does what is taken off: left are the bits of one boundary and the sum.
        others = (len(self._contributions) - 1) * _BOUNDARY_BITS
        offset = np.array(others % 2**64, dtype=np.uint64).view(np.int64)
        out = total.view(np.float32)

        def scale(first: int, last: int) -> int:
            """The part's means, from where its own sums begin."""
            scratch = self._scratch_of(first)
            for start in range(first, last, _BLOCK):
                end = min(last, start + _BLOCK)
                work = scratch[: end - start]
                np.subtract(total[start:end], offset, out=work.view(np.int64))
                work -= _BOUNDARY
                work *= factor
                out[first + start : first + end] = work
            return first

        for first in in_parts(total.size, scale):
            for start in range(first, total.size if first else 0, _BLOCK):
                end = min(total.size, start + _BLOCK)
                out[start:end] = out[first + start : first + end]


def _rounded(part: Weights, factor: float, scratch: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """A block's weighted values as the bits of their sums with the boundary, in the scratch memory."""
    work = scratch[: part.size]
    work[:] = part
    work *= factor
    work += _BOUNDARY
    return work.view(np.int64)


def magnitude(weights: Weights) -> float:
    """The largest magnitude; NaN where any value is."""
    return max(float(weights.max()), -float(weights.min()))


def check_shape(silo: str, weights: Weights, size: int) -> None:
    """Raise WireError where a silo's weights are not `size` float32 values."""
    if weights.shape != (size,) or weights.dtype != np.float32:
        raise WireError(f"{silo} sent {weights.dtype} weights of shape {weights.shape}, expected float32 {(size,)}")


def check_values(silo: str, weights: Weights) -> None:
    """Raise WireError where any of a silo's weights is not finite or has a magnitude that cannot be folded."""
    largest = magnitude(weights)
    if not largest <= LARGEST_VALUE:
        raise WireError(f"{silo} sent a weight of magnitude {largest}, expected at most {LARGEST_VALUE}")


def check_update(silo: str, weights: Weights, size: int) -> None:
    """Raise WireError where a silo's weights are not `size` float32 values of a magnitude that can be folded."""
    check_shape(silo, weights, size)
    check_values(silo, weights)


def in_parts(size: int, work: Callable[[int, int], Part]) -> list[Part]:
    """Do `work(first, last)` over all values, by two threads where there are many and the machine has the cores."""
    if size < _PARALLEL or (os.cpu_count() or 1) < 2:
        return [work(0, size)]
    middle = size // 2 // _BLOCK * _BLOCK
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(work, middle, size)
        return [work(0, middle), second.result()]
