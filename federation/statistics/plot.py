"""Merged statistics as one SVG: a histogram for each column with its quantiles, and the correlations; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

WIDTH, HEIGHT, GAP, COLUMNS = 220, 120, 28, 4
MARGIN = 24
CELL = 16
LABELS = 170
SHOWN_NAME = 26


def svg(found: Mapping[str, Any]) -> str:
    """The picture; it names no silo's own statistics."""
    columns = {name: column for name, column in found["columns"].items() if "histogram" in column}
    rows = -(-len(columns) // COLUMNS)
    correlation = found.get("correlation")
    names = correlation["columns"] if correlation else []
    top = 56
    below = top + rows * (HEIGHT + 2 * GAP)
    across = MARGIN * 2 + COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    width = max(across, MARGIN * 2 + LABELS + len(names) * CELL) if names else across
    height = below + (LABELS + len(names) * CELL + MARGIN if names else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        '<g font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="26" font-size="15">{escape(_title(found))}</text>',
        f'<text x="{MARGIN}" y="43" fill="#666">{escape(_note(found))}</text>',
    ]
    for index, (name, column) in enumerate(columns.items()):
        x = MARGIN + index % COLUMNS * (WIDTH + GAP)
        y = top + index // COLUMNS * (HEIGHT + 2 * GAP) + GAP
        parts += _histogram(name, column, x, y)
    if correlation:
        parts += _correlations(correlation, MARGIN, below)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _title(found: Mapping[str, Any]) -> str:
    return f"{found['name']}: {found['rows']} rows of {found['dataset']} at {len(found['silos'])} silos"


def _note(found: Mapping[str, Any]) -> str:
    privacy = found["privacy"]
    if privacy is not None:
        return f"with noise: epsilon {privacy['epsilon']:g} at delta {privacy['delta']:g} at each silo"
    return "outlined: cells that some silo hides, as few rows are behind them; dashed: quantiles"


def _histogram(name: str, column: Mapping[str, Any], x: int, y: int) -> Iterator[str]:
    histogram = column["histogram"]
    counts, edges = histogram["counts"], histogram["edges"]
    hidden = set(histogram["incomplete"])
    most, wide = max(1, *counts), WIDTH / len(counts)
    yield f'<text x="{x}" y="{y - 7}">{escape(name[:SHOWN_NAME])}</text>'
    for index, count in enumerate(counts):
        left, tall = x + index * wide, HEIGHT * count / most
        if index + 1 in hidden:
            yield (
                f'<rect x="{left:.1f}" y="{y}" width="{wide - 1:.1f}" height="{HEIGHT}" fill="none" stroke="#bbb" '
                'stroke-dasharray="2 2"/>'
            )
        yield (
            f'<rect x="{left:.1f}" y="{y + HEIGHT - tall:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}" '
            f'fill="#3b6ea5"><title>{edges[index]:g} to {edges[index + 1]:g}: {count}</title></rect>'
        )
    for one in column.get("quantiles", ()):
        if one["value"] is not None:
            at = x + WIDTH * (one["value"] - edges[0]) / (edges[-1] - edges[0])
            yield f'<path d="M{at:.1f} {y}V{y + HEIGHT}" stroke="#c0392b" stroke-dasharray="3 3"/>'
    yield f'<path d="M{x} {y + HEIGHT}h{WIDTH}" stroke="#222"/>'
    yield f'<text x="{x}" y="{y + HEIGHT + 13}" fill="#666">{edges[0]:g}</text>'
    yield f'<text x="{x + WIDTH}" y="{y + HEIGHT + 13}" fill="#666" text-anchor="end">{edges[-1]:g}</text>'
    beyond = histogram["below"] + histogram["above"]
    if beyond:
        middle = x + WIDTH / 2
        yield f'<text x="{middle}" y="{y + HEIGHT + 13}" fill="#666" text-anchor="middle">{beyond:d} beyond</text>'


def _correlations(found: Mapping[str, Any], x: int, y: int) -> Iterator[str]:
    names, values = found["columns"], found["values"]
    left, top = x + LABELS, y + LABELS
    for index, name in enumerate(names):
        shown, middle = escape(name[:SHOWN_NAME]), CELL * index + CELL - 4
        yield f'<text x="{left - 6}" y="{top + middle}" text-anchor="end">{shown}</text>'
        yield f'<text transform="translate({left + middle} {top - 6}) rotate(-90)">{shown}</text>'
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            at = f'x="{left + column * CELL}" y="{top + row * CELL}" width="{CELL - 1}" height="{CELL - 1}"'
            fill = 'fill="none" stroke="#ccc"' if value is None else f'fill="{_colour(value)}"'
            said = "hidden" if value is None else f"{value:+.3f}"
            yield f"<rect {at} {fill}><title>{escape(names[row])}, {escape(names[column])}: {said}</title></rect>"


def _colour(value: float) -> str:
    """Blue for -1, white for 0, red for 1."""
    near, far = (192, 57, 43) if value > 0 else (41, 98, 155), 255
    parts = (round(far + (part - far) * abs(value)) for part in near)
    return "#" + "".join(f"{part:02x}" for part in parts)
