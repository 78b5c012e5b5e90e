"""Shamir's secret sharing (Communications of the ACM 22, 1979) over a prime field; pure.

The field of 2^521 - 1, a Mersenne prime, holds a secret of 32 bytes. Fewer shares than the threshold are consistent
with every secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from federation.errors import WireError

PRIME = 2**521 - 1


def split(secret: int, threshold: int, holders: int) -> dict[int, int]:
    """The shares of a secret for holders 1 to `holders`, of which any `threshold` give it back; raises WireError."""
    if not 0 <= secret < PRIME or not 1 <= threshold <= holders:
        raise WireError(f"got threshold {threshold} of {holders} holders, expected 1 to as many as there are")
    polynomial = [secret, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {holder: value_at(polynomial, holder) for holder in range(1, holders + 1)}


def combine(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The secret behind shares by holder, at least as many as the threshold. Raises WireError for what is no share.

    With a wrong share among them the result is another number: the caller has to know the right one by its digest.
    """
    if not shares or not all(0 < holder < prime and 0 <= share < prime for holder, share in shares.items()):
        raise WireError("got a share outside its field, expected one of the field of 2^521 - 1")
    weights = _at_zero(tuple(shares), prime)
    return sum(share * weight for share, weight in zip(shares.values(), weights, strict=True)) % prime


def value_at(coefficients: Sequence[int], at: int, prime: int = PRIME) -> int:
    """A polynomial, its constant first, at a point of the field, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * at + coefficient) % prime
    return value


def _at_zero(points: tuple[int, ...], prime: int) -> list[int]:
    """Lagrange's weights of the values at some points for the value at zero."""
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % prime
                denominator = denominator * (other - point) % prime
        weights.append(numerator * pow(denominator, -1, prime) % prime)
    return weights
