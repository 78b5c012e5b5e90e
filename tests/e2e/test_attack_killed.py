"""A coordinator that is killed between the evaluation of a run and the passport of its model."""

from __future__ import annotations

import json
import signal

import pytest

from federation.passport import verify as read_passport

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]


def test_a_model_whose_coordinator_was_killed_before_its_passport_gets_one(federation: Running) -> None:
    """The silos send the answers that they kept; nothing is trained or evaluated again."""
    client, run = federation.client(), federation.submit(federation.run_file("killed", rounds="2"))
    events = federation.follow(run)
    assert events[-1]["event"] == "run.completed", events[-1]
    child = federation.deployment.children["coordinator"]
    child.signal(signal.SIGKILL)
    child.wait(10)
    directory = federation.founded.coordinator.runs / run
    (directory / "passport.json").unlink()
    evaluated = next(place for place, event in enumerate(events, 1) if event["event"] == "run.evaluated")
    lines = (directory / "events.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[evaluated - 1])["event"] == "run.evaluated"
    (directory / "events.jsonl").write_text("".join(lines[:evaluated]))
    federation.restart("coordinator").expect("listening on", 60)
    again = federation.follow(run)
    assert again[-1]["event"] == "run.completed", again[-1]
    passport = read_passport(client.passport(run), federation.founded.manifest)
    agreed = passport.statement.predicate.agreed
    assert agreed is not None
    assert sorted(agreed.receipts) == sorted(federation.founded.silos)
    models = [event["model"] for event in again if event["event"] == "run.evaluated"]
    assert models == [events[evaluated - 1]["model"]] * 2
    for silo in federation.founded.silos.values():
        entries = entries_of(silo.gate.audit, run=run)
        actions = [entry["action"] for entry in entries]
        assert (actions.count("evaluation.egress"), actions.count("reply.again")) == (1, 1)
