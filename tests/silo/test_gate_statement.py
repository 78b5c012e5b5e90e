from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from silo.gate.accounting import Mechanism, epsilon_of
from silo.gate.ledger import FIRST, Debit, Entry
from silo.gate.statement import statement

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DEBIT = Debit(NOW, "heart", "run-1", 1, "concordat://f/operator/ann", Mechanism(0.1, 1.1, 20), 1.0)


def entries(*debits: Debit) -> list[Entry]:
    return [Entry(number, FIRST, debit) for number, debit in enumerate(debits, 1)]


def test_an_empty_ledger_says_so():
    assert statement([], 1e-5) == ["nothing was spent"]
    assert statement(entries(DEBIT), 1e-5, "lung") == ["nothing was spent"]


def test_a_line_a_run_and_the_composition_of_all():
    other = replace(DEBIT, run="run-2", operator="concordat://f/operator/bob", mechanism=Mechanism(0.2, 1.5, 30))
    lines = statement(entries(DEBIT, replace(DEBIT, round=2), other, replace(other, dataset="lung")), 1e-5)
    total = epsilon_of([DEBIT.mechanism, DEBIT.mechanism, other.mechanism], 1e-5)
    assert lines[0] == f"heart: epsilon {total:.4g} at delta 1e-05"
    assert "run-1" in lines[1]
    assert "2 rounds      40 steps" in lines[1]
    assert lines[1].endswith("by concordat://f/operator/ann")
    assert f"epsilon {epsilon_of([other.mechanism], 1e-5):.4g}" in lines[2]
    assert lines[3].startswith("lung: ")


def test_what_is_older_is_left_out():
    old = replace(DEBIT, run="run-0", time=NOW - timedelta(days=400))
    assert len(statement(entries(old, DEBIT), 1e-5, since=NOW - timedelta(days=365))) == 2
