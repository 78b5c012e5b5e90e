"""What the silos' statistics come to together, as JSON holds it; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from federation.statistics.document import Statistics
from federation.statistics.reading import Noisy
from federation.statistics.summary import (
    HIDDEN,
    Floats,
    Layout,
    Moments,
    Summary,
    layout_of,
    merged,
    moments_of,
    ranges_of,
)

FORMAT = "concordat/statistics/v1"
_ROUNDING = 1e-9


def result_of(asked: Statistics, summaries: Mapping[str, Summary]) -> dict[str, Any]:
    """The merged statistics of silos, by name, and each silo's own where the run asks for them."""
    result = {**_head(asked, sorted(summaries)), **_exact(asked, [summaries[name] for name in sorted(summaries)])}
    if asked.per_silo:
        result["per_silo"] = {name: _exact(asked, [one]) for name, one in sorted(summaries.items())}
    return result


def noisy_result_of(asked: Statistics, sums: Mapping[str, Noisy]) -> dict[str, Any]:
    """The same of sums with noise."""
    assert asked.privacy is not None  # noqa: S101  only a private run has noise
    result = {**_head(asked, sorted(sums)), **_noisy(asked, [sums[name] for name in sorted(sums)])}
    result["privacy"] = {"mode": asked.privacy.mode, "epsilon": asked.privacy.epsilon, "delta": asked.privacy.delta}
    if asked.per_silo:
        result["per_silo"] = {name: _noisy(asked, [one]) for name, one in sorted(sums.items())}
    return result


def _head(asked: Statistics, silos: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": asked.metadata.name,
        "purpose": asked.purpose,
        "dataset": asked.dataset,
        "silos": list(silos),
        "privacy": None,
    }


# -- exact


def _exact(asked: Statistics, summaries: Sequence[Summary]) -> dict[str, Any]:
    layout = layout_of(asked)
    rows = sum(one.rows for one in summaries)
    moments = reduce(merged, map(moments_of, summaries))
    columns = {name: _column(moments, index, layout.kinds) for index, name in enumerate(layout.names)}
    for index, edges in enumerate(layout.edges):
        cells = [one.counts[index] for one in summaries]
        known = [np.full(layout.cells[index], HIDDEN) if one is None else one for one in cells]
        columns[layout.names[index]] |= _histogram(asked, edges, known, [one.rows for one in summaries])
    found: dict[str, Any] = {"rows": rows, "columns": columns}
    if layout.paired:
        found["correlation"] = {"columns": list(layout.names), "values": _correlations(moments)}
    return found


def _column(moments: Moments, index: int, kinds: frozenset[str]) -> dict[str, Any]:
    rows = float(moments.rows[index, index])
    found: dict[str, Any] = {"rows": int(rows)} if kinds & {"mean", "variance"} else {}
    if "mean" in kinds:
        found["mean"] = float(moments.mean[index, index]) if rows else None
    if "variance" in kinds:
        found["variance"] = float(moments.square[index, index]) / (rows - 1) if rows > 1 else None
    return found


def _correlations(moments: Moments) -> list[list[float | None]]:
    size = np.sqrt(moments.square * moments.square.T)
    known = (moments.rows > 1) & (size > 0)
    found = np.clip(moments.product / np.where(known, size, 1.0), -1.0, 1.0)
    return [
        [float(value) if fits else None for value, fits in zip(*row, strict=True)]
        for row in zip(found, known, strict=True)
    ]


def _histogram(asked: Statistics, edges: Floats, silos: Sequence[Any], rows: Sequence[int]) -> dict[str, Any]:
    """Counts of each cell that is shown, and between which numbers the rows up to a cell's end lie.

    A silo's hidden rows lie in its hidden cells, at least one in each; in which of them how many, nobody knows.
    """
    least, most = np.zeros(len(edges) + 1), np.zeros(len(edges) + 1)
    counts = np.zeros(len(edges) + 1, dtype=np.int64)
    incomplete = np.zeros(len(edges) + 1, dtype=bool)
    left = 0
    for cells, total in zip(silos, rows, strict=True):
        hidden = cells == HIDDEN
        shown = np.where(hidden, 0, cells)
        beyond = total - int(shown.sum())
        up_to = np.cumsum(shown)
        so_far = np.cumsum(hidden)
        counts += shown
        incomplete |= hidden
        left += beyond
        if beyond:
            least += up_to + np.where(so_far == hidden.sum(), beyond, 0)
            most += up_to + np.where(so_far > 0, beyond, 0)
        else:
            least += up_to
            most += up_to
    found: dict[str, Any] = {
        "histogram": {
            "edges": edges.tolist(),
            "counts": counts[1:-1].tolist(),
            "below": int(counts[0]),
            "above": int(counts[-1]),
            "incomplete": np.flatnonzero(incomplete).tolist(),
            "hidden_rows": left,
        }
    }
    if asked.quantiles:
        found["quantiles"] = [_quantile(share, edges, least, most) for share in asked.quantiles]
    return found


