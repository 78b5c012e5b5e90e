"""Merged statistics as a table for a terminal; pure, over the JSON of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BAR = " ▁▂▃▄▅▆▇█"
CORRELATIONS = 10
"""The strongest correlations that are listed."""
NAME = 32


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A head, a row for each column, the strongest correlations, and what each silo has where it is shown."""
    silos = found["silos"]
    yield f"{found['name']}: {found['rows']} rows of {found['dataset']} at {', '.join(silos)}"
    privacy = found["privacy"]
    if privacy is not None:
        yield (
            f"private: epsilon {privacy['epsilon']:g} at delta {privacy['delta']:g} at each silo; a count has noise of "
            f"deviation {found['noise_deviation']:.1f}"
        )
    yield from _columns(found)
    yield from _correlations(found.get("correlation"))
    for silo, own in (found.get("per_silo") or {}).items():
        yield ""
        yield f"{silo}: {own['rows']} rows"
        yield from _columns(own)


def _columns(found: Mapping[str, Any]) -> Iterator[str]:
    columns = found["columns"]
    shares = [one["share"] for column in columns.values() for one in column.get("quantiles", ())]
    shares = list(dict.fromkeys(shares))
    kinds = [kind for kind in ("rows", "mean", "variance") if any(kind in column for column in columns.values())]
    width = min(NAME, max(len("column"), *(len(name) for name in columns)))
    binned = any("histogram" in column for column in columns.values())
    head = [f"{'column':{width}}", *(f"{_titled(kind):>11}" for kind in kinds)]
    head += [f"{100 * share:>10g}%" for share in shares]
    yield ""
    yield "  ".join([*head, *(["histogram"] if binned else [])])
    for name, column in columns.items():
        cells = [f"{name[:width]:{width}}", *(_number(_cell(column, kind)) for kind in kinds)]
        by_share = {one["share"]: one["value"] for one in column.get("quantiles", ())}
        cells += [_number(by_share.get(share)) for share in shares]
        if "histogram" in column:
            cells.append(_bars(column["histogram"]))
        yield "  ".join(cells)
    hidden = sum(column["histogram"]["hidden_rows"] for column in columns.values() if "histogram" in column)
    if hidden:
        yield "? a cell that some silo hides, as few rows are behind it; quantiles are between bounds, in the JSON"
    if shares:
        yield "a quantile lies within one bin of what is shown, or within the bounds in the JSON where cells are hidden"


def _titled(kind: str) -> str:
    return "std. dev." if kind == "variance" else kind


def _cell(column: Mapping[str, Any], kind: str) -> float | None:
    value: float | None = column.get(kind)
    return value**0.5 if kind == "variance" and value is not None else value


def _number(value: float | None) -> str:
    if value is None:
        return f"{'hidden':>11}"
    return f"{value:>11}" if isinstance(value, int) else f"{value:>11.5g}"


def _bars(histogram: Mapping[str, Any]) -> str:
    counts: Sequence[int] = histogram["counts"]
    most, hidden = max(1, *counts), set(histogram["incomplete"])
    bars = "".join(
        "?" if index in hidden and not count else BAR[-(-count * (len(BAR) - 1) // most)]
        for index, count in enumerate(counts, 1)
    )
    edges = histogram["edges"]
    return f"{edges[0]:g} {bars} {edges[-1]:g}"


def _correlations(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    names, values = found["columns"], found["values"]
    pairs = [
        (abs(value), value, one, two)
        for one in range(len(names))
        for two in range(one)
        if (value := values[one][two]) is not None
    ]
    hidden = len(names) * (len(names) - 1) // 2 - len(pairs)
    yield ""
    yield f"strongest correlations of {len(pairs)}" + (f" ({hidden} are hidden)" if hidden else "")
    for _, value, one, two in sorted(pairs, reverse=True)[:CORRELATIONS]:
        yield f"  {value:+.3f}  {names[two][:NAME]} and {names[one][:NAME]}"
