"""Updates as integers modulo 2^32 whose sum cannot wrap around, and back; pure.

A change d of a silo with e of the planned P examples becomes x = rint(d * (2^30 / b) * (e / P)), where b is the run's
`largest_change` and |d| <= b. So |x| <= 2^30 * e / P + 1, and the sum over a cohort, whose examples add up to P at
most, stays within 2^30 + (number of silos). With at most 1000 members that is below 2^31: read as a signed integer, the
sum modulo 2^32 is the sum. The mean differs from the exact one by at most (silos / 2) * (b / 2^30) * (P / examples).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.wire import Weights

Integers = npt.NDArray[np.uint32]
ONE = 2.0**30
"""What the largest change of all silos together becomes."""
_BLOCK = 1 << 15
"""Values at a time: 256 KiB of float64, within a core's second-level cache."""


def encode(change: Weights, examples: int, planned: int, largest: float) -> Integers:
    """A change (float32) weighted by examples / planned; one with a value beyond `largest` is scaled down as a whole.

    Raises WireError for values that are not finite, and for examples that are not 1 to `planned`.
    """
    if not 1 <= examples <= planned:
        raise WireError(f"got {examples} examples, expected 1 to the {planned} planned")
    peak = max(float(change.max()), -float(change.min()))
    if not math.isfinite(peak):
        raise WireError("got an update that is not finite, expected numbers")
    factor = ONE / largest * (examples / planned) * shrinkage(peak, largest)
    out = np.empty(change.size, dtype=np.uint32)
    signed = out.view(np.int32)
    for start in range(0, change.size, _BLOCK):
        block = change[start : start + _BLOCK].astype(np.float64)
        block *= factor
        signed[start : start + block.size] = np.rint(block, out=block)
    return out


def shrinkage(peak: float, largest: float) -> float:
    """By what a change whose largest value is `peak` is scaled so that it is within `largest`."""
    return largest / peak if peak > largest else 1.0


def add_mean(model: Weights, total: Integers, examples: int, planned: int, largest: float) -> Weights:
    """The model (float32) plus the mean change in a sum of encoded ones; `examples` are those behind the sum.

    Raises WireError where the sum has another size than the model.
    """
    if total.shape != model.shape or not 1 <= examples <= planned:
        raise WireError(f"got a sum of {total.size} values of {examples} examples, expected {model.size} values")
    factor = largest / ONE * (planned / examples)
    signed = total.view(np.int32)
    out = np.empty(model.size, dtype=np.float32)
    for start in range(0, model.size, _BLOCK):
        block = signed[start : start + _BLOCK] * factor
        block += model[start : start + block.size]
        out[start : start + block.size] = block
    return out


class PlainSum:
    """The sum that secure aggregation opens, made without it where nobody has to be kept from single updates.

    The same integers are added up, so that the model after it has the same bits.
    """

    def __init__(self, values: int, planned: int, largest: float) -> None:
        self._total: Integers = np.zeros(values, dtype=np.uint32)
        self._planned, self._largest = planned, largest
        self.examples = 0

    def add(self, change: Weights, examples: int) -> None:
        """Add one silo's change of the model; raises WireError."""
        self._total += encode(change, examples, self._planned, self._largest)
        self.examples += examples

    def model_after(self, model: Weights) -> Weights:
        """The model plus the mean change; raises WireError."""
        return add_mean(model, self._total, self.examples, self._planned, self._largest)


def carried(integers: Integers) -> Weights:
    """Integers in the form in which a message carries weights: the same 32 bits a value, whatever they mean."""
    return integers.astype("<u4", copy=False).view(np.float32)


def integers_of(weights: Weights) -> Integers:
    """What `carried` was given."""
    return weights.view("<u4").astype(np.uint32, copy=False)
