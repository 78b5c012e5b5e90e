"""What the demonstration leaves for a reader: a table in the terminal and a page in HTML without outside parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from demo.founding import Founded
from demo.outcome import Outcome, cell, rows_of
from demo.scenarios import Scenario

WIDTH, HEIGHT, MARGIN = 560, 260, 44
COLOURS = ("#1b6ca8", "#c8553d", "#3c7a57", "#8a5a9e", "#7a6a2f")


def write_report(path: Path, scenario: Scenario, founded: Founded, outcome: Outcome) -> Path:
    """Write the page; returns its path."""
    manifest = founded.manifest
    members = "".join(
        f"<tr><td>{escape(m.name)}</td><td>{m.role.value}</td><td>{m.country}</td></tr>"
        for m in manifest.federation.members
    )
    comparison = "".join(
        f"<tr><td>{escape(row['silo'])}</td><td class=n>{row['rows']}</td><td class=n>{row['positive']:.0%}</td>"
        + "".join(f"<td class=n>{cell(row[k])}</td>" for k in ("federated", "own", "pooled"))
        + "</tr>"
        for row in rows_of(outcome)
    )
    logs = "".join(
        f"<tr><td>{escape(log['member'])}</td><td class=n>{log['size']}</td><td><code>{escape(str(log['root']))}</code></td>"
        f"<td><code>{escape(str(Path(log['path']).relative_to(founded.directory)))}</code></td></tr>"
        for log in outcome.logs
    )
    path.write_text(
        PAGE.format(
            title=escape(scenario.title),
            federation=escape(manifest.federation.metadata.name),
            provenance=escape(scenario.provenance),
            run=escape(outcome.run_id),
            rounds=len(outcome.rounds),
            median=_median([r["seconds"] for r in outcome.rounds]),
            members=members,
            comparison=comparison,
            auc=_chart("AUC on each silo's validation rows", outcome.rounds, outcome.final, "auc"),
            loss=_chart("Loss on each silo's validation rows", outcome.rounds, outcome.final, "loss"),
            refusals=_refusals(outcome.refusals),
            privacy=_privacy(outcome),
            passport=escape(str(outcome.passport.relative_to(founded.directory))) if outcome.passport else "-",
            logs=logs,
        ),
        encoding="utf-8",
    )
    return path


def _refusals(refusals: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f"<tr><td>{escape(r['silo'])}</td><td><code>{escape(r['rule'])}</code></td><td>{escape(r['reason'])}</td>"
        f"<td><code>{escape(r['location'])}</code></td></tr>"
        for r in refusals
    )


def _privacy(outcome: Outcome) -> str:
    """What a private run cost each silo, and how the next was refused; empty for a run without privacy."""
    if not outcome.spent:
        return ""
    rows = "".join(
        f"<tr><td>{escape(silo)}</td><td class=n>{spent.epsilon:.3f}</td><td class=n>{spent.budget:g}</td>"
        f"<td class=n>{spent.delta:g}</td></tr>"
        for silo, spent in sorted(outcome.spent.items())
    )
    return (
        "<h2>What the run cost each silo's privacy budget</h2>"
        f"<table><tr><th>silo<th class=n>epsilon spent<th class=n>budget<th class=n>delta</tr>{rows}</table>"
        "<h2>Refused: the same run again, beyond the budget</h2>"
        f"<table><tr><th>silo<th>rule<th>reason<th>where in the policy</tr>{_refusals(outcome.over_budget)}</table>"
    )


def _median(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.2f}" if ordered else "-"


def _chart(title: str, rounds: Sequence[Mapping[str, Any]], final: Mapping[str, Any], metric: str) -> str:
    """An SVG line chart of one metric over the models: one line a silo, named at its end."""
    # The untrained model's AUC is chance and would squeeze the rest of the scale.
    models = [*rounds, final]
    first = 1 if metric == "auc" and len(models) > 2 else 0
    silos = sorted({silo for model in models for silo in model.get("silos", {})})
    series = {
        silo: [
            (x, m["silos"][silo][metric])
            for x, m in enumerate(models)
            if x >= first and metric in m.get("silos", {}).get(silo, {})
        ]
        for silo in silos
    }
    values = [y for points in series.values() for _, y in points]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def place(x: int, y: float) -> tuple[float, float]:
        return (
            MARGIN + x * (WIDTH - MARGIN - 110) / max(1, len(models) - 1),
            HEIGHT - MARGIN - (y - low) * (HEIGHT - 2 * MARGIN) / span,
        )

    parts = [f'<text x="{MARGIN}" y="20" class="h">{escape(title)}</text>']
    for tick in range(5):
        value = low + span * tick / 4
        _, y = place(0, value)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - 110}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" class="t" text-anchor="end">{value:.3f}</text>')
    for x in range(0, len(models), max(1, len(models) // 5)):
        px, _ = place(x, low)
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - MARGIN + 18}" class="t" text-anchor="middle">{x}</text>')
    parts.append(
        f'<text x="{(WIDTH - 66) / 2:.0f}" y="{HEIGHT - 8}" class="t" text-anchor="middle">rounds trained</text>'
    )
    ends = _spread([(place(*points[-1])[1], silo) for silo, points in series.items() if points])
    for index, silo in enumerate(silos):
        if not series[silo]:
            continue
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(x, y) for x, y in series[silo]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - 104}" y="{ends[silo] + 4:.1f}" class="t" style="fill:{colour}">{escape(silo)}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _spread(ends: list[tuple[float, str]], gap: float = 15.0) -> dict[str, float]:
    """Heights of the lines' names, moved apart so that none covers another."""
    placed: dict[str, float] = {}
    last = -gap
    for y, silo in sorted(ends):
        last = max(y, last + gap)
        placed[silo] = last
    return placed


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Concordat: {title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
th, td {{ text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde3ea; vertical-align: top; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
td:first-child {{ white-space: nowrap; }} code {{ font-size: .85em; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 1rem; }} svg {{ flex: 1 1 26rem; max-width: 30rem; }}
svg .t {{ font-size: 12px; fill: currentColor; }} svg .h {{ font-size: 13px; font-weight: 600; }}
svg .g {{ stroke: #e4e9ef; }} p.note {{ color: #5a6675; font-size: .9rem; }}
</style></head><body>
<h1>{title}</h1>
<p>Federation <b>{federation}</b>, run <code>{run}</code>: {rounds} rounds, median {median} s a round.<br>Data: {provenance}.<br>Passport of the model: <code>{passport}</code></p>
<h2>What each institution gains</h2>
<table><tr><th>silo<th class=n>rows<th class=n>positive<th class=n>federated<th class=n>own data alone<th class=n>pooled (demo only)</tr>
{comparison}</table>
<p class="note">AUC (loss) on the silo's own validation rows. Pooling is what the institutions may not do; only a demonstration can show it.</p>
<h2>Training</h2><div class="charts">{auc}{loss}</div>
<h2>Refused: the same run for another purpose</h2>
<table><tr><th>silo<th>rule<th>reason<th>where in the policy</tr>{refusals}</table>
{privacy}
<h2>Members</h2><table><tr><th>member<th>role<th>country</tr>{members}</table>
<h2>Audit logs, verified from the outside</h2>
<table><tr><th>log<th class=n>entries<th>root<th>directory</tr>{logs}</table>
<p class="note">Check them yourself: <code>concordat audit verify DIRECTORY --key KEY</code>, or with the single file <code>audit/verify.py</code>
and any Python; each key stands in the signed manifest.</p>
</body></html>
"""
