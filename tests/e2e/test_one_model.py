"""A live federation whose coordinator gives one silo another model, published in its own log: the gates stop it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from demo.federate import Deployment, environment
from demo.founding import found
from demo.scenarios import DataSource, scenario
from federation.passport import verify as read_passport
from federation.processes import Child

from .conftest import Running, entries_of, run_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

VICTIM = "hospital-c"


class LyingDeployment(Deployment):
    """The federation's processes, with a coordinator that lies."""

    def spawn(self, name: str, *arguments: str) -> Child:
        if name != "coordinator":
            return super().spawn(name, *arguments)
        command = [sys.executable, "-P", str(Path(__file__).with_name("lying_coordinator.py")), *arguments]
        child = self.children[name] = Child(name, command, self._logs / f"{name}.log", environment())
        return child


@pytest.fixture(scope="module")
def lied_to(short_tmp: Callable[[str], Path]) -> Iterator[Running]:
    founded = found(short_tmp("lie"), scenario("breast_cancer"), DataSource())
    yield from run_of(Running(founded, LyingDeployment(founded)))


def split(federation: Running, number: int, **changes: str) -> str:
    """Submit a run in whose round of this number the coordinator lies."""
    path = federation.run_file(f"split-{number}", **changes)
    path.write_text(path.read_text().replace("  name: ", f"  name: split-{number}-", 1))
    return federation.submit(path)


def receipts(federation: Running, run: str) -> list[str]:
    """The silos whose receipts for the final model its passport shows."""
    passport = read_passport(federation.client().passport(run), federation.founded.manifest)
    agreed = passport.statement.predicate.agreed
    return [] if agreed is None else sorted(agreed.receipts)


def refusals(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((event["silo"], event["rule"]) for event in events if event["event"] == "silo.refused")


def test_the_silo_that_was_given_another_model_takes_no_further_one(lied_to: Running) -> None:
    run = split(lied_to, 1, rounds="3", quorum="2")
    events = lied_to.follow(run)
    assert refusals(events) == [(VICTIM, "ingress.receipts")] * 3, "rounds 2 and 3, and the final model"
    closed = [sorted(event["silos"]) for event in events if event["event"] == "round.closed"]
    assert [VICTIM in silos for silos in closed] == [True, False, False]
    hub = lied_to.founded.coordinator
    begun = entries_of(hub.audit, run=run, action="round.begin")
    assert Counter(entry["round"] for entry in begun)[1] == 2, "both models stand in the coordinator's log"
    assert [entry["detail"].get("silent") for entry in begun] == [None, None, VICTIM, VICTIM]
    assert receipts(lied_to, run) == ["hospital-a", "hospital-b"]
    for name, place in lied_to.founded.silos.items():
        taken = {entry["round"] for entry in entries_of(place.gate.audit, run=run, action="round.ingress")}
        assert taken == ({1} if name == VICTIM else {1, 2, 3})


def test_a_split_in_the_last_round_ends_with_the_final_model(lied_to: Running) -> None:
    """Every silo is needed in each round, so that nobody goes on from a round that somebody did not sign for."""
    run = split(lied_to, 2, rounds="2", quorum="all")
    events = lied_to.follow(run)
    assert {rule for _, rule in refusals(events)} == {"ingress.receipts"}
    assert receipts(lied_to, run) == []
    for member in lied_to.founded.manifest.federation.members:
        if member.log and member.name in lied_to.founded.silos:
            audit = lied_to.founded.silos[member.name].gate.audit
            assert not entries_of(audit, run=run, action="evaluation.egress")
            verify(audit, member.log)
