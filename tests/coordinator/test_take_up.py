"""What a coordinator finds of a run when it is started again, without silos."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.entry import Event
from coordinator.checkpoints import Checkpoints
from coordinator.recorded import INTERRUPTED, RecordedRun, describe, logged_of
from coordinator.strategies import strategy_of
from coordinator.strategies.proximal import ProximalTerm
from federation.errors import ConcordatError
from federation.run import AdaptiveMu, Strategy, StrategyName
from federation.wire import Weights, weights_digest

from .test_control import Hub, follow, hub  # noqa: F401  a fixture


def vector(*values: float) -> Weights:
    return np.array(values, dtype=np.float32)


def saved(checkpoints: Checkpoints, number: int, **strategy: Weights) -> Weights:
    weights = vector(number, 0.5)
    checkpoints.save(number, weights, {"digest": weights_digest(weights)}, strategy)
    return weights


@pytest.mark.parametrize("name", ["scaffold", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedavg", "median"])
def test_a_strategy_goes_on_from_its_checkpoint_with_the_same_bits(name: StrategyName, tmp_path: Path) -> None:
    """Five rounds at a stretch, and five with a checkpoint and a new process' strategy after the second."""
    options = Strategy(name=name, rounds=5)
    updates = [np.random.default_rng(n).normal(size=8).astype(np.float32) for n in range(5)]

    def step(server: Any, model: Weights, update: Weights) -> Weights:
        server.admitted(3, 0.1)
        sent.append(server.outgoing(model).tobytes())
        fold = server.begin(model, 10)
        fold.fold("a", update, 10, {"loss": 1.0}, 4)
        return np.array(fold.result())

    sent: list[bytes] = []
    one = two = np.zeros(8, dtype=np.float32)
    straight, server, checkpoints = strategy_of(options), strategy_of(options), Checkpoints(tmp_path)
    for number, update in enumerate(updates, 1):
        one, two = step(straight, one, update), step(server, two, update)
        if number == 2:
            checkpoints.save(2, two, {"digest": weights_digest(two)}, server.state())
            point = checkpoints.newest()
            assert point is not None
            server, two = strategy_of(options), point.weights
            server.restore(point.strategy)
    assert two.tobytes() == one.tobytes()
    assert sent[::2] == sent[1::2]


def test_an_adaptive_mu_goes_on_where_it_was() -> None:
    losses = [1.0, 0.9, 0.8, 0.9, 0.7, 0.6, 0.5, 0.4]
    straight, broken = (ProximalTerm(0.3, AdaptiveMu(step=0.1, patience=2)) for _ in range(2))
    for loss in losses:
        straight.saw(loss)
        broken.saw(loss)
        again = ProximalTerm(9.0, AdaptiveMu(step=0.1, patience=2))
        again.restore(json.loads(json.dumps(broken.state())))
        broken = again
        assert broken.state() == straight.state()


@pytest.mark.parametrize("suffix", ["f32", "json"])
@pytest.mark.parametrize("cut", [0, 1, 11])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, suffix: str, cut: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    before = saved(checkpoints, 4, momentum=vector(7.0, 8.0))
    saved(checkpoints, 5, momentum=vector(9.0, 9.0))
    path = tmp_path / "checkpoints" / f"000005.{suffix}"
    path.write_bytes(path.read_bytes()[:cut])
    found = checkpoints.newest()
    assert found is not None
    assert (found.number, found.damaged, found.weights.tolist()) == (4, (5,), before.tolist())
    assert found.strategy["momentum"].tolist() == [7.0, 8.0]


def test_a_changed_vector_of_the_strategy_is_damage(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(checkpoints, 1, first=vector(1.0, 2.0), second=vector(3.0, 4.0))
    path = tmp_path / "checkpoints" / "000001.f32"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConcordatError, match="no checkpoint can be read: those of rounds 1 are damaged"):
        checkpoints.newest()


def test_without_a_closed_round_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest() is None


def test_the_log_says_which_rounds_of_a_run_are_closed() -> None:
    def entry(action: str, run: str = "r", round: int | None = None) -> dict[str, Any]:  # noqa: A002
        return {"action": action, "run": run, "round": round, "detail": {"model": f"m{round}"}}

    found = logged_of(
        [entry("run.submit"), entry("run.begin"), entry("round.end", round=1), entry("round.end", "other", 2)], "r"
    )
    assert (found.submitted, found.begun, found.closed) == (True, True, {1: "m1"})


def again(hub: Hub) -> Hub:  # noqa: F811
    """The coordinator's next process, over the same home."""
    hub.coordinator._log.close()
    hub.coordinator._runs.suspend()
    return Hub(hub.founded, type(hub.client))


