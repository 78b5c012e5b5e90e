"""Sufficient statistics of rows, and how those of two parts of the rows become those of both.

Means and sums of products of deviations are merged pairwise (Chan, Golub and LeVeque, 1979, equation 2.1), which
loses no digits where a mean is large beside its deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.statistics.document import Statistics

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
HIDDEN = -1
"""The count of a cell that is not shown."""


@dataclass(frozen=True)
class Layout:
    """What a summary holds: its columns, the edges of each column's bins (none without histograms), its kinds."""

    names: tuple[str, ...]
    edges: tuple[Floats, ...]
    kinds: frozenset[str]

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.names)

    @property
    def paired(self) -> bool:
        """Whether pairs of columns are summarised."""
        return "correlation" in self.kinds

    @property
    def cells(self) -> tuple[int, ...]:
        """The cells of each column's histogram: its bins, and one on either side for values beyond the range."""
        return tuple(len(edges) + 1 for edges in self.edges)


def layout_of(asked: Statistics) -> Layout:
    """The layout of what a run asks for."""
    edges: list[Floats] = []
    if "histogram" in asked.statistics:
        for column in asked.columns.values():
            assert column.range is not None  # noqa: S101  the document's own check
            edges.append(np.linspace(*column.range, (column.bins or asked.bins) + 1))
    return Layout(asked.names, tuple(edges), frozenset(asked.statistics))


def ranges_of(asked: Statistics) -> tuple[Floats, Floats]:
    """The lower and upper ends of the columns' ranges, (columns,) each; infinite where none is declared."""
    ranges = [column.range or (-np.inf, np.inf) for column in asked.columns.values()]
    low, high = np.array(ranges, dtype=np.float64).T
    return low, high


@dataclass(frozen=True)
class Summary:
    """Statistics of `rows` rows: means (columns,), sums of products of deviations (columns, columns), counts of cells.

    A number that is not shown is NaN, a count HIDDEN, a histogram of which nothing is shown None. Off the diagonal the
    sums are NaN where pairs were not asked for.
    """

    rows: int
    mean: Floats
    scatter: Floats
    counts: tuple[Counts | None, ...]


def cells_of(values: Floats, edges: Floats) -> npt.NDArray[np.intp]:
    """The cell of each value: 0 below the range, then a bin each, the last bin closed, then one above the range."""
    found = np.searchsorted(edges, values, side="right")
    found[values == edges[-1]] = len(edges) - 1
    return found


class Tally:
    """Summarises rows that come in parts."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows = 0
        self._mean = np.zeros(layout.width)
        self._scatter = np.zeros((layout.width, layout.width))
        self._counts = [np.zeros(cells, dtype=np.int64) for cells in layout.cells]

    def add(self, values: Floats) -> None:
        """Take in rows, (rows, columns), all of them finite."""
        rows = len(values)
        if not rows:
            return
        mean = values.mean(axis=0)
        deviations = values - mean
        if self._layout.paired:
            scatter = deviations.T @ deviations
        else:
            scatter = np.diag(np.einsum("ij,ij->j", deviations, deviations))
        total, apart = self._rows + rows, mean - self._mean
        self._scatter += scatter + np.outer(apart, apart) * (self._rows * rows / total)
        self._mean += apart * (rows / total)
        self._rows = total
        for column, edges in enumerate(self._layout.edges):
            cells = cells_of(values[:, column], edges)
            self._counts[column] += np.bincount(cells, minlength=len(edges) + 1)

    def summary(self) -> Summary:
        """The rows so far; raises ValueError where there are none."""
        if not self._rows:
            raise ValueError("got no rows, expected at least one")
        scatter = self._scatter.copy()
        if not self._layout.paired:
            scatter[~np.eye(len(scatter), dtype=bool)] = np.nan
        return Summary(self._rows, self._mean.copy(), scatter, tuple(counts.copy() for counts in self._counts))


@dataclass(frozen=True)
class Moments:
    """For each pair of columns, over the silos that show it: rows, means and sums of products of deviations.

    All are (columns, columns). `mean[i, j]` and `square[i, j]` are of column i over the rows of the pair; on the
    diagonal stands a column by itself.
    """

    rows: Floats
    mean: Floats
    square: Floats
    product: Floats


def moments_of(summary: Summary) -> Moments:
    """One silo's part; a pair that it does not show has no rows."""
    width = len(summary.mean)
    shown = ~np.isnan(summary.scatter)
    own = np.diag(summary.scatter)

    def over(values: Floats) -> Floats:
        found: Floats = np.where(shown, np.broadcast_to(values[:, None], (width, width)), 0.0)
        return found

    product = np.where(shown, summary.scatter, 0.0)
    return Moments(np.where(shown, float(summary.rows), 0.0), over(summary.mean), over(own), product)


def merged(one: Moments, two: Moments) -> Moments:
    """Both parts together, up to rounding the same whichever comes first."""
    rows = one.rows + two.rows
    safe = np.where(rows > 0, rows, 1.0)
    # A part without rows has zeros in it, which are no mean: then it counts for nothing, as its share is zero.
    apart = two.mean - one.mean
    share = one.rows * two.rows / safe
    mean = np.where(one.rows > 0, one.mean + apart * (two.rows / safe), two.mean)
    return Moments(
        rows,
        mean,
        one.square + two.square + apart * apart * share,
        one.product + two.product + apart * apart.T * share,
    )


def to_fields(summary: Summary, layout: Layout) -> dict[str, Any]:
    """A summary as JSON holds it; what is hidden is null."""
    fields: dict[str, Any] = {"rows": summary.rows}
    if "mean" in layout.kinds:
        fields["mean"] = _numbers(summary.mean)
    if "variance" in layout.kinds:
        fields["square"] = _numbers(np.diag(summary.scatter))
    if layout.paired:
        fields["product"] = _numbers(summary.scatter[np.triu_indices(layout.width, 1)])
    if layout.edges:
        fields["counts"] = [None if one is None else _cells(one) for one in summary.counts]
    return fields


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _cells(counts: Counts) -> list[int | None]:
    return [None if count == HIDDEN else int(count) for count in counts]
