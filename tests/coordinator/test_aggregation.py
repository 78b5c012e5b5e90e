from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import LARGEST_VALUE, Contribution, RunningMean
from federation.errors import WireError
from federation.wire import Weights

Parts = list[tuple[Weights, int]]


def floats(*values: float) -> Weights:
    return np.array(values, dtype=np.float32)


def mean_of(parts: Parts, planned: int | None = None) -> Weights:
    mean = RunningMean(parts[0][0].size, planned or sum(examples for _, examples in parts))
    for number, (weights, examples) in enumerate(parts):
        mean.fold(f"silo-{number}", weights, examples)
    return mean.result()


VALUE = st.floats(-LARGEST_VALUE, LARGEST_VALUE, width=32)
VALUES = st.one_of(VALUE, st.sampled_from([0.0, -0.0, LARGEST_VALUE, -LARGEST_VALUE, 1e-45, 1e-38, 1 / 3, 4095.9998]))


@st.composite
def parts(draw: st.DrawFn, largest_examples: int = 10**6) -> Parts:
    size = draw(st.integers(1, 6))
    vectors = st.lists(VALUES, min_size=size, max_size=size).map(lambda values: floats(*values))
    return draw(st.lists(st.tuples(vectors, st.integers(1, largest_examples)), min_size=1, max_size=5))


# -- what it computes


def test_a_mean_computed_by_hand():
    """(1*10 + 4*30 + 2*60) / 100 = 2.5; (-2*10 + 0*30 + 1*60) / 100 = 0.4."""
    mean = RunningMean(2, 100)
    mean.fold("b", floats(4, 0), 30)
    mean.fold("a", floats(1, -2), 10)
    mean.fold("c", floats(2, 1), 60)
    result = mean.result()
    assert result.dtype == np.float32
    assert result.tolist() == [2.5, np.float32(0.4)]
    assert mean.examples == 100
    assert mean.contributions == (Contribution("a", 10), Contribution("b", 30), Contribution("c", 60))


def test_who_is_absent_does_not_count():
    """Planned were 100 examples; 40 answered: (1*10 + 4*30) / 40 = 3.25."""
    mean = RunningMean(1, 100)
    mean.fold("a", floats(1), 10)
    mean.fold("b", floats(4), 30)
    assert mean.result().tolist() == [3.25]


def test_the_mean_of_one_silo_is_what_it_sent():
    weights = floats(0.1, -1 / 3, 4096, -4096, 0, 1e-3)
    assert mean_of([(weights, 7)]).tolist() == pytest.approx(weights.tolist(), rel=1e-7, abs=1e-11)


@settings(max_examples=300)
@given(parts(), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_one_bit(given_parts: Parts, absent: int, random: Any):
    planned = sum(examples for _, examples in given_parts) + absent
    expected = mean_of(given_parts, planned).tobytes()
    shuffled = list(given_parts)
    random.shuffle(shuffled)
    assert mean_of(shuffled, planned).tobytes() == expected
    assert mean_of(given_parts[::-1], planned).tobytes() == expected


def scattered(given_parts: Parts, planned: int) -> set[bytes]:
    """The means of plain float64 sums in every order, each as float32."""
    orders = itertools.permutations(given_parts)
    return {np.float32(sum(float(w[0]) * n / planned for w, n in order)).tobytes() for order in orders}


@pytest.mark.parametrize("small", [1e-7, 1 / 3e6, -2e-9])
def test_every_order_gives_the_bits_that_plain_summation_would_not(small: float):
    """Large values that cancel leave what is small beside them; in float64 how much of it depends on the order."""
    given_parts = [(floats(4096), 3), (floats(-4096), 3), (floats(small), 1), (floats(small * 1.1), 3)]
    assert len(scattered(given_parts, 10)) > 1
    assert len({mean_of(list(order)).tobytes() for order in itertools.permutations(given_parts)}) == 1


@settings(max_examples=150)
@given(parts(), VALUES.map(lambda value: value * 1e-9), st.randoms(use_true_random=False))
def test_cancellation_does_not_bring_the_order_back(given_parts: Parts, small: float, random: Any):
    opposite = [(-weights, examples) for weights, examples in given_parts]
    rest = [(np.full_like(given_parts[0][0], small), 1), (np.full_like(given_parts[0][0], small / 3), 7)]
    every = [*given_parts, *opposite, *rest]
    expected = mean_of(every).tobytes()
    for _ in range(4):
        random.shuffle(every)
        assert mean_of(every).tobytes() == expected


@settings(max_examples=300)
@given(parts())
def test_it_agrees_with_the_mean_in_float64(given_parts: Parts):
    total = sum(examples for _, examples in given_parts)
    exact = [
        math.fsum(float(weights[index]) * examples for weights, examples in given_parts) / total
        for index in range(given_parts[0][0].size)
    ]
    np.testing.assert_allclose(mean_of(given_parts), exact, rtol=1e-6, atol=1e-9)


@settings(max_examples=100)
@given(parts(largest_examples=5000))
def test_it_agrees_with_flowers_own_aggregation(given_parts: Parts):
    (theirs,) = aggregate([([weights.astype(np.float64)], examples) for weights, examples in given_parts])
    np.testing.assert_allclose(mean_of(given_parts), theirs, rtol=1e-6, atol=1e-9)


def test_it_agrees_with_flowers_own_aggregation_of_a_model():
    chance = np.random.default_rng(5)
    models = [(chance.normal(size=50_000).astype(np.float32), examples) for examples in (211, 94, 120, 1)]
    (theirs,) = aggregate([([weights], examples) for weights, examples in models])
    np.testing.assert_allclose(mean_of(models), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [65535, 65537, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 20) - 1, (1 << 20) + 3])
