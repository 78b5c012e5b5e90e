"""Norm, finiteness and clipping of updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from silo.gate.updates import _BLOCK as BLOCK
from silo.gate.updates import clip_update, is_finite, update_norm


def _vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_norm_of_a_hand_computed_update() -> None:
    assert update_norm(_vector(3, 0, 5, 1), _vector(0, 4, 5, 1)) == 5.0
    assert update_norm(_vector(1, 1), _vector(1, 1)) == 0.0


def test_the_norm_goes_over_every_block() -> None:
    before = np.zeros(2 * BLOCK + 3, dtype=np.float32)
    after = before.copy()
    after[[0, BLOCK - 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 2]] = [2, 4, 4, 6, 3]
    assert update_norm(after, before) == 9.0


def test_the_sum_of_many_small_squares_is_not_lost_in_float32() -> None:
    # In float32 a running sum of 2**-24 would stop growing at 1.
    size = 2**22
    after = np.full(size, 2.0**-10, dtype=np.float32)
    assert update_norm(after, np.zeros(size, dtype=np.float32)) == math.sqrt(size * 2.0**-20)


@pytest.mark.parametrize("where", [0, BLOCK - 1, BLOCK, BLOCK + 6])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_wild_value_anywhere_is_found(where: int, value: float) -> None:
    weights = np.zeros(BLOCK + 7, dtype=np.float32)
    assert is_finite(weights)
    weights[where] = value
    assert not is_finite(weights)
    assert not math.isfinite(update_norm(weights, np.zeros_like(weights)))
    assert not math.isfinite(update_norm(np.zeros_like(weights), weights))


@pytest.mark.filterwarnings("ignore:overflow")
def test_values_whose_squares_float32_cannot_hold_are_finite() -> None:
    large = np.full(BLOCK + 7, 3e38, dtype=np.float32)
    large[::2] *= -1
    assert is_finite(large)
    large[BLOCK + 3] = math.nan
    assert not is_finite(large)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_infinity_minus_infinity_is_no_norm() -> None:
    assert math.isnan(update_norm(_vector(math.inf, 1), _vector(math.inf, 1)))


@given(
    arrays(np.float32, st.shared(st.integers(1, 40), key="n"), elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, st.shared(st.integers(1, 40), key="n"), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-4, 1e7),
)
@settings(deadline=None, max_examples=200)
def test_a_clipped_update_is_within_the_bound(before: np.ndarray, after: np.ndarray, bound: float) -> None:
    norm = update_norm(after, before)
    if norm <= bound:
        return
    kept = after.copy(), before.copy()
    clipped = clip_update(after, before, norm, bound)
    assert update_norm(clipped, before) <= bound
    assert clipped.dtype == np.float32
    assert np.array_equal(after, kept[0])
    assert np.array_equal(before, kept[1])


@given(arrays(np.float32, 30, elements=st.floats(-100, 100, width=32)), st.floats(0.01, 0.9))
@settings(deadline=None)
def test_a_clipped_update_points_where_it_pointed(update: np.ndarray, share: float) -> None:
    before = np.zeros_like(update)
    norm = update_norm(update, before)
    if norm < 1e-3:
        return
    clipped = clip_update(update, before, norm, norm * share)
    np.testing.assert_allclose(clipped, update * share, rtol=1e-5, atol=1e-7 * norm)


@pytest.mark.parametrize(("weight", "step", "bound"), [(1e8, 104.0, 5.0), (1e8, 104.0, 3.0), (1.0, 1.0, 1e-9)])
def test_clipping_ends_where_float32_cannot_hold_so_small_a_step(weight: float, step: float, bound: float) -> None:
    """At 1e8 float32 has steps of 8: rounding lifts an update of 5 above its bound, whatever hair is taken off."""
    before = np.full(1_000_000, weight, dtype=np.float32)  # a hair at a time, this many would take an hour
    after = before.copy()
    after[0] += np.float32(step)
    clipped = clip_update(after, before, update_norm(after, before), bound)
    assert update_norm(clipped, before) <= bound


def test_clipping_keeps_nearly_all_that_the_bound_allows() -> None:
    generator = np.random.default_rng(5)
    before = generator.normal(size=100_000).astype(np.float32)
    after = before + generator.normal(size=before.size).astype(np.float32)
    clipped = clip_update(after, before, update_norm(after, before), 1.0)
    assert 0.999 < update_norm(clipped, before) <= 1.0
