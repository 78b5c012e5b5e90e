"""Hides what a silo's exact statistics would show of a few rows; pure.

A cell with rows, but fewer than the policy's minimum, is hidden. The number of rows in all gives away what hidden cells
hold together, so more are hidden, the smallest first, until the total leaves it open for each of them whether it holds
one row or the minimum; where that cannot be, the histogram is hidden. A column of few values is a table too: where one
of its values has too few rows, its mean and variance are hidden, as they would give the counts away. Two such columns
have no correlation shown, as it would give away in how many rows two values meet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from federation.statistics.summary import HIDDEN, Counts, Summary


@dataclass(frozen=True)
class Table:
    """How many different values a column has, counted up to one more than the minimum, and the rows of the rarest.

    `rarest` is 0 where there are more values than the minimum: then no value is looked at by itself.
    """

    values: int
    rarest: int


@dataclass(frozen=True)
class Shown:
    """What may be shown: the summary, the rows in its smallest cell (None without cells), how much was hidden."""

    summary: Summary
    smallest: int | None
    hidden_cells: int
    hidden_columns: int
    hidden_pairs: int


def conceal(summary: Summary, tables: tuple[Table, ...], minimum: int) -> Shown:
    """The summary without what rests on fewer than `minimum` rows; the smallest cell is looked for in what is left."""
    counts = tuple(None if one is None else hide_small(one, minimum) for one in summary.counts)
    few = np.array([table.values <= minimum for table in tables])
    small = np.array([table.values <= minimum and table.rarest < minimum for table in tables])
    gone = small[:, None] | small[None, :] | (few[:, None] & few[None, :] & ~np.eye(len(few), dtype=bool))
    pairs = gone & ~np.isnan(summary.scatter)
    shown = replace(
        summary,
        mean=np.where(small, np.nan, summary.mean),
        scatter=np.where(gone, np.nan, summary.scatter),
        counts=counts,
    )
    cells = [int(count) for one in counts if one is not None for count in one[one > 0]]
    told = ~np.isnan(summary.mean)
    rarest = np.array([table.rarest for table in tables])
    values = [int(rows) for rows in rarest[told & few & ~small]]
    hidden = sum(
        int((before > 0).sum()) if after is None else int((after == HIDDEN).sum())
        for before, after in zip(summary.counts, counts, strict=True)
        if before is not None
    )
    return Shown(
        shown,
        min(cells + values, default=None),
        hidden,
        int((small & told).sum()),
        int(np.triu(pairs, 1).sum()),
    )


def hide_small(counts: Counts, minimum: int) -> Counts | None:
    """A histogram's counts, HIDDEN where they are small or would give a small one away; None to show none of them."""
    hidden = (counts > 0) & (counts < minimum)
    if not hidden.any():
        return counts
    by_size = sorted(np.flatnonzero(counts >= minimum), key=lambda cell: (counts[cell], cell))
    while not _open(counts, hidden, minimum):
        if not by_size:
            return None
        hidden[by_size.pop(0)] = True
    return np.where(hidden, HIDDEN, counts)


def _open(counts: Counts, hidden: np.typing.NDArray[np.bool_], minimum: int) -> bool:
    """Whether any hidden cell could hold the minimum, by the hidden rows' total and one row in each of the others."""
    cells = int(hidden.sum())
    return cells >= 2 and int(counts[hidden].sum()) - (cells - 1) >= minimum