def _quantile(share: float, edges: Floats, least: Floats, most: Floats) -> dict[str, float | None]:
    """The smallest value at or below which a share of the rows lies: bounds, and a value between them.

    `least` and `most` bound the rows up to each cell's end. Without hidden cells the bounds are one bin's edges. A
    bound beyond the range is not known.
    """
    wanted = share * float(least[-1])
    reached = wanted * (1 - _ROUNDING)
    first, last = int(np.argmax(most >= reached)), int(np.argmax(least >= reached))
    ends = np.concatenate(([-np.inf], edges, [np.inf]))
    lower, upper = float(ends[first]), float(ends[last + 1])
    value: float | None = None
    if np.isfinite(lower) and np.isfinite(upper):
        value = (lower + upper) / 2
        before = float(least[first - 1])
        if first == last and least[first] > before:
            part = (wanted - before) / (float(least[first]) - before)
            value = lower + min(1.0, max(0.0, part)) * (upper - lower)
    return {
        "share": share,
        "value": value,
        "lower": lower if np.isfinite(lower) else None,
        "upper": upper if np.isfinite(upper) else None,
    }


# -- with noise


def _noisy(asked: Statistics, sums: Sequence[Noisy]) -> dict[str, Any]:
    layout = layout_of(asked)
    total = reduce(Noisy.plus, sums)
    low, high = ranges_of(asked)
    half, centre = (high - low) / 2, (high + low) / 2
    rows = max(1.0, total.rows)
    mean = np.clip(total.sums / rows, -1.0, 1.0)
    variance = np.clip(total.squares / rows - mean * mean, 0.0, 1.0)
    columns: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(layout.names):
        found: dict[str, Any] = {}
        if "mean" in layout.kinds:
            found["mean"] = float(centre[index] + half[index] * mean[index])
        if "variance" in layout.kinds:
            found["variance"] = float(variance[index] * half[index] ** 2)
        columns[name] = found
    for index, edges in enumerate(layout.edges):
        columns[layout.names[index]] |= _noisy_histogram(asked, edges, total.counts[index])
    found_all: dict[str, Any] = {"rows": round(total.rows), "noise_deviation": total.deviation, "columns": columns}
    if layout.paired:
        found_all["correlation"] = {
            "columns": list(layout.names),
            "values": _noisy_correlations(layout, total.products / rows, mean, variance),
        }
    return found_all


def _noisy_histogram(asked: Statistics, edges: Floats, counts: Floats) -> dict[str, Any]:
    kept = np.maximum(counts, 0.0)
    found: dict[str, Any] = {
        "histogram": {
            "edges": edges.tolist(),
            "counts": np.rint(kept[1:-1]).astype(int).tolist(),
            "below": round(float(kept[0])),
            "above": round(float(kept[-1])),
            "incomplete": [],
            "hidden_rows": 0,
        }
    }
    if asked.quantiles and kept.sum() > 0:
        up_to = np.cumsum(kept)
        found["quantiles"] = [_quantile(share, edges, up_to, up_to) for share in asked.quantiles]
    return found


def _noisy_correlations(layout: Layout, products: Floats, mean: Floats, variance: Floats) -> list[list[float | None]]:
    width = layout.width
    values: list[list[float | None]] = [[1.0 if one == two else None for two in range(width)] for one in range(width)]
    for product, one, two in zip(products, *np.triu_indices(width, 1), strict=True):
        size = float(np.sqrt(variance[one] * variance[two]))
        if size > 0:
            found = float(np.clip((product - mean[one] * mean[two]) / size, -1.0, 1.0))
            values[one][two] = values[two][one] = found
    return values
