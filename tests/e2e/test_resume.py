"""Runs that survive: real processes are killed at moments drawn at random, and the model is the same bits."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from federation.identity import Role

from .conftest import Running, entries_of

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SILOS = ("hospital-a", "hospital-b", "hospital-c")
ROUNDS = 12
COORDINATOR, EVERYTHING = 4, 2
"""In one run: how often the coordinator is killed alone, and how often with one silo's gate and another's trainer."""


def kill_coordinator(federation: Running) -> None:
    child = federation.deployment.children["coordinator"]
    child.signal(signal.SIGKILL)
    child.wait(10)
    federation.restart("coordinator").expect("listening on", 60)


def kill_silos(federation: Running, chance: random.Random) -> None:
    """Kill one silo's gate and another's trainer, and start the gate again; the worker replaces its trainer."""
    gate, trainer = chance.sample(SILOS, 2)
    os.kill(federation.trainer_pid(trainer), signal.SIGKILL)
    child = federation.deployment.children[f"{gate}-gate"]
    child.signal(signal.SIGKILL)
    child.wait(10)
    federation.restart(f"{gate}-gate")


def model_of(events: list[dict[str, Any]]) -> str:
    assert events[-1]["event"] == "run.completed", events[-1]
    return str(next(event["model"] for event in events if event["event"] == "run.evaluated"))


@pytest.fixture(scope="module")
def undisturbed(federation: Running) -> Callable[[str], tuple[Path, str]]:
    """The run of a strategy and its model where nothing is killed."""

    @cache
    def of(strategy: str) -> tuple[Path, str]:
        builder = "build_plain_model" if strategy == "scaffold" else "build_model"
        changes = {"rounds": str(ROUNDS), "quorum": "all", "deadline_seconds": "120"}
        app = f'{{path: app, model: "model:{builder}"}}'
        path = federation.run_file(f"undisturbed-{strategy}", app=app, **changes)
        path.write_text(path.read_text().replace("name: fedprox", f"name: {strategy}"))
        return path, model_of(federation.follow(federation.submit(path)))

    return of


@pytest.mark.parametrize(("seed", "strategy"), [(2, "fedprox"), (7, "fedprox"), (18, "scaffold")])
def test_a_run_survives_ten_kills_and_gives_the_same_bits(
    federation: Running, undisturbed: Callable[[str], tuple[Path, str]], seed: int, strategy: str
) -> None:
    """Thirty kills in three runs, each at an event drawn at random."""
    path, model = undisturbed(strategy)
    chance = random.Random(seed)
    order = ["coordinator"] * COORDINATOR + ["everything"] * EVERYTHING
    chance.shuffle(order)
    run = federation.submit(path)
    events: list[dict[str, Any]] = []
    wait = chance.randrange(8)
    for event in federation.client().follow_on(run):
        events.append(event)
        wait -= 1
        if order and wait < 0:
            if order.pop() == "everything":
                kill_silos(federation, chance)
            kill_coordinator(federation)
            wait = chance.randrange(8)
    assert order == []
    assert model_of(events) == model

    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert [event["round"] for event in events if event["event"] == "round.closed"] == list(range(1, ROUNDS + 1))
    assert sum(event["event"] == "run.resumed" for event in events) == COORDINATOR + EVERYTHING
    entries = entries_of(federation.founded.coordinator.audit, run=run)
    assert [entry["round"] for entry in entries if entry["action"] == "round.end"] == list(range(1, ROUNDS + 1))
    for silo in SILOS:
        entries = entries_of(federation.founded.silos[silo].gate.audit, run=run)
        released = Counter(entry["round"] for entry in entries if entry["action"] == "round.egress")
        assert released == Counter(range(1, ROUNDS + 1))
        assert sum(entry["action"] == "run.admit" for entry in entries) == 1


def test_a_stopped_run_goes_on_when_its_operator_says_so(federation: Running) -> None:
    client = federation.client()
    run = client.submit(federation.run_file("paused", rounds="8"))

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 3:
            client.stop(run)

    first = federation.follow(run, stop)
    assert first[-1]["event"] == "run.stopped"
    assert client.show(run)["state"] == "stopped"
    client.resume(run)
    events = federation.follow(run)
    assert events[-1]["event"] == "run.completed", events[-1]
    assert [event["round"] for event in events if event["event"] == "round.closed"] == list(range(1, 9))
    assert client.show(run)["closed"] == 8


def test_a_coordinator_that_is_ended_gently_leaves_its_run_to_the_next(federation: Running) -> None:
    run = federation.submit(federation.run_file("suspended", rounds="8"))
    events = []
    done: list[str] = []
    for event in federation.client().follow_on(run):
        events.append(event)
        if event["event"] == "round.closed" and event["round"] == 2 and not done:
            child = federation.deployment.children["coordinator"]
            child.signal(signal.SIGTERM)
            child.wait(30)
            federation.restart("coordinator").expect("listening on", 60)
            done.append("restarted")
    assert events[-1]["event"] == "run.completed", events[-1]
    assert [event["round"] for event in events if event["event"] == "round.closed"] == list(range(1, 9))


def test_the_logs_of_all_this_verify(federation: Running) -> None:
    """Last in this module."""
    for member in federation.founded.manifest.federation.members:
        if member.role is Role.COORDINATOR:
            assert verify(federation.founded.coordinator.audit, member.log).size > 20
        elif member.role is Role.SILO:
            assert verify(federation.founded.silos[member.name].gate.audit, member.log).size > 20
