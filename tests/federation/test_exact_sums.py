"""Sums over silos as integers: what they come to is what the rows together have, at every size of the values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import WireError
from federation.limits import LIMITS
from federation.statistics.exact_sums import decoded, encoded, values_of
from federation.statistics.normalization import Normalization, normalization_layout
from federation.statistics.summary import Summary, Tally

LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLES = st.lists(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=8), min_size=1, max_size=5)


def summary(rows: object) -> Summary:
    tally = Tally(normalization_layout(("age", "sex")))
    tally.add(np.array(rows, dtype=np.float32).astype(np.float64))
    return tally.summary()


def of(rows: int, mean: float, square: float) -> Summary:
    return Summary(rows, np.array([mean]), np.array([[square]]), ())


def total(parts: list[Summary]) -> np.typing.NDArray[np.uint32]:
    found = np.zeros(values_of(len(parts[0].mean)), dtype=np.uint32)
    for part in parts:
        found += encoded(part)
    return found


@given(TABLES)
def test_the_sum_of_silos_is_what_their_rows_have_together(silos: list[list[tuple[float, float]]]) -> None:
    rows = [row for silo in silos for row in silo]
    found = decoded(total([summary(silo) for silo in silos]), 2)
    assert found.rows == len(rows)
    for index, column in enumerate(zip(*rows, strict=True)):
        exact = [Fraction(value) for value in column]
        mean = sum(exact, Fraction(0)) / len(exact)
        variance = float(sum((value - mean) ** 2 for value in exact) / len(exact))
        size = max(abs(value) for value in column)
        # What is lost is lost where a silo adds up its rows in float64, and nothing after that.
        assert found.mean[index] == pytest.approx(float(mean), abs=1e-14 * size)
        assert found.variance[index] == pytest.approx(variance, rel=1e-12, abs=1e-14 * size * size)


@given(TABLES, st.randoms(use_true_random=False))
def test_it_is_the_same_bits_in_whatever_order(silos: list[list[tuple[float, float]]], chance: object) -> None:
    parts = [summary(silo) for silo in silos]
    mixed = sorted(parts, key=lambda _: chance.random())  # type: ignore[attr-defined]
    assert decoded(total(parts), 2).mean.tobytes() == decoded(total(mixed), 2).mean.tobytes()
    assert total(parts).tobytes() == total(mixed).tobytes()


def test_ages_by_hand() -> None:
    """Ages 1 2 3 | 5 9: mean 4, variance 40 / 5 = 8. The second feature does not vary."""
    parts = [summary([[1, 7], [2, 7], [3, 7]]), summary([[5, 7], [9, 7]])]
    by, plain = Normalization.of_sum(decoded(total(parts), 2)), Normalization.of(parts)
    assert (by.mean.tolist(), by.scale.tolist()) == ([4, 0], [np.sqrt(8), 1])
    np.testing.assert_allclose(plain.mean, by.mean)
    np.testing.assert_allclose(plain.scale, by.scale)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_limb_wraps_around_with_as_many_silos_and_rows_as_there_can_be(sign: float) -> None:
    one = of(LIMITS.examples, sign * LARGEST, 0.0)
    limbs = encoded(one).view(np.int32).astype(np.int64)
    assert np.abs(limbs).max() < 2**16
    found = decoded((encoded(one).astype(np.uint64) * LIMITS.members).astype(np.uint32), 1)
    assert found.rows == LIMITS.examples * LIMITS.members
    assert (found.mean[0], found.variance[0]) == (sign * LARGEST, 0.0)


def test_a_deviation_that_is_small_beside_its_mean_is_kept() -> None:
    """At a mean of 10^8 squares of float64 know nothing below one."""
    found = decoded(total([of(100, 1e8 + 0.25, 6.25), of(100, 1e8 - 0.25, 6.25)]), 1)
    assert found.mean[0] == 1e8
    assert found.variance[0] == pytest.approx(0.0625 + 0.0625)


def test_a_feature_that_does_not_vary_but_for_rounding_is_left_as_it_is() -> None:
    """A tenth, added up in different numbers of rows, has means that differ in the last bit."""
    parts = [summary(np.full((rows, 2), 0.1)) for rows in (3, 7, 1000, 4097)]
    for by in (Normalization.of_sum(decoded(total(parts), 2)), Normalization.of(parts)):
        assert (by.mean.tolist(), by.scale.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize(
    "what",
    [
        of(0, 0.0, 0.0),
        of(LIMITS.examples + 1, 0.0, 0.0),
        of(5, np.nan, 0.0),
        of(5, 0.0, np.nan),
        of(5, 1e39, 0.0),
        of(5, np.inf, 0.0),
        of(5, 0.0, -1.0),
        of(5, 0.0, 1e80),
    ],
)
def test_what_no_rows_can_have_is_not_encoded(what: Summary) -> None:
    with pytest.raises(WireError):
        encoded(what)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=values_of(1), max_size=values_of(1)))
def test_a_sum_that_a_silo_made_up_is_one_clear_error_or_a_number(values: list[int]) -> None:
    try:
        found = decoded(np.array(values, dtype=np.uint32), 1)
    except WireError:
        return
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.variance).all()
    assert (found.variance >= 0).all()


def test_a_sum_of_another_size_is_refused() -> None:
    with pytest.raises(WireError, match="expected 118"):
        decoded(np.zeros(60, dtype=np.uint32), 2)
    with pytest.raises(WireError, match="got a sum over 0 rows"):
        decoded(np.zeros(118, dtype=np.uint32), 2)
