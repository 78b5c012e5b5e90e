from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from federation.cli.run import show_progress
from federation.operator import OperatorClient
from federation.progress import line_of

ROUND = {
    "event": "round.closed",
    "round": 7,
    "seconds": 1.234,
    "silos": {"b": {"loss": 0.5}, "a": {"auc": 0.91234, "loss": 0.4}, "c": {}},
    "dropped": {"e": "late", "d": "late"},
    "metrics": {"accuracy": 0.75, "loss": 0.45678, "num_examples": 5},
}

CASES: list[tuple[dict[str, Any], str | None]] = [
    (
        {
            "event": "run.started",
            "run": "r-1",
            "purpose": "HMB",
            "strategy": "fedprox",
            "mu": 0.1,
            "rounds": 20,
            "silos": ["a", "b"],
        },
        "run r-1: purpose HMB, fedprox mu 0.1, 20 rounds, silos a, b",
    ),
    ({"event": "silo.admitted", "silo": "a", "examples": 120}, "  a: admitted, 120 training rows"),
    ({"event": "silo.absent", "silo": "a"}, "  a: not connected"),
    (
        {"event": "silo.dropped", "silo": "a", "phase": "3", "reason": "no answer"},
        "  a: left out of 3 (no answer)",
    ),
    (ROUND, "  round   7  loss 0.4568  accuracy 0.7500  [a 0.912 b 0.500 c ok d DROPPED e DROPPED]  1.23 s"),
    ({"event": "run.evaluated", "metrics": {"auc": 0.9, "loss": 0.25}}, "  final model: loss 0.2500  auc 0.9000"),
    (
        {"event": "run.evaluated", "metrics": {"calibration_in_the_large": -0.1, "brier": 0.2, "pr_auc": 0.5}},
        "  final model: pr_auc 0.5000  brier 0.2000  calibration_in_the_large -0.1000",
    ),
    ({"event": "run.completed"}, "run completed"),
    (
        {"event": "run.completed", "release": ["a", "b"]},
        "run completed; its model waits for the release by a, b: concordat run release",
    ),
    ({"event": "run.failed", "problem": "disk"}, "run failed: disk"),
    ({"event": "run.refused", "problem": "policy"}, "run refused: policy"),
    ({"event": "run.stopped", "problem": "operator"}, "run stopped: operator"),
    ({"event": "round.started", "round": 1}, None),
    ({"event": "silo.answered", "round": 1, "silo": "a", "metrics": {}}, None),
    ({"event": "of.tomorrow"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("event", "line"), CASES, ids=[str(event.get("event")) for event, _ in CASES])
def test_an_event_is_one_line(event: dict[str, Any], line: str | None):
    assert line_of(event) == line


def test_a_refusal_says_rule_reason_place_and_remedy():
    event = {"event": "silo.refused", "silo": "a", "rule": "purposes.allow", "reason": "purpose POA is not allowed"}
    assert line_of(event) == "  a: REFUSED by rule purposes.allow\n      purpose POA is not allowed"
    full = event | {"location": "policy.yaml:3:1", "remedy": "add POA"}
    assert line_of(full) == f"{line_of(event)}\n      at policy.yaml:3:1\n      to change: add POA"


def test_who_stops_looking_is_told_that_the_run_goes_on(capsys: pytest.CaptureFixture[str]):
    class Interrupted(OperatorClient):
        def __init__(self) -> None: ...

        def follow_on(self, run: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
            yield {"event": "run.completed"}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show_progress(Interrupted(), "r-1")
    shown = capsys.readouterr()
    assert shown.out == "run completed\n"
    assert "the run goes on: concordat run watch r-1, or concordat run stop r-1" in shown.err
