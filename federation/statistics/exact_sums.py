"""Counts, sums and sums of squares of features as integers whose sum over silos cannot wrap around; pure.

A silo's n rows with mean m and sum of squared deviations q of a feature give S1 = n m and S2 = q + n m^2, rounded to
multiples of 2^-160 and 2^-320. The features are float32, so |m| < 2^128, and n < 2^30: |S1| < 2^158 and S2 < 2^286, as
integers below 2^318 and 2^606. Each is cut into limbs of 16 bits that carry its sign, so |limb| < 2^16, and over at
most 1000 silos a limb's sum stays below 2^26: read as a signed integer, the sum modulo 2^32 is the sum. Put together
again, the limbs' sums are the sums of S1 and S2, exactly. No range of the values has to be known, and as what is
subtracted for a variance is exact, none is lost where a mean is large beside its deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from federation.errors import WireError
from federation.limits import LIMITS
from federation.secure_aggregation.fixed_point import Integers
from federation.statistics.summary import Floats, Summary

LIMB_BITS = 16
_ROWS, _FIRST, _SECOND = 2, 20, 38
"""Limbs of a count of rows, of a sum and of a sum of squares."""
_FIRST_UNIT, _SECOND_UNIT = 2**160, 2**320
_LARGEST = 2**128


@dataclass(frozen=True)
class Pooled:
    """The rows behind a sum, and the mean and the variance over them (divided by rows) of each feature, (features,)."""

    rows: int
    mean: Floats
    variance: Floats


def values_of(features: int) -> int:
    """How many integers the sums of so many features take."""
    return _ROWS + features * (_FIRST + _SECOND)


def encoded(summary: Summary) -> Integers:
    """One silo's rows, sums and sums of squares, (values,); raises WireError for what no float32 rows can have."""
    if not 1 <= summary.rows <= LIMITS.examples:
        raise WireError(f"got {summary.rows} rows, expected 1 to {LIMITS.examples}")
    out = [_limbs(summary.rows, _ROWS)]
    for mean, square in zip(summary.mean.tolist(), np.diag(summary.scatter).tolist(), strict=True):
        if not (abs(mean) < _LARGEST and 0 <= square < summary.rows * float(_LARGEST) ** 2):
            raise WireError("got a mean or a variance that is hidden, or larger than those of float32 values")
        first = summary.rows * Fraction(mean)
        second = min(Fraction(square) + first * Fraction(mean), Fraction(summary.rows * _LARGEST**2 - 1))
        out += [_limbs(round(first * _FIRST_UNIT), _FIRST), _limbs(round(second * _SECOND_UNIT), _SECOND)]
    return np.concatenate(out).view(np.uint32)


def decoded(total: Integers, features: int) -> Pooled:
    """What a sum of encoded ones says of all rows together; raises WireError for what is no such sum."""
    if total.shape != (values_of(features),):
        raise WireError(f"got a sum of {total.size} values, expected {values_of(features)}")
    signed = total.view(np.int32)
    rows = _whole(signed[:_ROWS])
    if not 1 <= rows <= LIMITS.examples * LIMITS.members:
        raise WireError(f"got a sum over {rows} rows, expected 1 to {LIMITS.examples * LIMITS.members}")
    mean, variance = np.empty(features), np.empty(features)
    for index, part in enumerate(signed[_ROWS:].reshape(features, _FIRST + _SECOND)):
        first = Fraction(_whole(part[:_FIRST]), rows * _FIRST_UNIT)
        spread = Fraction(_whole(part[_FIRST:]), rows * _SECOND_UNIT) - first * first
        if abs(first) >= _LARGEST or spread >= _LARGEST**2:
            raise WireError("got a mean or a variance larger than those of float32 values")
        mean[index], variance[index] = float(first), max(0.0, float(spread))
    return Pooled(rows, mean, variance)


def _limbs(value: int, count: int) -> np.typing.NDArray[np.int32]:
    """An integer in limbs, the least first, each with its sign."""
    magnitude = np.frombuffer(abs(value).to_bytes(count * LIMB_BITS // 8, "little"), dtype="<u2").astype(np.int32)
    return -magnitude if value < 0 else magnitude


def _whole(limbs: np.typing.NDArray[np.int32]) -> int:
    """The integer of limbs, or of sums of limbs."""
    return sum(limb << (LIMB_BITS * place) for place, limb in enumerate(limbs.tolist()))
