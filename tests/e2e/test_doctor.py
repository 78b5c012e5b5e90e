"""The examinations against a coordinator that runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from demo.federate import environment
from federation.processes import command_line

from .conftest import Door


def concordat(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = command_line(*map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=120)


def test_a_silo_and_its_coordinator_are_well_and_nothing_is_refused(door: Door) -> None:
    place = door.founded.silos["hospital-a"]
    before = len(door.audit_entries())
    done = concordat(
        "silo",
        "doctor",
        "--gate",
        place.silo_config,
        "--home",
        place.gate.path,
        "--worker",
        place.worker_config,
        "--json",
    )
    told = json.loads(done.stdout)
    assert {one["check"]: one["state"] for one in told["findings"] if one["state"] != "ok"} == {
        "gate's door": "warning"
    }
    assert {"coordinator", "clock", "name service", "dataset wisconsin"} <= {one["check"] for one in told["findings"]}
    assert (done.returncode, told["well"]) == (0, True)
    assert {entry["action"] for entry in door.audit_entries()[before:]} <= {"certificate.first_use"}
    hub = concordat("coordinator", "doctor", "--home", door.founded.coordinator.path)
    assert (hub.returncode, hub.stderr) == (0, "")
    assert [line for line in hub.stdout.splitlines() if not line.startswith("ok ")] == []


def test_a_member_of_another_kind_is_told_that_it_is_refused(door: Door) -> None:
    from federation.doctor.checks import check_coordinator
    from federation.doctor.findings import State

    (found, _clock) = check_coordinator(door.founded.operator, door.address, {})
    assert (found.state, found.remedy) == (State.FAILURE, "ask the operator")
    assert "does not reach" in found.detail


def test_what_has_to_be_mended_gives_exit_code_one(door: Door, tmp_path: Path) -> None:
    done = concordat("coordinator", "doctor", "--home", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "failure  certificate" in done.stdout
    mixed = concordat("silo", "doctor", "--home", tmp_path)
    assert mixed.returncode == 2
    assert "expected --gate with --home" in mixed.stderr
