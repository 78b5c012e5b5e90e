"""A privacy ledger as lines for a person; pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from silo.gate.accounting import epsilon_of
from silo.gate.ledger import Debit, Entry, within


def statement(
    entries: Iterable[Entry], delta: float, dataset: str | None = None, since: datetime | None = None
) -> list[str]:
    """For each dataset: a line a run, with its operator, rounds, steps and epsilon, and the epsilon of all together."""
    counted = [entry.debit for entry in (entries if since is None else within(entries, since))]
    names = sorted({debit.dataset for debit in counted if dataset in {None, debit.dataset}})
    if not names:
        return ["nothing was spent"]
    lines = []
    for name in names:
        of_dataset = [debit for debit in counted if debit.dataset == name]
        total = epsilon_of([debit.mechanism for debit in of_dataset], delta)
        lines.append(f"{name}: epsilon {total:.4g} at delta {delta:g}")
        for run in dict.fromkeys(debit.run for debit in of_dataset):
            lines.append(_line(run, [debit for debit in of_dataset if debit.run == run], delta))
    return lines


def _line(run: str, debits: list[Debit], delta: float) -> str:
    epsilon = epsilon_of([debit.mechanism for debit in debits], delta)
    steps = sum(debit.mechanism.steps for debit in debits)
    operators = ", ".join(sorted({debit.operator for debit in debits}))
    return (
        f"  {run:32} {debits[0].time:%Y-%m-%d} to {debits[-1].time:%Y-%m-%d}  {len(debits):4} rounds {steps:7} steps  "
        f"epsilon {epsilon:.4g}{_mode(debits)}  by {operators}"
    )


def _mode(debits: list[Debit]) -> str:
    """What was private where it is not single rows."""
    modes = sorted({debit.mode for debit in debits} - {"example_dp"})
    return f" ({', '.join(modes)})" if modes else ""
