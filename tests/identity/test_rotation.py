"""A member's certificate is renewed with a new key: the name stays, the old key is worth nothing any more."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from demo.federate import environment
from demo.founding import SiloPlace
from federation.addresses import split_address
from federation.enrolment import join
from federation.errors import IdentityError, RefusedError
from federation.home import Home
from federation.identity import load_certificate, load_private_key, peer_of, public_key_pem
from federation.manifest import accept_manifest, load_manifest
from federation.operator import OperatorClient
from federation.processes import Child, command_line, stop_all
from federation.renewal import (
    certificate_of,
    install_renewed,
    is_due,
    next_signing_request,
    renew,
    request_by_courier,
    verify_courier,
)
from federation.status import status_of
from federation.tls import client_context
from federation.trust import generation_of, is_issued_by, serial_of
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError

from .conftest import FLEET, IDENTITY, Online, Training, ask, wait_until

pytestmark = pytest.mark.federation


def context(home: Home) -> Any:
    return client_context(home.certificate, home.key, home.authority)


def test_a_renewal_brings_a_new_key_under_the_old_name(online: Online):
    home = online.member("rot-a")
    before, log_key = peer_of(load_certificate(home.certificate.read_bytes())), home.log_key.read_bytes()
    certificate = renew(home, online.address, context(home))
    after = peer_of(certificate)
    assert after.uri == before.uri
    assert after.public_key != before.public_key
    assert home.log_key.read_bytes() == log_key
    assert not home.next_key.exists()
    assert public_key_pem(home.private_key().public_key()) == after.public_key
    assert oct(home.key.stat().st_mode & 0o777) == "0o600"
    granted = online.expect_entry(0, action="certificate.renew", actor=before.uri, decision="allow")
    assert granted["rule"] == "renewal.member"


def test_the_old_certificate_is_refused_once_the_new_one_was_seen(online: Online, tmp_path: Path):
    home = online.member("rot-b")
    shutil.copytree(home.path, tmp_path / "stolen")
    stolen = Home(tmp_path / "stolen")
    renew(home, online.address, context(home))
    path = FLEET + "pull-messages"
    assert "flwr-public-key" in online.call(stolen, path, "POST").text, "nobody has used the new one yet"
    assert "flwr-public-key" in online.call(home, path, "POST").text
    refused = online.call(stolen, path, "POST")
    assert (refused.status, "superseded by a newer one" in refused.text) == (403, True)
    online.expect_entry(0, action="connection.refused", actor="rot-b", reason="superseded")
    first_use = [e for e in online.entries() if e["action"] == "certificate.first_use" and "rot-b" in e["actor"]]
    assert [bool(entry["detail"]["before"]) for entry in first_use] == [False, True]


def test_a_thief_cannot_renew_what_was_superseded(online: Online, tmp_path: Path):
    home = online.member("rot-c")
    shutil.copytree(home.path, tmp_path / "stolen")
    renew(home, online.address, context(home))
    online.call(home, FLEET + "pull-messages", "POST")
    stolen = Home(tmp_path / "stolen")
    with pytest.raises(IdentityError, match="superseded"):
        renew(stolen, online.address, context(stolen))


def test_a_crash_between_certificate_and_key_is_completed(online: Online, monkeypatch: pytest.MonkeyPatch):
    home = online.member("rot-d")
    monkeypatch.setattr(Home, "private_key", lambda _: None)
    renew(home, online.address, context(home))
    monkeypatch.undo()
    assert home.next_key.exists()
    assert load_private_key(home.key).public_key() != load_certificate(home.certificate.read_bytes()).public_key()
    assert home.private_key().public_key() == load_certificate(home.certificate.read_bytes()).public_key()
    assert not home.next_key.exists()
    assert online.call(home, FLEET + "pull-messages", "POST").status == 403


def test_a_renewal_that_was_cut_short_asks_for_the_same_key(online: Online):
    home = online.member("rot-e")
    next_signing_request(home)
    key = home.next_key.read_bytes()
    renew(home, online.address, context(home))
    assert home.key.read_bytes() == key


def test_a_renewal_for_another_name_is_refused(online: Online):
    home, other = online.member("rot-f"), online.member("rot-g")
    csr = next_signing_request(other)
    before = len(online.entries())
    answer = online.call(home, IDENTITY + "renew", "POST", json.dumps({"csr": csr}).encode())
    assert (answer.status, "expected the member's own name 'CN=rot-f'" in answer.text) == (422, True)
    assert online.expect_entry(before, action="certificate.renew", decision="deny")["rule"] == "renewal.request"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"csr": 5}', b"\xff", b'{"csr": ""}'])
def test_a_renewal_that_is_none_is_refused(online: Online, body: bytes):
    answer = online.call(online.home("ops"), IDENTITY + "renew", "POST", body)
    assert (answer.status, "refused" in answer.text) == (422, True)


def test_another_members_bundle_is_not_installed(online: Online):
    home, other = online.member("rot-h"), online.member("rot-i")
    next_signing_request(home)
    content = online.call(other, IDENTITY + "renew", "POST", json.dumps({"csr": next_signing_request(other)}).encode())
    before = home.certificate.read_bytes()
    with pytest.raises(IdentityError, match="expected"):
        install_renewed(home, content.body)
    assert home.certificate.read_bytes() == before
    home.private_key()


def test_by_courier_the_present_key_speaks_for_the_next(online: Online):
    home = online.member("rot-j")
    request = request_by_courier(home)
    peer, csr = verify_courier(request, online.authority.manifest())
    assert peer.name == "rot-j"
    for field in ("csr", "signature", "certificate"):
        fields = json.loads(request)
        other = online.member(f"rot-j-{field}")
        fields[field] = json.loads(request_by_courier(other))[field]
        with pytest.raises(IdentityError, match="does not verify"):
            verify_courier(json.dumps(fields).encode(), online.authority.manifest())
    bundle = json.dumps(online.authority.bundle(online.authority.renew(peer, csr))).encode()
    join(home, bundle)
    assert online.call(home, FLEET + "pull-messages", "POST").status == 403
    with pytest.raises(IdentityError, match="not a renewal request"):
        verify_courier(b"{}", online.authority.manifest())


def test_a_certificate_is_due_at_half_its_life(online: Online):
    home = online.member("rot-k", lifetime=timedelta(days=30))
    certificate = certificate_of(home)
    assert abs(certificate.due - (datetime.now(UTC) + timedelta(days=15))) < timedelta(minutes=1)
    assert not is_due(home)
    assert is_due(home, datetime.now(UTC) + timedelta(days=16))


def test_an_expired_certificate_says_so(online: Online):
    home = online.member("rot-l", lifetime=timedelta(seconds=6))
    connection = online.connect(home)
    assert "flwr-public-key" in ask(connection, FLEET + "pull-messages", "POST").text
    before = len(online.entries())
    wait_until(lambda: certificate_of(home).left(datetime.now(UTC)) < timedelta())
    with contextlib.suppress(ConnectionError, http.client.HTTPException):  # cut meanwhile, if a manifest was accepted
        assert ask(connection, FLEET + "pull-messages", "POST").status == 403
        online.expect_entry(before, actor="rot-l", decision="deny", reason="not now")
    status = status_of(home)
    assert status.seconds_left < 0
    assert "EXPIRED" in "\n".join(status.lines())
    assert "renew it, or set this machine's clock right" in status.problem


def node(online: Online, home: Home) -> tuple[Callable[[], FleetConnection], bytes]:
    host, port = split_address(online.address)
    key = home.private_key()
    made = context(home)
    return lambda: FleetConnection(host, port, made, key), public_key_pem(key.public_key())


def test_a_node_keeps_its_id_and_its_messages_across_a_key_change(online: Online):
    """What was posted to the member before the change is pulled after it."""
    home = online.member("rot-m")
    fleet = FleetNode(*node(online, home))
    first = fleet.activate()
    renew(home, online.address, context(home))
    assert fleet.try_use(lambda: node(online, home))
    assert fleet.activate() == first
    fleet.close()


def test_the_old_key_no_longer_acts_for_the_node(online: Online, tmp_path: Path):
    home = online.member("rot-n")
    shutil.copytree(home.path, tmp_path / "stolen")
    stolen = FleetNode(*node(online, Home(tmp_path / "stolen")))
    stolen.activate()
    renew(home, online.address, context(home))
    fleet = FleetNode(*node(online, home))
    fleet.activate()
    with pytest.raises(FleetRefusedError, match="superseded"):
        stolen.pull()
    with pytest.raises(FleetRefusedError, match="superseded"):
        stolen.activate()
    fleet.close()
    stolen.close()


def test_the_coordinator_renews_its_own_certificate_and_goes_on(short_tmp: Callable[[str], Path]):
    federation = Online(short_tmp("own"), "16s")
    home = federation.member("silo-a", lifetime=timedelta(days=1))
    child = federation.start()
    try:
        old = federation.connect(home)
        serial = certificate_of(federation.coordinator).serial
        loaded = federation.expect_entry(0, action="certificate.loaded")
        assert loaded["detail"]["serial"] != serial
        new = federation.connect(home)
        assert "flwr-public-key" in ask(old, FLEET + "pull-messages", "POST").text
        assert "flwr-public-key" in ask(new, FLEET + "pull-messages", "POST").text
    finally:
        stop_all([child])


def test_without_an_authority_at_hand_a_renewal_says_what_to_do(short_tmp: Callable[[str], Path]):
    federation = Online(short_tmp("off"))
    home = federation.member("silo-a")
    newest = federation.authority.manifest()
    accept_manifest(federation.coordinator, newest.document.text, newest.signature)
    arguments = command_line("coordinator", "serve", "--home", str(federation.coordinator.path))
    child = Child("coordinator", arguments, federation.directory / "c.log", environment())
    try:
        child.expect("listening on", 60)
        with pytest.raises(IdentityError, match="this coordinator holds no authority"):
            renew(home, federation.address, context(home))
        home.private_key()
    finally:
        stop_all([child])


def rotations(place: SiloPlace) -> int:
    segments = sorted((place.gate.audit / "segments").glob("*.jsonl"))
    return sum(path.read_text().count('"action":"certificate.loaded"') for path in segments)


def test_certificates_rotate_under_a_run_and_no_round_is_dropped(training: Training):
    founded = training.founded
    places = founded.silos.values()
    rounds: list[dict[str, Any]] = []
    target = 0
    with OperatorClient(founded.operator) as client, OperatorClient(founded.operator) as other:
        run_id = client.submit(training.endless_run)
        for event in client.follow(run_id):
            if event["event"] != "round.closed":
                continue
            rounds.append(event)
            if len(rounds) == 1:
                before = {place.name: rotations(place) for place in places}
            if target == 0 and all(rotations(place) > before[place.name] for place in places):
                target = len(rounds) + 10
            if len(rounds) == target:
                other.stop(run_id)
    assert len(rounds) >= target > 0, "every silo changed its key while the run went on"
    assert all(len(event["silos"]) == 3 and not event["dropped"] for event in rounds), "no round missed anyone"


def coordinators_entries(training: Training) -> list[dict[str, Any]]:
    segments = sorted((training.founded.coordinator.audit / "segments").glob("*.jsonl"))
    lines = [line for path in segments for line in path.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_a_gate_at_work_presents_its_new_certificate_at_once(training: Training):
    """A task that outlasts the certificate: its heartbeats, and what comes after them, are the new certificate's."""
    founded = training.founded
    name, place = next(iter(founded.silos.items()))
    worker = training.deployment.children[f"{name}-worker"].pid
    held: list[int] = []
    closed: list[dict[str, Any]] = []
    address = founded.manifest.federation.coordinator.addresses[0]
    with OperatorClient(founded.operator) as client, OperatorClient(founded.operator) as other:
        run_id = client.submit(training.endless_run)
        try:
            for event in client.follow(run_id):
                if event["event"] != "round.closed":
                    continue
                closed.append(event)
                if len(closed) == 3:
                    held = processes_below(worker)
                    for process in held:
                        os.kill(process, signal.SIGSTOP)
                    wait_until(lambda: is_round_open(training), "a task that waits for the worker")
                    before = len(coordinators_entries(training))
                    serial = serial_of(renew(place.gate, address, context(place.gate)))
                    wait_until(lambda: is_used(training, serial), "the first use of the new certificate")  # noqa: B023
                    assert is_round_open(training), "used while the task goes on"
                    for process in held:
                        os.kill(process, signal.SIGCONT)
                if len(closed) == 5:
                    other.stop(run_id)
        finally:
            for process in held:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
    assert all(len(event["silos"]) == 3 and not event["dropped"] for event in closed), "no round missed anyone"
    refused = [entry for entry in coordinators_entries(training)[before:] if entry["action"] == "connection.refused"]
    assert refused == []


