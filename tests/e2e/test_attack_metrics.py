"""One silo's numbers against the whole run: real gates and a real coordinator, played workers, one gate that lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from silo.channel import Frame
from tests.silo.simulator import METRICS, trained

from .conftest import entries_of
from .played_federation import PlayedFederation, played_federation

pytestmark = pytest.mark.federation

BAD, GOOD = "hospital-a", {"hospital-b", "hospital-c"}
"""The silo that lies is the first by name, whom the coordinator asks first."""


@pytest.fixture(scope="module")
def federation(short_tmp: Callable[[str], Path]) -> Iterator[PlayedFederation]:
    with played_federation(short_tmp("num")) as running:
        yield running


def closed(events: list[dict[str, Any]]) -> list[set[str]]:
    """The silos of each closed round."""
    return [set(event["silos"]) for event in events if event["event"] == "round.closed"]


def dropped(events: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Each silo that was dropped, with the reason."""
    return {(event["silo"], event["reason"]) for event in events if event["event"] == "silo.dropped"}


def outcome(events: list[dict[str, Any]]) -> tuple[str, str]:
    return events[-1]["event"], events[-1].get("problem", "")


@pytest.mark.parametrize(
    ("name", "value"), [("auc", 1e308), ("auc", -0.25), ("loss", 1e308), ("accuracy", 1.0001), ("num_examples", 0.5)]
)
def test_the_gate_lets_no_metric_out_that_cannot_be(federation: PlayedFederation, name: str, value: float) -> None:
    played = federation.deployment.silos[BAD]
    played.play(train=lambda frame: trained(frame.weights(), metrics={**METRICS, name: value}))
    try:
        events = federation.run("gate")
    finally:
        played.play()
    assert outcome(events) == ("run.completed", "")
    assert closed(events) == [GOOD]
    refusals = {(one["silo"], one["rule"]) for one in events if one["event"] == "silo.refused"}
    assert refusals == {(BAD, "egress.metrics.range")}
    (refusal, *_) = [one for one in events if one["event"] == "silo.refused"]
    assert name in refusal["reason"]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"auc": 1e308}, "auc"),
        ({"auc": float("nan")}, "auc"),
        ({"loss": float("inf")}, "loss"),
        ({"loss": -1e308, "accuracy": 5e-324}, "loss"),
        ({"brier": 0.5}, "brier"),
        ({"evil\x1b[2J": 0.5}, "did not ask for"),
    ],
)
def test_the_coordinator_drops_the_silo_and_goes_on(
    federation: PlayedFederation, metrics: dict[str, float], said: str
) -> None:
    with federation.lying(BAD, train={"metrics": metrics}, evaluate={"metrics": metrics}):
        events = federation.run("hub")
    assert outcome(events) == ("run.completed", "")
    assert closed(events) == [GOOD]
    found = dropped(events)
    assert {silo for silo, _ in found} == {BAD}
    assert all(said in reason for _, reason in found)
    (evaluated,) = [event for event in events if event["event"] == "run.evaluated"]
    assert set(evaluated["silos"]) == GOOD
    run = events[0]["run"]
    refused = entries_of(federation.founded.coordinator.audit, run=run, action="answer.refused")
    assert [entry["detail"]["silo"] for entry in refused] == [BAD] * 2, "the round and the evaluation"
    assert not any("\x1b" in str(event) for event in events)


@pytest.mark.parametrize(
    "config",
    [
        {"steps": 0},
        {"steps": 2**62, "planned": 2**62},
        {"planned": -1},
        {"examples": 10**15},
        {"examples": 0},
        {"steps": 5.0},
        {"policy": "sha256:" + "g" * 64},
    ],
)
def test_a_number_beside_the_weights_costs_the_silo_alone(
    federation: PlayedFederation, config: dict[str, object]
) -> None:
    with federation.lying(BAD, train={"config": config}):
        events = federation.run("beside")
    assert outcome(events) == ("run.completed", "")
    assert closed(events) == [GOOD]


@pytest.mark.parametrize(
    ("strategy", "value"), [("fedprox", 3e38), ("median", float("nan")), ("qfedavg", 4097.0), ("fedadam", -3e38)]
)
def test_weights_that_cannot_be_folded_cost_the_silo_alone(
    federation: PlayedFederation, strategy: str, value: float
) -> None:
    path = federation.run_file("strategy", rounds="1", quorum="2")
    path.write_text(path.read_text().replace("  name: fedprox", f"  name: {strategy}"))
    with federation.lying(BAD, train={"weights": value}):
        events = federation.follow(federation.submit(path))
    assert outcome(events) == ("run.completed", "")
    assert closed(events) == [GOOD]


@pytest.mark.parametrize(
    "lie",
    [
        {"query.initial": {"weights": float("nan")}},
        {"query.initial": {"weights": 3e38}},
        {"query.initial": {"weights": 0.5}},
        {"query.initial": {"weights": 0.5, "more": 3}},
        {"query.admit": {"config": {"shapes": '[{"name": "dense", "shape": [536870912]}]'}}},
        {"query.admit": {"config": {"learning_rate": 0.5}}},
        {"query.admit": {"config": {"learning_rate": float("nan")}}},
        {"query.admit": {"config": {"examples": 10**15}}},
        {"query.admit": {"config": {"epsilon": float("nan"), "delta": 1e-5}}},
        {"query.admit": {"config": {"initial_digest": "sha256:" + "0" * 64}}},
        {"query.admit": {"config": {"shapes": "[" * 100_000}}},
    ],
)
def test_what_one_silo_announces_or_begins_with_ends_no_run(
    federation: PlayedFederation, lie: dict[str, dict[str, Any]]
) -> None:
    with federation.lying(BAD, **lie):
        events = federation.run("begin")
    assert outcome(events) == ("run.completed", "")
    (folded,) = closed(events)
    assert folded >= GOOD


def test_a_run_whose_every_silo_is_bad_fails_with_a_sentence_that_names_them(federation: PlayedFederation) -> None:
    def bad(frame: Frame) -> Frame:
        return trained(frame.weights(), metrics={**METRICS, "auc": 1e308})

    for silo in federation.deployment.silos.values():
        silo.play(train=bad)
    try:
        kind, problem = outcome(federation.run("all"))
    finally:
        for silo in federation.deployment.silos.values():
            silo.play()
    assert kind == "run.failed"
    assert all(name in problem for name in (BAD, *GOOD))
    assert "egress.metrics.range" in problem
    assert "fault" not in problem
