"""Noise on a silo's statistics: how much one row can move them, and that the sums are those of the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.statistics.document import Statistics, load_statistics
from federation.statistics.reading import Noisy, read_noisy
from federation.statistics.summary import Summary, Tally, layout_of
from silo.gate.noise import from_the_system, noisy, sensitivity

TEXT = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {range: [0, 10]}, chol: {range: [-100, 300]}, sex: {range: [0, 1], bins: 2}}
statistics: [STATISTICS]
privacy: {mode: example_dp, epsilon: 1.0, delta: 1.0e-5}
"""
KINDS = ("mean", "mean, variance", "mean, variance, histogram", "mean, variance, histogram, correlation", "histogram")


def asked(kinds: str) -> Statistics:
    return load_statistics(TEXT.replace("STATISTICS", kinds)).model


def silent(count: int) -> np.ndarray:
    return np.zeros(count)


def vector(rows: np.ndarray, of: Statistics) -> np.ndarray:
    """Everything that is sent of some rows, without noise."""
    layout = layout_of(of)
    tally = Tally(layout)
    tally.add(rows)
    sums: Noisy = noisy(tally.summary(), of, layout, 1.0, silent)
    parts = [[sums.rows]]
    parts += [sums.sums] if "mean" in layout.kinds else []
    parts += [sums.squares] if "variance" in layout.kinds else []
    parts += [sums.products] if layout.paired else []
    return np.concatenate([*parts, *sums.counts])


row = st.tuples(st.floats(0, 10), st.floats(-100, 300), st.floats(0, 1))


@settings(max_examples=80, deadline=None)
@given(st.lists(row, min_size=1, max_size=10), row, st.sampled_from(KINDS))
def test_one_row_more_moves_what_is_sent_by_no_more_than_the_sensitivity(rows: list, one: tuple, kinds: str) -> None:
    of = asked(kinds)
    apart = vector(np.array([*rows, one]), of) - vector(np.array(rows), of)
    assert np.linalg.norm(apart) <= sensitivity(layout_of(of)) * (1 + 1e-9) + 1e-6


@pytest.mark.parametrize("kinds", KINDS)
def test_some_row_moves_it_by_all_of_it(kinds: str) -> None:
    """Else more noise would be added than is accounted for, and the bound would show nothing."""
    of = asked(kinds)
    rows = np.array([[5.0, 0.0, 0.5]])
    apart = vector(np.vstack([rows, [[10.0, 300.0, 1.0]]]), of) - vector(rows, of)
    assert np.linalg.norm(apart) == pytest.approx(sensitivity(layout_of(of)), rel=1e-9)


def test_the_noise_has_the_deviation_that_is_told_and_nothing_goes_without() -> None:
    of = asked(KINDS[3])
    layout = layout_of(of)
    # 1 + 3 + 3 + 3 pairs + 3 histograms
    assert sensitivity(layout) == pytest.approx(math.sqrt(13))
    tally = Tally(layout)
    tally.add(np.array([[5.0, 100.0, 0.5]] * 4))
    plain, drawn = noisy(tally.summary(), of, layout, 2.0, silent), noisy(tally.summary(), of, layout, 2.0, np.ones)
    deviation = 2 * math.sqrt(13)
    assert drawn.deviation == pytest.approx(deviation)
    for one, two in [
        (plain.rows, drawn.rows),
        (plain.sums, drawn.sums),
        (plain.squares, drawn.squares),
        (plain.products, drawn.products),
        *zip(plain.counts, drawn.counts, strict=True),
    ]:
        np.testing.assert_allclose(np.asarray(two) - one, deviation)
    assert plain.rows == 4
    np.testing.assert_allclose(plain.sums, 0, atol=1e-12)


def test_noise_from_the_system_is_normal_and_differs_each_time() -> None:
    first, second = from_the_system(4000), from_the_system(4000)
    assert not np.array_equal(first, second)
    # Six standard errors of a mean and a deviation of 4000 draws.
    assert abs(first.mean()) < 6 / math.sqrt(4000)
    assert abs(first.std() - 1) < 6 / math.sqrt(8000)


def test_what_is_sent_can_be_read() -> None:
    of = asked(KINDS[3])
    layout = layout_of(of)
    import json

    tally = Tally(layout)
    tally.add(np.array([[5.0, 100.0, 0.5]]))
    sent = noisy(tally.summary(), of, layout, 1.0)
    read = read_noisy(json.dumps(sent.fields(layout)), layout)
    assert read.rows == sent.rows
    np.testing.assert_array_equal(read.products, sent.products)
    assert isinstance(tally.summary(), Summary)