def processes_below(process: int) -> list[int]:
    """A process and all those that it started, itself first."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(found for child in children for found in processes_below(int(child)))]


def is_used(training: Training, serial: str) -> bool:
    uses = [entry for entry in coordinators_entries(training) if entry["action"] == "certificate.first_use"]
    return any(entry["detail"]["serial"] == serial for entry in uses)


def is_round_open(training: Training) -> bool:
    actions = [entry["action"] for entry in coordinators_entries(training)]
    return [action for action in actions if action in {"round.begin", "round.end"}][-1] == "round.begin"


def test_the_issuing_authority_is_replaced_and_retired_under_a_run_and_no_round_is_dropped(training: Training):
    founded = training.founded
    authority, places = founded.authority, list(founded.silos.values())
    rounds: list[dict[str, Any]] = []
    target = 0

    def issuers(*arguments: str) -> None:
        command = command_line("federation", "issuer", arguments[0], str(authority.path), *arguments[1:])
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    before = {home.path: home.certificate.read_bytes() for home in (founded.coordinator, *(p.gate for p in places))}
    stolen = Home(founded.directory / "of-the-old-one")
    shutil.copytree(founded.operator.path, stolen.path)
    with OperatorClient(founded.operator) as client:
        run_id = client.submit(training.endless_run)
        first = next(event for event in client.follow(run_id) if event["event"] == "round.closed")
    issuers("replace", "--root-key", str(authority.root_key))
    wait_until(lambda: authority.remaining() == ["operator"], "everyone's renewal")
    renew(founded.operator, founded.manifest.federation.coordinator.addresses[0], context(founded.operator))
    with OperatorClient(founded.operator) as client:
        for event in client.follow(run_id, first["number"]):
            if event["event"] != "round.closed":
                continue
            rounds.append(event)
            if not target and all(is_of_the_newest(place.gate) for place in places):
                issuers("retire", "--reason", "planned")
                wait_until(lambda: is_retired(training), "the retirement")
                begun = [entry for entry in coordinators_entries(training) if entry["action"] == "round.begin"]
                target = begun[-1]["round"] + 5
            if target and event["round"] >= target:
                client.stop(run_id)
                break
    assert all(len(event["silos"]) == 3 and not event["dropped"] for event in rounds), "no round missed anyone"
    assert all(Home(path).certificate.read_bytes() != content for path, content in before.items())
    with OperatorClient(stolen) as late, pytest.raises(RefusedError, match="issuing authority 1 was retired on"):
        late.runs()


def is_retired(training: Training) -> bool:
    accepted = [entry for entry in coordinators_entries(training) if entry["action"] == "manifest.accept"]
    return bool(accepted) and accepted[-1]["detail"]["issuers_retired"] == "1"


def is_of_the_newest(home: Home) -> bool:
    issuer = load_manifest(home).issuer
    return generation_of(issuer) == 2 and is_issued_by(load_certificate(home.certificate.read_bytes()), issuer)
