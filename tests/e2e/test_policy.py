"""A compliance officer replaces the policy of a gate that is at work: real processes, confined as they are deployed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]


def put(path: Path, text: str) -> None:
    fresh = path.with_name(".policy.new")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_new_policy_ends_the_silos_part_in_a_live_run_and_a_broken_one_changes_nothing(federation: Running) -> None:
    gate = federation.founded.silos["hospital-c"].gate.path
    policy = gate / "policy.yaml"
    first = policy.read_text()
    assert "version: 1," in first
    stricter = first.replace("version: 1,", "version: 2,").replace("allow: [HMB]", "allow: [POA]")
    path = federation.run_file("policy", rounds="20", quorum="2")

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 3:
            put(policy, "broken: [")
        if event["event"] == "round.closed" and event["round"] == 8:
            put(policy, stricter)

    events = federation.follow(federation.submit(path), act)
    assert events[-1]["event"] == "run.completed", events[-1]
    took_part = [
        event["round"] for event in events if event["event"] == "round.closed" and "hospital-c" in event["silos"]
    ]
    assert set(range(1, 9)) <= set(took_part)
    assert max(took_part) < 20
    (rejected,) = entries_of(gate / "audit", action="policy.rejected")
    assert rejected["policy"] == entries_of(gate / "audit", action="run.admit")[-1]["policy"]
    (revoked,) = entries_of(gate / "audit", action="run.revoke")
    assert (revoked["decision"], revoked["rule"]) == ("deny", "purposes.allow")
    assert re.fullmatch(r"policy\.yaml:\d+:\d+", revoked["detail"]["location"])
    activated = entries_of(gate / "audit", action="policy.activate")
    assert [entry["detail"]["version"] for entry in activated] == [1, 2]
    assert revoked["policy"] == activated[-1]["policy"]

    put(policy, first.replace("version: 1,", "version: 3,"))
    events = federation.follow(federation.submit(federation.run_file("after", rounds="2")))
    assert events[-1]["event"] == "run.completed", events[-1]
