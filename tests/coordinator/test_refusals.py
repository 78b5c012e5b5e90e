"""A stranger cannot fill the log."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator import refusals
from coordinator.refusals import RefusalBudget


def test_so_many_refusals_a_minute_are_recorded(monkeypatch: pytest.MonkeyPatch):
    class Clock:
        seconds = 600_000.0

        @classmethod
        def now(cls, _zone: object) -> Any:
            return cls

        @classmethod
        def timestamp(cls) -> float:
            return cls.seconds

    monkeypatch.setattr(refusals, "datetime", Clock)
    left_out: list[int] = []
    budget = RefusalBudget(per_minute=3, on_suppressed=left_out.append)
    assert [budget.take() for _ in range(6)] == [True, True, True, False, False, False]
    Clock.seconds += 59.9
    assert not budget.take()
    budget.settle()
    assert left_out == []
    Clock.seconds += 0.1
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    assert left_out == [4]
    Clock.seconds -= 600
    assert budget.take()
    assert left_out == [4, 1]
    for _ in range(4):
        budget.take()
    Clock.seconds += 60
    for _ in range(2):
        budget.settle()
    assert left_out == [4, 1, 2]
