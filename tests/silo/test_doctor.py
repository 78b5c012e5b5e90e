"""The examination of a silo: its gate's side, its worker's side."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import trustme

from audit.entry import Event
from audit.erasure import set_bound
from audit.keys import load_key
from audit.log import AuditLog
from federation.doctor.findings import Finding, State
from federation.home import Home
from federation.member_logs import log_origin
from federation.processes import command_line
from federation.status import status_of
from silo.doctor import examine_gate, examine_worker

from .simulator import POLICY, SILO, Consortium

GATE = "apiVersion: concordat/v1\nkind: Silo\npolicy: policy.yaml\n"
WORKER = """\
apiVersion: concordat/v1
kind: Worker
silo: hospital-a
socket: gate.sock
scratch: scratch
datasets:
  heart: {format: csv, path: heart.csv}
  lung: {format: parquet, path: lung.parquet}
"""


def by_check(found: list[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in found}


@pytest.fixture
def place(short_path: Path) -> Path:
    (short_path / "policy.yaml").write_text(POLICY)
    return short_path


def _gate(place: Path, more: str = "socket: worker.sock\n") -> Path:
    path = place / "silo.yaml"
    path.write_text(GATE + more)
    return path


def test_a_gate_that_would_start_is_well_but_for_the_coordinator(consortium: Consortium, place: Path) -> None:
    found = by_check(examine_gate(consortium.homes[SILO], _gate(place)))
    assert {name for name, one in found.items() if one.state is not State.OK} == {"coordinator"}
    assert "127.0.0.1:1 does not answer" in found["coordinator"].detail
    assert found["policy"].detail == "hospital-a version 1 loads, silo in DE"


def test_a_policy_for_another_country_is_found(consortium: Consortium, place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY.replace("silo: DE", "silo: FR"))
    policy = by_check(examine_gate(consortium.homes[SILO], _gate(place)))["policy"]
    assert (policy.state, policy.detail) == (State.FAILURE, "it places this silo in FR, the manifest in DE")


def test_a_policy_that_cannot_be_read_is_found_with_its_position(consortium: Consortium, place: Path) -> None:
    (place / "policy.yaml").write_text(POLICY.replace("max_rounds: 10", "max_rounds: many"))
    policy = by_check(examine_gate(consortium.homes[SILO], _gate(place)))["policy"]
    assert policy.state is State.FAILURE
    assert "policy.yaml:17:20" in policy.detail


def test_a_place_that_is_not_the_policys_is_found(consortium: Consortium, place: Path) -> None:
    config = _gate(place, "socket: worker.sock\nplace: {country: AT}\n")
    assert "runs in AT, expected DE" in by_check(examine_gate(consortium.homes[SILO], config))["policy"].detail


def test_channel_certificates_of_two_authorities_are_found(consortium: Consortium, place: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    first.cert_pem.write_to_path(str(place / "ca.crt"))
    issued = second.issue_cert("gate")
    issued.private_key_pem.write_to_path(str(place / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(place / "tls.crt"))
    (place / "tls.key").chmod(0o600)
    files = "certificate: tls.crt, key: tls.key, authority: ca.crt, peer: worker"
    config = _gate(place, f'listen: {{address: "127.0.0.1:9551", {files}}}\n')
    door = by_check(examine_gate(consortium.homes[SILO], config))["worker's door"]
    assert (door.state, door.remedy) == (State.FAILURE, "issue both ends' certificates by one authority")
    first.issue_cert("gate").cert_chain_pems[0].write_to_path(str(place / "tls.crt"))
    assert by_check(examine_gate(consortium.homes[SILO], config))["worker's door"].state is State.OK


def test_an_unenrolled_home_says_so_and_nothing_is_raised(place: Path) -> None:
    from federation.home import Home

    found = by_check(examine_gate(Home(place / "none"), _gate(place)))
    assert {found[name].state for name in ("permissions", "certificate", "manifest")} == {State.FAILURE}


@pytest.fixture
def worker(short_path: Path) -> Path:
    table = pd.DataFrame({"age": [1, 2], "sex": [0, 1]})
    table.to_csv(short_path / "heart.csv", index=False)
    table.to_parquet(short_path / "lung.parquet")
    (short_path / "worker.yaml").write_text(WORKER)
    return short_path / "worker.yaml"


def test_scratch_that_the_worker_will_make_is_no_failure(worker: Path) -> None:
    worker.write_text(WORKER.replace("scratch: scratch", "scratch: new/run/scratch"))
    assert by_check(examine_worker(worker))["scratch"].state is State.OK
    (worker.parent / "new").touch()
    assert by_check(examine_worker(worker))["scratch"].state is State.FAILURE


def test_a_workers_datasets_are_shown_by_their_columns(worker: Path) -> None:
    found = by_check(examine_worker(worker))
    assert found["dataset heart"] == Finding("dataset heart", State.OK, "2 columns: age, sex")
    assert found["dataset lung"] == Finding("dataset lung", State.OK, "2 columns: age, sex")
    assert found["gate's door"].state is State.WARNING


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "heart.csv is missing; correct datasets in worker.yaml, or mount the data"),
        ("age;sex\n1;0\n", "has one column; see whether separator in worker.yaml is the file's"),
        ("age,age\n1,0\n", "a column's name comes twice"),
        ("", "has one column"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_found(worker: Path, content: str | None, said: str) -> None:
    path = worker.with_name("heart.csv")
    path.unlink()
    if content is not None:
        path.write_text(content)
    found = by_check(examine_worker(worker))["dataset heart"]
    assert found.state is State.FAILURE
    assert said in str(found)


def test_a_file_that_is_no_parquet_is_found(worker: Path) -> None:
    worker.with_name("lung.parquet").write_bytes(b"age,sex\n1,0\n")
    found = by_check(examine_worker(worker))["dataset lung"]
    assert (found.state, "is no Parquet file" in found.detail) == (State.FAILURE, True)


def test_a_payload_past_the_policys_maximum_is_found(consortium: Consortium, place: Path) -> None:
    home = Home(shutil.copytree(consortium.homes[SILO].path, place / "home"))
    assert by_check(examine_gate(home, _gate(place))).get("retention") is None
    peer = home.identity()
    origin = log_origin(peer.federation, peer.role, peer.name)
    then = datetime(2024, 2, 1, tzinfo=UTC)
    with AuditLog.open(home.audit, origin=origin, key=load_key(home.log_key), clock=lambda: then) as log:
        log.append(Event(peer.uri, "round.egress", "run/r", payload={"loss": 0.5}))
        set_bound(log, "payload:*=P30D..P9999Y", peer.uri, "sha256:" + "1" * 64)
        assert by_check(examine_gate(home, _gate(place)))["retention"].state is State.OK
        assert status_of(home).problem == ""
        set_bound(log, "payload:*=P30D..P1Y", peer.uri, "sha256:" + "2" * 64)
        found = by_check(examine_gate(home, _gate(place)))["retention"]
    assert found.state is State.FAILURE
    assert "a payload of 2024-02-01, past the policy's maximum" in found.detail
    status = status_of(home)
    assert "payload of 2024-02-01" in status.problem
    assert "retention    payload:*=P30D..P1Y" in status.lines()
    command = command_line("audit", "retention", "--home", str(home.path), "--apply")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["policy: payload:*=P30D..P1Y", "due: 1 payloads, 0 segments with 0 entries"]
    assert status_of(home).problem == ""
    assert by_check(examine_gate(home, _gate(place)))["retention"].state is State.OK