def test_every_value_is_folded_whatever_the_size(size: int):
    first = (np.arange(size, dtype=np.float32) % 4001) - 2000
    second = -first
    second[-1] += 1
    result = mean_of([(first, 1), (second, 1)])
    assert np.count_nonzero(result) == 1
    assert result[-1] == 0.5


def test_folding_changes_nothing_of_the_silos_weights_and_a_mean_is_taken_once():
    weights = floats(1, 2, 3)
    mean = RunningMean(3, 10)
    mean.fold("a", weights, 5)
    first = mean.result()
    assert first.tolist() == [1, 2, 3]
    first[:] = 9
    assert weights.tolist() == [1, 2, 3]
    with pytest.raises(WireError, match="no updates"):
        mean.result()
    with pytest.raises(WireError, match="expected float32"):
        mean.fold("b", floats(3, 4, 5), 5)


@pytest.mark.parametrize("size", [1, 2, 3, (1 << 17) + 1, 1 << 20, (1 << 20) + 1, (1 << 20) + (1 << 17) + 5])
def test_the_mean_takes_the_place_of_the_sum(size: int):
    """Of odd and even sizes, of one block and of many, by one thread and by two."""
    generator = np.random.default_rng(size)
    vectors = [generator.normal(size=size).astype(np.float32) for _ in range(2)]
    expected = (vectors[0].astype(np.float64) + 3 * vectors[1].astype(np.float64)) / 4
    found = mean_of([(vectors[0], 1), (vectors[1], 3)])
    assert (found.shape, found.dtype) == ((size,), np.float32)
    assert np.abs(found - expected).max() < 1e-6


# -- what it refuses

BEYOND = float(np.nextafter(np.float32(LARGEST_VALUE), np.float32(np.inf)))

REFUSED: dict[str, tuple[str, Any, int]] = {
    "shorter": ("b", floats(1), 1),
    "longer": ("b", floats(1, 2, 3), 1),
    "shaped": ("b", floats(1, 2).reshape(1, 2), 1),
    "float64": ("b", np.array([1.0, 2.0]), 1),
    "float16": ("b", np.array([1.0, 2.0], dtype=np.float16), 1),
    "int32": ("b", np.array([1, 2], dtype=np.int32), 1),
    "byte order": ("b", np.array([1, 2], dtype=">f4"), 1),
    "nan": ("b", floats(1, math.nan), 1),
    "nan first": ("b", floats(math.nan, 1), 1),
    "inf": ("b", floats(1, math.inf), 1),
    "-inf": ("b", floats(-math.inf, 1), 1),
    "large": ("b", floats(BEYOND, 1), 1),
    "-large": ("b", floats(1, -BEYOND), 1),
    "second": ("a", floats(1, 2), 1),
    "no examples": ("b", floats(1, 2), 0),
    "negative": ("b", floats(1, 2), -1),
    "too many": ("b", floats(1, 2), 7),
    "far too many": ("b", floats(1, 2), 2**62),
}


@pytest.mark.parametrize(("silo", "weights", "examples"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_leaves_the_sum_as_it_was(silo: str, weights: Any, examples: int):
    mean = RunningMean(2, 10)
    mean.fold("a", floats(0.1, -0.2), 4)
    with pytest.raises(WireError, match=f"^{silo} "):
        mean.fold(silo, weights, examples)
    assert (mean.contributions, mean.examples) == ((Contribution("a", 4),), 4)
    mean.fold("b", floats(0.4, 0.2), 6)
    assert mean.result().tobytes() == mean_of([(floats(0.1, -0.2), 4), (floats(0.4, 0.2), 6)]).tobytes()


@pytest.mark.parametrize("place", [0, 1 << 18, (1 << 19) - 1, 1 << 19, -1])
@pytest.mark.parametrize("value", [BEYOND, -BEYOND, math.nan, -math.inf])
def test_a_value_that_shows_late_leaves_nothing_of_what_was_added_before_it(place: int, value: float):
    """A large update is checked while it is folded, by two threads."""
    size = (1 << 20) + 3
    mean = RunningMean(size, 3)
    tenths = np.full(size, 0.1, dtype=np.float32)
    mean.fold("a", tenths, 1)
    weights = (np.arange(size, dtype=np.float32) % 4001) - 2000
    weights[place] = value
    with pytest.raises(WireError, match=r"^b sent a weight of magnitude "):
        mean.fold("b", weights, 2)
    assert mean.examples == 1
    assert mean.result().tobytes() == mean_of([(tenths, 1)], planned=3).tobytes()


def test_the_largest_values_are_folded():
    for value in (LARGEST_VALUE, -LARGEST_VALUE):
        assert mean_of([(floats(value), 1)] * 7).tolist() == [value]


@pytest.mark.parametrize(("size", "planned"), [(0, 1), (1, 0), (1, -5), (-1, 1)])
def test_a_mean_of_nothing_is_refused(size: int, planned: int):
    with pytest.raises(WireError):
        RunningMean(size, planned)


def test_a_mean_of_nobody_is_refused():
    with pytest.raises(WireError, match="no updates"):
        RunningMean(3, 10).result()
