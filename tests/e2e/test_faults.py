"""A federation while its parts fail: rounds go on with the quorum, who comes back joins, every log still verifies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from federation.identity import Role
from federation.manifest import accept_manifest

from .conftest import Running, entries_of, running_in

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def federation(short_tmp: Callable[[str], Path]) -> Iterator[Running]:
    """A federation of this module's own: one of its silos is revoked, for good."""
    yield from running_in(short_tmp("faults"))


def outcome(events: list[dict[str, Any]]) -> str:
    return str(events[-1]["event"])


def rounds(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "round.closed"]


def test_a_run_completes_and_the_same_run_gives_the_same_bits(federation: Running) -> None:
    path = federation.run_file("twice", rounds="3")
    models = []
    for _ in range(2):
        events = federation.follow(federation.submit(path))
        assert outcome(events) == "run.completed", events[-1]
        models.append(next(event["model"] for event in events if event["event"] == "run.evaluated"))
    assert models[0] == models[1]


def test_a_killed_trainer_costs_its_silo_a_round_and_is_replaced(federation: Running) -> None:
    path = federation.run_file("trainer", rounds="50", quorum="2")
    killed: list[int] = []

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 4 and not killed:
            killed.append(federation.trainer_pid("hospital-c"))
            os.kill(killed[0], signal.SIGKILL)

    events = federation.follow(federation.submit(path), act)
    assert outcome(events) == "run.completed", events[-1]
    lost = [event["round"] for event in rounds(events) if "hospital-c" not in event["silos"]]
    back = [event["round"] for event in rounds(events) if "hospital-c" in event["silos"] and event["round"] > 6]
    assert len(lost) <= 1
    assert back
    assert all({"hospital-a", "hospital-b"} <= set(event["silos"]) for event in rounds(events))


def test_a_killed_gate_is_left_out_and_joins_again_when_it_is_back(federation: Running) -> None:
    path = federation.run_file("gate", rounds="50", quorum="2")
    done: list[str] = []

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 3 and not done:
            child = federation.deployment.children["hospital-b-gate"]
            child.signal(signal.SIGKILL)
            child.wait(10)
            federation.restart("hospital-b-gate").expect("connected to", 30)
            done.append("restarted")

    events = federation.follow(federation.submit(path), act)
    assert outcome(events) == "run.completed", events[-1]
    assert any(event["event"] == "silo.returned" and event["silo"] == "hospital-b" for event in events) or any(
        "hospital-b" in event["dropped"] for event in rounds(events)
    )
    assert [event["round"] for event in rounds(events)] == list(range(1, 51))


def test_below_the_quorum_the_run_fails_with_a_reason(federation: Running) -> None:
    path = federation.run_file("quorum", rounds="50", quorum="all", deadline_seconds="30")
    done: list[str] = []

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 2 and not done:
            child = federation.deployment.children["hospital-a-gate"]
            child.signal(signal.SIGKILL)
            child.wait(10)
            done.append("killed")

    events = federation.follow(federation.submit(path), act)
    assert outcome(events) == "run.failed"
    assert "hospital-a" in events[-1]["problem"] or "expected at least 3" in events[-1]["problem"]
    federation.restart("hospital-a-gate").expect("connected to", 30)


def test_an_operator_can_stop_a_run_and_start_the_next(federation: Running) -> None:
    path = federation.run_file("stopped", rounds="50")
    client = federation.client()
    run_id = federation.submit(path)

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 2:
            client.stop(run_id)

    assert outcome(federation.follow(run_id, act)) == "run.stopped"
    again = federation.follow(federation.submit(federation.run_file("next", rounds="1")))
    assert outcome(again) == "run.completed", again[-1]


def test_a_second_run_is_refused_while_one_executes(federation: Running) -> None:
    client = federation.client()
    run_id = federation.submit(federation.run_file("first", rounds="50"))
    with pytest.raises(Exception, match="is executing"):
        federation.submit(federation.run_file("second", rounds="1"))
    client.stop(run_id)
    federation.follow(run_id)


