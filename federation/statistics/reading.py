"""Reads what a silo sends of its statistics, which is not trusted: sizes, kinds and numbers that can be."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.errors import WireError
from federation.limits import LIMITS
from federation.statistics.summary import HIDDEN, Counts, Floats, Layout, Summary

_ROUNDING = 1e-6
_LARGEST = 1e120
"""Beyond it the square of a number, times any count of rows squared, may be no number any more."""


LARGEST_NOISY = 1e12
"""Values are scaled to -1 to 1, so a sum is no larger than its rows; the rest is room for noise, and for many silos."""


@dataclass(frozen=True)
class Noisy:
    """Sums over rows with noise of one deviation, values scaled from their range to -1 to 1.

    `rows` and counts are no whole numbers and may be below zero; `products` are those of the pairs above the diagonal.
    """

    rows: float
    sums: Floats
    squares: Floats
    products: Floats
    counts: tuple[Floats, ...]
    deviation: float

    def plus(self, other: Noisy) -> Noisy:
        """Both together."""
        counts = tuple(one + two for one, two in zip(self.counts, other.counts, strict=True))
        return Noisy(
            self.rows + other.rows,
            self.sums + other.sums,
            self.squares + other.squares,
            self.products + other.products,
            counts,
            math.hypot(self.deviation, other.deviation),
        )

    def fields(self, layout: Layout) -> dict[str, Any]:
        """The form in which it travels."""
        fields: dict[str, Any] = {"rows": self.rows, "deviation": self.deviation}
        if "mean" in layout.kinds:
            fields["sums"] = self.sums.tolist()
        if "variance" in layout.kinds:
            fields["squares"] = self.squares.tolist()
        if layout.paired:
            fields["products"] = self.products.tolist()
        if layout.edges:
            fields["counts"] = [counts.tolist() for counts in self.counts]
        return fields


def read_summary(text: str, layout: Layout) -> Summary:
    """A silo's exact summary; raises WireError for one that cannot be of any rows."""
    fields = _fields(text, _named(layout, ("mean", "mean"), ("square", "variance"), ("product", "correlation")))
    rows = fields["rows"]
    if type(rows) is not int or not 1 <= rows <= LIMITS.examples:
        raise WireError(f"got statistics of {rows!s:.20} rows, expected 1 to {LIMITS.examples}")
    width = layout.width
    mean = _numbers(fields.get("mean"), width, "means") if "mean" in layout.kinds else np.full(width, np.nan)
    scatter = np.full((width, width), np.nan)
    if "variance" in layout.kinds:
        own = _numbers(fields.get("square"), width, "sums of squares")
        if (own < 0).any():
            raise WireError("got a sum of squares below zero")
        if (np.isnan(own) != np.isnan(mean)).any():
            raise WireError("got a mean without its sum of squares, or one without its mean")
        np.fill_diagonal(scatter, own)
    elif "mean" in layout.kinds:
        np.fill_diagonal(scatter, np.where(np.isnan(mean), np.nan, 0.0))
    if layout.paired:
        _pairs(fields.get("product"), scatter)
    counts = _histograms(fields.get("counts"), layout, rows)
    return Summary(rows, mean, scatter, counts)


def read_noisy(text: str, layout: Layout) -> Noisy:
    """A silo's noisy sums; raises WireError for any other form."""
    names = _named(layout, ("sums", "mean"), ("squares", "variance"), ("products", "correlation"))
    fields = _fields(text, names | {"deviation"})
    pairs, width = layout.width * (layout.width - 1) // 2, layout.width

    def whole(name: str, size: int, kind: str) -> Floats:
        if kind not in layout.kinds:
            return np.zeros(size)
        return _noisy(fields.get(name), size, name)

    rows, deviation = (_noisy([fields[name]], 1, name)[0] for name in ("rows", "deviation"))
    if not deviation > 0:
        raise WireError("got noisy statistics without noise")
    given = fields.get("counts") if layout.edges else []
    if not isinstance(given, list) or len(given) != len(layout.cells):
        raise WireError(f"got no list of {len(layout.cells)} histograms")
    counts = tuple(_noisy(one, cells, "counts") for one, cells in zip(given, layout.cells, strict=True))
    sums, squares = whole("sums", width, "mean"), whole("squares", width, "variance")
    return Noisy(float(rows), sums, squares, whole("products", pairs, "correlation"), counts, float(deviation))


def _named(layout: Layout, *kinds: tuple[str, str]) -> set[str]:
    """The fields that a summary of this layout has."""
    found = {"rows", *(name for name, kind in kinds if kind in layout.kinds)}
    return found | {"counts"} if layout.edges else found


def _fields(text: str, names: set[str]) -> dict[str, Any]:
    if len(text) > LIMITS.statistics:
        raise WireError(f"got statistics of {len(text)} characters, expected at most {LIMITS.statistics}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != names:
        raise WireError(f"got statistics that are no JSON object of {', '.join(sorted(names))}")
    return found


def _numbers(given: object, size: int, what: str, largest: float = _LARGEST) -> Floats:
    """Finite numbers, NaN where null stands."""
    if not isinstance(given, list) or len(given) != size:
        found = f"{len(given)} {what}" if isinstance(given, list) else f"no list of {what}"
        raise WireError(f"got {found}, expected {size}")
    for value in given:
        if value is not None and (type(value) not in {int, float} or not abs(value) <= largest):
            raise WireError(f"got {value!s:.20} among {what}, expected a number up to {largest:g}")
    return np.array([np.nan if value is None else float(value) for value in given])


def _noisy(given: object, size: int, what: str) -> Floats:
    """Sums with noise, each of them told."""
    found = _numbers(given, size, what, LARGEST_NOISY)
    if np.isnan(found).any():
        raise WireError(f"got {what} that are hidden, expected noisy ones")
    return found


def _pairs(given: object, scatter: Floats) -> None:
    width = len(scatter)
    above = np.triu_indices(width, 1)
    found = _numbers(given, len(above[0]), "sums of products")
    own = np.diag(scatter)
    largest = np.sqrt(own[above[0]] * own[above[1]])
    if (np.isnan(largest) & ~np.isnan(found)).any():
        raise WireError("got a sum of products of a column that is hidden")
    if (np.abs(found) > largest * (1 + _ROUNDING) + _ROUNDING).any():
        raise WireError("got a correlation beyond one")
    scatter[above] = found
    scatter.T[above] = found


def _histograms(given: object, layout: Layout, rows: int) -> tuple[Counts | None, ...]:
    if not layout.edges:
        return ()
    if not isinstance(given, list) or len(given) != layout.width:
        raise WireError(f"got no list of {layout.width} histograms")
    return tuple(
        None if one is None else _histogram(one, cells, name, rows)
        for one, cells, name in zip(given, layout.cells, layout.names, strict=True)
    )


def _histogram(given: object, cells: int, name: str, rows: int) -> Counts:
    if not isinstance(given, list) or len(given) != cells:
        raise WireError(f"got a histogram of {name} without its {cells} cells")
    if not all(count is None or (type(count) is int and 0 <= count <= rows) for count in given):
        raise WireError(f"got a count of {name} that is no whole number from 0 to {rows}, the rows that were announced")
    shown, hidden = sum(count for count in given if count is not None), sum(count is None for count in given)
    # A cell that holds nobody is shown: each that is hidden holds at least one row.
    if shown + hidden > rows or (not hidden and shown != rows):
        raise WireError(f"got {shown} rows in the histogram of {name}, expected those of {rows} that were announced")
    return np.array([HIDDEN if count is None else count for count in given], dtype=np.int64)
