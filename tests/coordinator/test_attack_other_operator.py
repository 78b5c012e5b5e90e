"""An operator whom no silo admitted reads another operator's results, or ends another's run unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from coordinator.checkpoints import Checkpoints
from coordinator.events import EventLog
from coordinator.recorded import RecordedRun, read_signed
from coordinator.releases import Releases
from federation.errors import RefusedError
from federation.release import request_release
from federation.wire import Envelope, weights_digest

from .test_control import Hub, follow, hub  # noqa: F401  a fixture

WEIGHTS = np.arange(6, dtype=np.float32)
OTHER = "ops-b"


def completed(hub: Hub) -> str:  # noqa: F811
    """A run of `ops` in which two silos took part, as it is kept after its end."""
    run = hub.submit()
    hub.coordinator._runs.stop()
    directory = hub.homes["hub"].runs / run
    (directory / "events.jsonl").unlink()
    log = EventLog(directory / "events.jsonl")
    log.emit("run.started", name="x", purpose="HMB", strategy="fedprox", rounds=1, silos=["silo-a", "silo-b"])
    for silo in ("silo-a", "silo-b"):
        log.emit("silo.admitted", silo=silo, examples=140)
    log.emit("run.evaluated", metrics={"auc": 0.75}, model=weights_digest(WEIGHTS))
    log.emit("run.completed")
    log.close()
    for name in ("model.npz", "statistics.json", "passport.json"):
        (directory / name).write_bytes(name.encode())
    state = {"digest": weights_digest(WEIGHTS), "shapes": [["kernel", [6]]]}
    Checkpoints(directory).save(1, WEIGHTS, state)
    return run


@pytest.fixture
def restarted(hub: Hub) -> tuple[Hub, str]:  # noqa: F811
    """A coordinator that was started again after the run."""
    run = completed(hub)
    hub.coordinator._runs.know([RecordedRun(hub.homes["hub"].runs / run)])
    return hub, run


@pytest.mark.parametrize("what", ["", "/events", "/statistics", "/submission"])
def test_what_tells_of_the_silos_data_goes_to_the_operator_whom_they_admitted(
    restarted: tuple[Hub, str], what: str
) -> None:
    here, run = restarted
    assert here.control(f"runs/{run}{what}").status == 200
    answer = here.control(f"runs/{run}{what}", who=OTHER)
    assert answer.status == 422
    assert answer.json["exit_code"] == 3
    assert answer.json["error"].startswith(f"got {OTHER}, expected ops, who submitted {run}; ask ops")
    refused = here.actions()[-1]
    assert (refused["action"], refused["decision"], refused["rule"]) == ("run.access", "deny", "control.owner")
    assert (refused["actor"], refused["resource"]) == ("spiffe://cardio.example/operator/ops-b", f"run/{run}")


@pytest.mark.parametrize("what", ["model", "checkpoints/1"])
def test_a_model_goes_to_another_operator_after_every_silo_released_it(restarted: tuple[Hub, str], what: str) -> None:
    here, run = restarted
    assert here.control(f"runs/{run}/{what}").status == 200
    answer = here.control(f"runs/{run}/{what}", who=OTHER)
    assert (answer.status, answer.json["exit_code"]) == (422, 3)
    assert f"silo-a, silo-b have not released the model of {run} to {OTHER}" in answer.json["error"]


class Silos:
    """Gates that are connected and say what a test has them say."""

    def __init__(self, **says: str) -> None:
        self.says = {name.replace("_", "-"): status for name, status in says.items()}
        self.asked: list[str] = []
        self.reason = "y"

    @contextmanager
    def opened(self) -> Iterator[Callable[..., dict[str, Envelope]]]:
        def ask(kind: str, question: Envelope, silos: dict[str, int], seconds: float) -> dict[str, Envelope]:
            self.asked += silos
            return {silo: Envelope({"status": self.says[silo], "rule": "x", "reason": self.reason}) for silo in silos}

        yield ask


def test_each_silo_is_asked_before_another_operator_gets_a_model(restarted: tuple[Hub, str]) -> None:
    """Also the silos whose policy keeps no model from the run's own operator: this one was no party of the run."""
    here, run = restarted
    gates = Silos(silo_a="released", silo_b="refused")
    coordinator = here.coordinator
    releases = Releases(gates, lambda: {"silo-a": 1, "silo-b": 2}, coordinator._manifest, coordinator._log)
    directory = here.homes["hub"].runs / run
    kept, other = (run, directory, RecordedRun(directory).events.after(0, 0.0)[0]), here.homes[OTHER]
    digest = read_signed(directory).digest
    request = request_release(run, digest, weights_digest(WEIGHTS), other.private_key(), other.certificate.read_bytes())
    assert releases.ask(kept, request, other.identity())["silo-b"]["status"] == "refused"
    with pytest.raises(RefusedError, match=f"silo-b has not released the model of {run} to {OTHER}"):
        releases.require(kept, other.identity())
    gates.says["silo-b"] = "released"
    releases.ask(kept, request, other.identity())
    assert gates.asked == ["silo-a", "silo-b", "silo-b"]
    releases.require(kept, other.identity())
    assert here.control(f"runs/{run}/model", who=OTHER).body == b"model.npz"
    assert here.control(f"runs/{run}/statistics", who=OTHER).status == 422


def test_a_silo_that_refuses_without_a_reason_keeps_no_other_silos_release_from_being_recorded(
    restarted: tuple[Hub, str],
) -> None:
    here, run = restarted
    coordinator, directory, other = here.coordinator, here.homes["hub"].runs / run, here.homes[OTHER]
    gates = Silos(silo_a="", silo_b="released")
    gates.reason = ""
    releases = Releases(gates, lambda: {"silo-a": 1, "silo-b": 2}, coordinator._manifest, coordinator._log)
    digest, model = read_signed(directory).digest, weights_digest(WEIGHTS)
    request = request_release(run, digest, model, other.private_key(), other.certificate.read_bytes())
    kept = run, directory, RecordedRun(directory).events.after(0, 0.0)[0]
    said = releases.ask(kept, request, other.identity())
    assert {silo: fields["status"] for silo, fields in said.items()} == {"silo-a": "refused", "silo-b": "released"}
    decided = {entry["detail"]["silo"]: entry["decision"] for entry in here.actions()[-2:]}
    assert decided == {"silo-a": "deny", "silo-b": "allow"}
    with pytest.raises(RefusedError, match="silo-a has not released"):
        releases.require(kept, other.identity())


def test_the_list_of_runs_shows_metrics_to_their_own_operator_alone(restarted: tuple[Hub, str]) -> None:
    here, run = restarted
    assert here.control("runs").json[0]["metrics"] == {"auc": 0.75}
    (other,) = here.control("runs", who=OTHER).json
    assert (other["run"], other["state"], "metrics" in other) == (run, "completed", False)


def test_whoever_ends_a_run_is_named(hub: Hub) -> None:  # noqa: F811
    run = hub.submit()
    assert hub.control(f"runs/{run}/stop", "POST", who=OTHER).status == 202
    assert follow(hub, run)[-1]["problem"] == f"stopped by the operator {OTHER}"
    hub.coordinator._runs.stop()
    (end,) = [entry for entry in hub.actions() if entry["action"] == "run.end"]
    assert end["reason"] == f"stopped by the operator {OTHER}"
    assert hub.control(f"runs/{run}/resume", "POST", who=OTHER).status == 422