def test_an_interrupted_run_is_taken_up_and_its_events_go_on(hub: Hub) -> None:  # noqa: F811
    run = hub.submit()
    hub.coordinator._runs.suspend()
    assert RecordedRun(hub.homes["hub"].runs / run).state == INTERRUPTED
    other = again(hub)
    other.coordinator._take_up()
    assert other.control(f"runs/{run}").json["state"] == "running"
    other.control(f"runs/{run}/stop", "POST")
    events = follow(other, run)
    assert [event["event"] for event in events] == ["run.started", "run.resumed", "run.stopped"]
    assert [event["number"] for event in events] == [1, 2, 3]
    other.coordinator._runs.stop()
    actions = [entry["action"] for entry in other.actions() if entry["run"] == run]
    assert actions == ["run.submit", "run.begin", "run.suspend", "run.resume", "run.end"]
    other.close()


@pytest.mark.parametrize("damage", ["app.fab", "signed.json"])
def test_a_run_that_cannot_be_taken_up_ends_with_the_reason(hub: Hub, damage: str) -> None:  # noqa: F811
    run = hub.submit()
    hub.coordinator._runs.suspend()
    path = hub.homes["hub"].runs / run / damage
    path.write_bytes(path.read_bytes()[:-9])
    other = again(hub)
    other.coordinator._take_up()
    (listed,) = other.control("runs").json
    assert (listed["run"], listed["state"]) == (run, "failed")
    assert "cannot be taken up" in follow(other, run)[-1]["problem"]
    other.close()


def test_a_run_whose_submission_is_not_in_the_log_does_not_execute(hub: Hub) -> None:  # noqa: F811
    run = hub.submit()
    hub.coordinator._runs.suspend()
    hidden = hub.homes["hub"].runs / "another-run"
    (hub.homes["hub"].runs / run).rename(hidden)
    other = again(hub)
    other.coordinator._take_up()
    assert "the log does not say that it was submitted" in follow(other, "another-run")[-1]["problem"]
    other.close()


def test_only_its_operator_resumes_a_run_and_only_one_that_failed_or_was_stopped(hub: Hub) -> None:  # noqa: F811
    run = hub.submit()
    assert "is executing" in hub.control(f"runs/{run}/resume", "POST").json["error"]
    hub.control(f"runs/{run}/stop", "POST")
    hub.coordinator._runs.stop()
    assert "signed by ops, expected ops-b" in hub.control(f"runs/{run}/resume", "POST", who="ops-b").json["error"]
    assert hub.control(f"runs/{run}/resume", "POST").status == 202
    hub.coordinator._runs.stop()
    events = follow(hub, run)
    assert [event["event"] for event in events][-2:] == ["run.resumed", "run.stopped"]
    assert describe(run, "stopped", events)["resumed"] == 1


SURVEY = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {}}
silos: [hospital-a, hospital-b]
"""


@pytest.mark.parametrize("cut", ["before the record", "after the record", "damaged"])
def test_merged_statistics_that_lie_on_disk_are_the_runs_and_no_silo_is_asked(hub: Hub, cut: str) -> None:  # noqa: F811
    """The process before this one was killed between writing them and the end of the run."""
    silos = sorted(name for name in hub.homes if name not in {"hub", "ops", "ops-b", "aud"})[:2]
    text = SURVEY.replace("hospital-a, hospital-b", ", ".join(silos))
    answer = hub.control("runs", "POST", hub.signed(text, b""))
    assert answer.status == 201, answer.body
    run = str(answer.json["run"])
    hub.coordinator._runs.suspend()
    content = json.dumps({"run": run, "silos": silos, "rows": 70}).encode()
    path = hub.homes["hub"].runs / run / "statistics.json"
    path.write_bytes(content)
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    if cut != "before the record":
        detail: dict[str, str | int | bool] = {"statistics": digest, "silos": ",".join(silos), "rows": 70}
        hub.coordinator._log.append(Event("hub", "statistics.merge", f"run/{run}", run=run, detail=detail))
    if cut == "damaged":
        path.write_bytes(content.replace(b"70", b"71"))
    other = again(hub)
    other.coordinator._take_up()
    events = follow(other, run)
    told = [event["statistics"] for event in events if event["event"] == "run.summarised"]
    if cut == "damaged":
        assert (events[-1]["event"], told) == ("run.failed", [])
        assert "not those that were recorded" in events[-1]["problem"]
    else:
        assert (events[-1]["event"], told) == ("run.completed", [digest])
    actions = [entry["action"] for entry in other.actions() if entry["run"] == run]
    assert actions.count("statistics.merge") == 1
    other.close()
