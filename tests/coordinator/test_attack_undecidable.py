"""What the coordinator cannot decide, for a reason nobody foresaw, is a refusal that is recorded; it serves on."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.enrolment import Enrolment
from coordinator.gateway import CONTROL_PREFIX, EVIDENCE_PREFIX
from coordinator.superlink import FLEET_PREFIX
from coordinator.watch import Reactions, Watch
from federation.joining import ENROL_PATH
from federation.renewal import IDENTITY_PREFIX

from .gateway_door import Door, door_fixture, knock_fixture  # noqa: F401
from .test_control import RUN, Hub, hub  # noqa: F401

SECRET = "a value of the data \x1b[2J"
TRAPS = [AssertionError, OverflowError, RecursionError, UnicodeError, ZeroDivisionError, MemoryError, TypeError]


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.ERROR, "concordat"):
        yield


@pytest.mark.parametrize("version", ["1.0", "1.3", "2.0", "1." + "9" * 40])
@pytest.mark.parametrize("kind", ["Run", "Statistics"])
def test_a_run_with_a_directive_is_refused_with_its_place(hub: Hub, version: str, kind: str) -> None:  # noqa: F811
    text = f"%YAML {version}\n---\n" + RUN.replace("kind: Run", f"kind: {kind}")
    answer = hub.control("runs", "POST", hub.signed(text))
    assert answer.status == 422
    assert "run.yaml:1:1: got the directive" in answer.json["error"]
    assert hub.control("runs").json == []
    assert hub.submit()


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize(
    ("who", "path"), [("ops", CONTROL_PREFIX + "runs"), ("aud", EVIDENCE_PREFIX + "x"), ("ops", IDENTITY_PREFIX + "x")]
)
def test_a_fault_at_any_interface_is_a_refusal_that_is_recorded(
    door: Door,
    knock: Any,
    federation: Any,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
    who: str,
    path: str,
) -> None:
    recorded: list[tuple[str, str, str]] = []
    door.application.undecided = lambda peer, at, reason: recorded.append((peer.name, at, reason))
    door.raises = kind(SECRET)
    answer = knock.call(federation.homes[who], path, "POST", b"{}")
    assert answer.status == 500
    assert recorded == [(who, path, f"evaluation-error: an error of type {kind.__name__}")]
    assert answer.json["error"] == recorded[0][2]
    assert SECRET not in answer.body.decode()
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{kind.__name__} at" in said
    assert SECRET not in said
    door.raises = None
    assert knock.call(federation.homes[who], path, "POST", b"{}").status == 200


def test_a_fault_in_flower_is_a_refusal_that_is_recorded(
    door: Door,
    knock: Any,
    federation: Any,
    headers_of: Any,
) -> None:
    recorded: list[str] = []
    door.application.undecided = lambda _peer, _path, reason: recorded.append(reason)
    home = federation.homes["silo-a"]

    def broken(*_: object) -> None:
        raise AssertionError(SECRET)

    door.link.fleet = broken  # type: ignore[method-assign, assignment]
    answer = knock.call(home, FLEET_PREFIX + "get-run", "POST", b"", headers_of(home))
    assert (answer.status, recorded) == (500, ["evaluation-error: an error of type AssertionError"])


def test_the_whole_coordinator_records_it(hub: Hub) -> None:  # noqa: F811
    def broken(*_: object) -> None:
        raise AssertionError(SECRET)

    hub.coordinator._runs.submit = broken  # type: ignore[method-assign, assignment]
    assert hub.control("runs", "POST", hub.signed()).status == 500
    entry = hub.actions()[-1]
    assert (entry["action"], entry["decision"], entry["rule"]) == ("request.refused", "deny", "evaluation-error")
    assert entry["actor"] == "spiffe://cardio.example/operator/ops"
    assert SECRET not in json.dumps(entry)


def test_a_stranger_at_enrolment_learns_nothing_of_a_fault(
    client: Any, found: Any, caplog: pytest.LogCaptureFixture
) -> None:
    recorded: list[tuple[str, ...]] = []

    class Authority:
        invitations = SimpleNamespace(knows=lambda _token: True)

        def redeem(self, *_: object) -> None:
            raise AssertionError(SECRET)

    def record(actor: str, decision: str, rule: str, reason: str, _: object) -> None:
        recorded.append((actor, decision, rule, reason))

    enrolment = Enrolment(Authority(), record, lambda: None)  # type: ignore[arg-type]
    _, request = found().request("silo-x")
    body = json.dumps({**request.model_dump(mode="json"), "token": "A" * 43}).encode()
    answer = client(enrolment).call(None, ENROL_PATH, "POST", body)
    assert (answer.status, answer.json) == (400, {"error": "the request was refused"})
    assert recorded == [("unidentified", "deny", "evaluation-error", "an error of type AssertionError")]
    assert len(caplog.records) == 1


def test_the_thread_that_watches_the_home_goes_on_after_a_fault(
    federation: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    ticks = threading.Semaphore(0)

    def tick() -> None:
        ticks.release()
        raise AssertionError(SECRET)

    watch = Watch(
        federation.homes["hub"],
        None,
        federation.authority.manifest,
        Reactions(lambda *_: None, lambda: None, tick),
    )
    watch.start()
    try:
        assert ticks.acquire(timeout=60)
        assert ticks.acquire(timeout=60)
    finally:
        watch.stop()
    assert SECRET not in capfd.readouterr().err


def test_a_run_that_cannot_be_taken_up_for_any_reason_is_failed_and_the_coordinator_starts(
    hub: Hub,  # noqa: F811
    tmp_path: Path,
) -> None:
    run = hub.submit()
    hub.coordinator._runs.suspend()

    def broken(*_: object) -> None:
        raise AssertionError(SECRET)

    hub.coordinator._taken_up = broken  # type: ignore[method-assign, assignment]
    hub.coordinator._take_up()
    ended = [entry for entry in hub.actions() if entry["action"] == "run.end" and entry["run"] == run]
    assert [entry["detail"]["outcome"] for entry in ended] == ["failed"]
    assert "AssertionError" in ended[0]["reason"]
