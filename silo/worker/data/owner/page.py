"""The readiness report for people: lines for a terminal, or one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from silo.dataset.readiness import ColumnSummary, Readiness

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid #ccc}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.error{color:#a4001d}.warning{color:#7a4b00}code{overflow-wrap:anywhere}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def heading(found: Readiness) -> str:
    """The verdict in one line."""
    verdict = "ready" if found.ready else "NOT READY"
    return f"{found.dataset} version {found.version}: {verdict}, {found.rows} rows, {found.usable} of them complete"


def lines(found: Readiness) -> Iterator[str]:
    """The report for a terminal."""
    yield heading(found)
    yield f"contract {found.contract}"
    yield ""
    width = max(len("column"), *(len(summary.name) for summary in found.columns))
    yield f"{'column':{width}}  {'type':8} {'missing':>8} {'wrong':>8} {'outside':>8}  mean ± deviation"
    for one in found.columns:
        counts = f"{one.missing:8} {one.wrong:8} {one.outside:8}"
        yield f"{one.name:{width}}  {one.type:8} {counts}  {_moments(one)}".rstrip()
    if found.classes:
        yield ""
        yield f"classes of the label: {_classes(found)}"
    if found.smallest_cell is not None:
        yield f"smallest cell: {found.smallest_cell[1]} rows (one {found.smallest_cell[0]})"
    for finding in found.findings:
        yield ""
        yield f"{finding.level}: {finding.column + ': ' if finding.column else ''}{finding.message}"
        yield f"  {finding.remedy}"


def _moments(one: ColumnSummary) -> str:
    if one.mean is not None and one.deviation is not None:
        return f"{one.mean:.4g} ± {one.deviation:.4g}"
    return "" if one.shares is None else ", ".join(f"{value} {share:.0%}" for value, share in one.shares.items())


def _classes(found: Readiness) -> str:
    if len(found.classes) > 10:
        return f"{len(found.classes)} values"
    total = sum(found.classes.values())
    return ", ".join(f"{name}: {count} ({count / total:.0%})" for name, count in sorted(found.classes.items()))


def page(found: Readiness) -> str:
    """The report as one HTML page."""
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{one.type}</td><td class=n>{one.missing}</td><td class=n>{one.wrong}</td>"
        f"<td class=n>{one.outside}</td><td>{escape(_moments(one))}</td></tr>"
        for one in found.columns
    )
    findings = "".join(
        f"<li><strong class={finding.level}>{finding.level}</strong> "
        f"{f'<code>{escape(finding.column)}</code>: ' if finding.column else ''}{escape(finding.message)}"
        f"<br>{escape(finding.remedy)}</li>"
        for finding in found.findings
    )
    cell = "" if found.smallest_cell is None else f"{found.smallest_cell[1]} rows (one {found.smallest_cell[0]})"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(found.dataset)}: readiness</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(heading(found))}</h1><p>Contract <code>{found.contract}</code></p>"
        f"<h2>Findings</h2>{f'<ul>{findings}</ul>' if findings else '<p>None.</p>'}"
        f"<h2>Columns</h2><table><thead><tr><th>column</th><th>type</th><th class=n>missing</th><th class=n>wrong</th>"
        f"<th class=n>outside</th><th>mean ± deviation, or shares</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<h2>Classes of the label</h2><p>{escape(_classes(found)) or 'No label is named.'}</p>"
        f"<h2>Smallest cell</h2><p>{escape(cell) or 'None.'}</p></body></html>\n"
    )
