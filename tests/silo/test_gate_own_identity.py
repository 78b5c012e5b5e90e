"""The gate's certificate: renewed in time by one thread, presented when the other is between two requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flwr.proto import fleet_pb2

from demo.ports import reserve_port
from federation.home import Home
from federation.identity import public_key_pem
from federation.manifest import accept_manifest, load_manifest
from federation.processes import Child, command_line, stop_all
from federation.renewal import certificate_of
from silo.gate.fleet import FleetRefusedError
from silo.gate.own_identity import RETRY, OwnIdentity

from .simulator import SILO, Consortium, found_consortium

pytestmark = pytest.mark.federation

SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return found_consortium(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def address(ours: Consortium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A coordinator that runs beside its authority."""
    place, home = f"127.0.0.1:{reserve_port()}", ours.homes["coordinator"]
    accept_manifest(home, ours.manifest.document.text, ours.manifest.signature)
    options = ["--home", str(home.path), "--listen", place, "--authority", str(ours.authority.path)]
    child = Child("hub", command_line("coordinator", "serve", *options), tmp_path_factory.mktemp("log") / "hub.log")
    try:
        child.expect("listening on", 60)
        yield place
    finally:
        stop_all([child])


@pytest.fixture
def copied(ours: Consortium, tmp_path: Path) -> Callable[[str], Home]:
    def make(name: str) -> Home:
        shutil.copytree(ours.homes[name].path, tmp_path / name)
        return Home(tmp_path / name)

    return make


def test_a_certificate_is_renewed_once_and_used_only_when_it_is_presented(ours: Consortium, address: str):
    home = ours.homes[SILO]
    identity = OwnIdentity(home, address)
    first = identity.certificate
    connect, key = identity.present()
    before = connect()
    assert identity.renew_if_due(first.due - SECOND) is None
    assert (identity.has_changed(), certificate_of(home)) == (False, first)

    assert identity.renew_if_due(first.due) is None
    renewed = certificate_of(home)
    assert (identity.has_changed(), renewed.serial == first.serial, identity.certificate) == (True, False, first)
    assert identity.renew_if_due(first.due + SECOND) is None
    assert certificate_of(home) == renewed, "one waits to be presented, so no further one is asked for"
    activate = fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30)
    node = before.call("activate-node", activate, fleet_pb2.ActivateNodeResponse).node_id

    connect, newer = identity.present()
    assert newer == public_key_pem(home.private_key().public_key()) != key
    assert (identity.has_changed(), identity.certificate) == (False, renewed)
    after, activate = connect(), fleet_pb2.ActivateNodeRequest(public_key=newer, heartbeat_interval=30)
    assert after.call("activate-node", activate, fleet_pb2.ActivateNodeResponse).node_id == node
    with pytest.raises(FleetRefusedError, match="was superseded by a newer one"):
        before.call("activate-node", activate, fleet_pb2.ActivateNodeResponse)
    before.close()
    after.close()


def test_a_renewal_that_fails_is_tried_again_later_and_leaves_the_certificate(copied: Callable[[str], Home]):
    home = copied("hospital-b")
    identity = OwnIdentity(home, f"127.0.0.1:{reserve_port()}")
    first, due = identity.certificate, identity.certificate.due
    key = home.key.read_bytes()
    assert "does not answer" in str(identity.renew_if_due(due))
    assert identity.renew_if_due(due + RETRY - SECOND) is None
    assert "does not answer" in str(identity.renew_if_due(due + RETRY))
    assert (certificate_of(home), home.key.read_bytes(), identity.has_changed()) == (first, key, False)
    identity.present()


def test_a_renewal_from_a_damaged_home_is_said_and_not_raised(copied: Callable[[str], Home], address: str):
    home = copied("hospital-b")
    identity = OwnIdentity(home, address)
    home.manifest.write_bytes(home.manifest.read_bytes() + b"#")
    assert "not signed by this federation's authority" in str(identity.renew_if_due(identity.certificate.due))


def test_the_gate_takes_a_newer_manifest_over_through_its_identity(
    ours: Consortium, copied: Callable[[str], Home], address: str
):
    home = copied("hospital-b")
    assert load_manifest(home).version < ours.manifest.version
    OwnIdentity(home, address).accept_manifest(ours.manifest.document.text, ours.manifest.signature)
    assert load_manifest(home).document.digest == ours.manifest.document.digest
