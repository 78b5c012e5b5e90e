"""What is left of a budget, by hand: one mechanism at a known epsilon, in and out of the window."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from policies.model import load_policy
from silo.gate.accounting import Mechanism, epsilon_of
from silo.gate.ledger import Debit, Ledger
from silo.gate.spending import epsilon_left

from .simulator import POLICY

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
STEP = Mechanism(0.1, 1.0, 30)
BUDGET = """
privacy: {mode: example_dp, budget: {epsilon: 8.0, delta: 1.0e-5, per: dataset, window: P1Y}}
"""


def debit(ledger: Ledger, time: datetime, dataset: str = "heart") -> None:
    ledger.debit(Debit(time, dataset, "run-1", 1, "spiffe://heart.example/operator/ops", STEP, 1.0))


def test_without_a_budget_nothing_is_told(tmp_path: Path):
    assert math.isnan(epsilon_left(Ledger(tmp_path / "l"), load_policy(POLICY), NOW))


def test_what_is_spent_in_the_window_is_not_left(tmp_path: Path):
    ledger, policy = Ledger(tmp_path / "l"), load_policy(POLICY + BUDGET)
    assert epsilon_left(ledger, policy, NOW) == 8.0
    debit(ledger, NOW - timedelta(days=400))
    assert epsilon_left(ledger, policy, NOW) == 8.0
    debit(ledger, NOW - timedelta(days=1))
    assert epsilon_left(ledger, policy, NOW) == 8.0 - epsilon_of([STEP], 1e-5)
    debit(ledger, NOW)
    assert epsilon_left(ledger, policy, NOW) == 8.0 - epsilon_of([STEP.times(2)], 1e-5)