def test_policies_bind_the_run(federation: Running) -> None:
    events = federation.follow(federation.submit(federation.run_file("long", rounds="51")))
    assert outcome(events) == "run.refused"
    refusals = {event["silo"]: event for event in events if event["event"] == "silo.refused"}
    assert set(refusals) == {"hospital-a", "hospital-b", "hospital-c"}
    assert all(refusal["rule"] == "runs.max_rounds" for refusal in refusals.values())


def test_another_app_than_the_approved_one_is_refused(federation: Running, tmp_path: Path) -> None:
    """Promise 6: one changed line in the model is another digest."""
    model = federation.founded.directory / "app" / "model.py"
    original = model.read_text()
    try:
        model.write_text(original + "\n# a change\n")
        events = federation.follow(federation.submit(federation.run_file("other-app", rounds="1")))
    finally:
        model.write_text(original)
    assert outcome(events) == "run.refused"
    assert {event["rule"] for event in events if event["event"] == "silo.refused"} == {"apps.allow"}


def test_a_restarted_coordinator_finds_its_silos_again(federation: Running) -> None:
    child = federation.deployment.children["coordinator"]
    child.signal(signal.SIGKILL)
    child.wait(10)
    federation.restart("coordinator").expect("listening on", 30)
    events = federation.follow(federation.submit(federation.run_file("after", rounds="2")))
    assert outcome(events) == "run.completed", events[-1]


def test_a_revoked_silo_is_cut_off_within_seconds_and_the_run_goes_on(federation: Running) -> None:
    """Its live connections are closed and new ones refused; the others finish. Nothing after this test needs it."""
    path = federation.run_file("revoked", rounds="50", quorum="2")
    gate = federation.deployment.children["hospital-c-gate"]
    times: list[float] = []

    def act(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and event["round"] == 3 and not times:
            manifest = federation.founded.authority.revoke("hospital-c", "left the consortium")
            accept_manifest(federation.founded.coordinator, manifest.document.text, manifest.signature)
            times.append(time.monotonic())
            assert gate.wait(30) == 1
            times.append(time.monotonic())

    events = federation.follow(federation.submit(path), act)
    assert outcome(events) == "run.completed", events[-1]
    assert times[1] - times[0] < 5.0
    gate.join()
    assert "was revoked on" in gate.output()
    assert "Traceback" not in gate.output()
    assert set(rounds(events)[-1]["silos"]) == {"hospital-a", "hospital-b"}
    entries = entries_of(federation.founded.coordinator.audit)
    accepted = [entry for entry in entries if entry["action"] == "manifest.accept"]
    assert accepted[-1]["detail"]["gone"] == "hospital-c"
    refused = [entry for entry in entries if entry["action"] == "connection.refused"]
    assert refused[-1]["actor"].endswith("/silo/hospital-c")
    assert "was revoked" in refused[-1]["reason"]


def test_the_worker_sees_no_network_and_the_gate_no_data(federation: Running) -> None:
    """Promise 1, from outside: the kernel's own view of both processes, while they train."""
    seen: list[tuple[list[str], Path]] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "round.closed" and not seen:
            trainer = Path(f"/proc/{federation.trainer_pid('hospital-a')}")
            interfaces = (trainer / "net/dev").read_text().splitlines()[2:]
            seen.append(([line.split(":")[0].strip() for line in interfaces], (trainer / "ns/net").readlink()))

    path = federation.run_file("looked-at", rounds="50", quorum="2")
    events = federation.follow(federation.submit(path), look)
    assert outcome(events) == "run.completed", events[-1]
    interfaces, namespace = seen[0]
    assert interfaces == ["lo"]
    assert namespace != Path("/proc/self/ns/net").readlink()
    gate = federation.pid("hospital-a-gate")
    status = Path(f"/proc/{gate}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    data = str(federation.founded.silos["hospital-a"].worker)
    opened = []
    for entry in Path(f"/proc/{gate}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            opened.append(str(entry.readlink()))
    assert opened
    assert not any(target.startswith(data) for target in opened)


def test_the_logs_of_all_this_verify(federation: Running) -> None:
    """Last in this module: the logs of a federation in which everything was killed at least once."""
    for member in federation.founded.manifest.federation.members:
        if member.role is Role.OPERATOR:
            continue
        home = (
            federation.founded.coordinator
            if member.role is Role.COORDINATOR
            else federation.founded.silos[member.name].gate
        )
        assert verify(home.audit, member.log).size > 20
