"""What the demonstration showed, and the comparison that people look at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.terminal import printable


@dataclass(frozen=True)
class Spent:
    """What a silo's ledger holds of its privacy budget: epsilon so far, the budget's epsilon, the delta of both."""

    epsilon: float
    budget: float
    delta: float


@dataclass
class Outcome:
    """What the demonstration showed, for the report."""

    run_id: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    refusals: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    over_budget: list[dict[str, Any]] = field(default_factory=list)
    passport: Path | None = None
    baselines: dict[str, Any] = field(default_factory=dict)
    logs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """One row a silo: rows, share of positives, and its validation loss and AUC with each of the three models."""
    rows = []
    for silo, base in sorted(outcome.baselines.items()):
        federated = outcome.final["silos"].get(silo, {})
        rows.append({"silo": silo, **base, "federated": federated})
    return rows


def comparison_table(outcome: Outcome, *, private: bool = False) -> None:
    """Print, for each silo, its rows and its metrics with the federated, its own and the pooled model."""
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="Validation rows of each silo: AUC (loss)", title_justify="left")
    for name, justify in (
        ("silo", "left"),
        ("rows", "right"),
        ("positive", "right"),
        ("federated, private" if private else "federated", "right"),
        ("own data alone", "right"),
        ("pooled (demo only)", "right"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name == "silo")
    for row in rows_of(outcome):
        table.add_row(
            escape(printable(row["silo"])),
            str(row["rows"]),
            f"{row['positive']:.0%}",
            *(cell(row[k]) for k in ("federated", "own", "pooled")),
        )
    Console().print(table)
    if private:
        Console().print("The models of own and of pooled data are trained without noise: they leave no institution.")
    Console().print(
        "Pooling is what the institutions may not do: only this demonstration, which holds all tables, can show it."
    )


def cell(metrics: Mapping[str, float]) -> str:
    """AUC and, in brackets, loss."""
    area = f"{metrics['auc']:.3f}" if "auc" in metrics else "-"
    return f"{area} ({metrics['loss']:.3f})" if "loss" in metrics else area
