"""Which cells, means and pairs of a silo's statistics are hidden, and that what is left does not give them away."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.statistics.summary import HIDDEN, Summary
from silo.gate.cells import Table, conceal, hide_small

MANY = Table(11, 0)
"""A column with more values than the minimum of 10."""


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([20, 30, 0], [20, 30, 0]),
        ([10, 10], [10, 10]),
        # One hidden cell would be the total less the rest: the smallest other cell is hidden with it.
        ([9, 20, 30], [HIDDEN, HIDDEN, 30]),
        ([1, 30, 20, 0], [HIDDEN, 30, HIDDEN, 0]),
        # Two of one row each are two in all, so each one: a third cell has to hide them.
        ([1, 1, 40, 50], [HIDDEN, HIDDEN, HIDDEN, 50]),
        # Ten of one row each are ten in all, so each one.
        ([1] * 10 + [40, 50], [HIDDEN] * 11 + [50]),
        ([5, 6, 40], [HIDDEN, HIDDEN, 40]),
        ([3, 0, 0], None),
        ([3, 4, 0], None),
    ],
)
def test_by_hand(counts: list[int], shown: list[int] | None) -> None:
    found = hide_small(np.array(counts), 10)
    assert (None if found is None else found.tolist()) == shown


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 15))
def test_no_small_cell_is_shown_and_the_total_leaves_each_hidden_one_open(counts: list[int], minimum: int) -> None:
    """Whoever knows the total and every shown cell finds each hidden cell possible at 1 and at the minimum or more."""
    cells = np.array(counts)
    found = hide_small(cells, minimum)
    if found is None:
        return
    assert not ((found > 0) & (found < minimum)).any()
    np.testing.assert_array_equal(found[found != HIDDEN], cells[found != HIDDEN])
    hidden = int((found == HIDDEN).sum())
    if hidden:
        left = int(cells.sum() - found[found != HIDDEN].sum())
        assert hidden >= 2
        assert left - (hidden - 1) >= minimum, "any of them could hold the minimum, and each of the others one row"


@pytest.mark.parametrize("minimum", [2, 3])
def test_against_every_way_the_hidden_cells_could_be_filled(minimum: int) -> None:
    """By enumeration: no hidden cell has the same number in every filling that fits what is shown."""
    for counts in product(range(5), repeat=4):
        found = hide_small(np.array(counts), minimum)
        if found is None or not (found == HIDDEN).any():
            continue
        total, places = sum(counts), np.flatnonzero(found == HIDDEN)
        left = total - int(found[found != HIDDEN].sum())
        fillings = [one for one in product(range(1, left + 1), repeat=len(places)) if sum(one) == left]
        for place in range(len(places)):
            assert len({one[place] for one in fillings}) > 1, (counts, found)


def test_means_of_tables_with_a_rare_value_and_pairs_of_tables_are_hidden() -> None:
    """Of 100 rows a 0/1 column with a mean of 0.04 has 4 ones; two such columns' product tells where both are 1."""
    scatter = np.full((4, 4), 2.0)
    whole = Summary(100, np.arange(4.0), scatter, ())
    tables = (MANY, Table(2, 4), Table(2, 40), Table(3, 12))
    shown = conceal(whole, tables, 10)
    assert np.isnan(shown.summary.mean).tolist() == [False, True, False, False]
    assert np.isnan(shown.summary.scatter).tolist() == [
        [False, True, False, False],
        [True, True, True, True],
        [False, True, False, True],
        [False, True, True, False],
    ]
    assert (shown.smallest, shown.hidden_columns, shown.hidden_pairs, shown.hidden_cells) == (12, 1, 4, 0)


def test_the_smallest_cell_shown_is_told_for_the_policy_to_decide_on() -> None:
    whole = Summary(100, np.zeros(1), np.ones((1, 1)), (np.array([0, 40, 9, 51, 0]),))
    shown = conceal(whole, (MANY,), 10)
    assert (shown.smallest, shown.hidden_cells) == (51, 2)
    bare = Summary(100, np.zeros(1), np.ones((1, 1)), ())
    assert conceal(bare, (MANY,), 10).smallest is None
