"""Who is revoked is out within five seconds, wherever its connections are; nobody brings it back."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from federation.errors import IdentityError, ManifestError, UnreachableError, UsageError
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.joining import enrol
from federation.manifest import accept_manifest, store_manifest
from federation.processes import command_line
from federation.renewal import renew
from federation.tls import client_context
from federation.trust import serial_of

from .conftest import CONTROL, FLEET, Online, ask, wait_until

pytestmark = pytest.mark.federation
SECONDS = 5.0


def serial(home: Home) -> str:
    return serial_of(load_certificate(home.certificate.read_bytes()))


def is_cut(connection: http.client.HTTPSConnection) -> bool:
    """Whether the far end closed a connection that is idle."""
    assert connection.sock is not None
    connection.sock.settimeout(0.01)
    try:
        return connection.sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_revoked_members_connections_are_cut_and_new_ones_refused_within_seconds(online: Online):
    home = online.member("rev-a", Role.OPERATOR)
    idle, other = online.connect(home), online.connect(online.home("ops"))
    assert ask(idle, CONTROL + "runs").status == 200
    assert ask(other, CONTROL + "runs").status == 200
    before, started = len(online.entries()), time.monotonic()
    online.authority.revoke("rev-a", "its laptop was stolen")
    wait_until(lambda: is_cut(idle), "the cut")
    assert time.monotonic() - started < SECONDS
    answer = online.call(home, CONTROL + "runs")
    assert (answer.status, "rev-a was revoked on" in answer.text) == (403, True)
    assert time.monotonic() - started < SECONDS
    assert not is_cut(other)
    accepted = online.expect_entry(before, action="manifest.accept", detail="rev-a")
    assert accepted["detail"]["gone"] == "rev-a"
    online.expect_entry(before, action="connection.cut", actor="operator/rev-a", reason="its laptop was stolen")
    online.expect_entry(before, action="connection.refused", actor="operator/rev-a", reason="its laptop was stolen")


def test_one_certificate_is_revoked_and_its_member_stays(online: Online):
    home = online.member("rev-b", Role.OPERATOR)
    idle = online.connect(home)
    assert ask(idle, CONTROL + "runs").status == 200
    online.authority.revoke_certificate(serial(home), "the key was copied")
    wait_until(lambda: is_cut(idle), "the cut")
    answer = online.call(home, CONTROL + "runs")
    assert (answer.status, "this certificate of rev-b was revoked on" in answer.text) == (403, True)
    fresh = Home(home.path.parent / "rev-b-fresh")
    fresh.create()
    shutil.copy(home.log_key, fresh.log_key)
    enrol(fresh, online.invite("rev-b", Role.OPERATOR))
    assert online.call(fresh, CONTROL + "runs").status == 200


def test_a_revoked_certificate_renews_nothing(online: Online):
    home = online.member("rev-c")
    online.authority.revoke_certificate(serial(home), "the key was copied")
    refused = ""

    def try_to_renew() -> bool:
        nonlocal refused
        try:
            renew(home, online.address, client_context(home.certificate, home.key, home.authority))
        except UnreachableError:
            return False  # the connection was cut while it asked
        except IdentityError as error:
            refused = str(error)
        return True

    online.wait_for_manifest()
    wait_until(try_to_renew, "an answer")
    assert "was revoked on" in refused


def test_other_software_reads_the_list(online: Online, tmp_path: Path):
    """OpenSSL, which knows no manifest, turns the same certificates away."""
    stays, goes, single = online.member("rev-d"), online.member("rev-e"), online.member("rev-f")
    online.authority.revoke("rev-e", "left")
    online.authority.revoke_certificate(serial(single), "copied")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(online.authority.certificate.read_bytes() + online.authority.revocations.read_bytes())

    def verify(home: Home) -> str:
        command = ["openssl", "verify", "-crl_check", "-CAfile", str(chain), "-untrusted",
                   str(online.authority.issuer), str(home.certificate)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert ": OK" in verify(stays)
    assert "certificate revoked" in verify(goes)
    assert "certificate revoked" in verify(single)
    listed = x509.load_pem_x509_crl(online.authority.revocations.read_bytes())
    number = listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == online.authority.manifest().version


def test_an_older_manifest_does_not_bring_a_member_back(online: Online):
    online.member("rev-g", Role.OPERATOR)
    older = online.authority.manifest()
    newer = online.authority.revoke("rev-g", "left")
    online.wait_for_manifest()
    with pytest.raises(ManifestError, match="an older one may bring back a member that left"):
        accept_manifest(online.coordinator, older.document.text, older.signature)
    # Put there by hand, past the check, it is replaced by the authority's newest within seconds.
    store_manifest(online.coordinator.path, older.document.text, older.signature)
    wait_until(lambda: online.call(online.home("rev-g"), CONTROL + "runs").status == 403, "the newest manifest")
    assert newer.version > older.version


def test_a_certificate_that_was_never_issued_is_not_revoked(online: Online):
    before = online.authority.manifest().version
    for unknown in ("", "0", "zz", "ff" * 30):
        with pytest.raises(UsageError, match="was issued here"):
            online.authority.revoke_certificate(unknown, "why")
    assert online.authority.manifest().version == before


def test_the_command_revokes_one_or_the_other(online: Online):
    home = online.member("rev-h")
    directory = str(online.authority.path)

    def revoke(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = command_line("federation", "revoke", directory, *arguments, "--reason", "copied")
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = revoke()
    assert (done.returncode, "expected one of them" in done.stderr) == (2, True)
    done = revoke("hub", "--certificate", serial(home))
    assert (done.returncode, "is that of rev-h, not of hub" in done.stderr) == (2, True)
    assert revoke("--certificate", serial(home)).returncode == 0
    again = revoke("--certificate", serial(home))
    assert (again.returncode, "is revoked already" in again.stderr) == (2, True)
    status = command_line("federation", "status", "--home", str(home.path), "--json")
    newest = online.authority.manifest()
    accept_manifest(home, newest.document.text, newest.signature)
    shown = subprocess.run(status, capture_output=True, text=True, check=False, timeout=60)
    assert (shown.returncode, "was revoked on" in json.loads(shown.stdout)["problem"]) == (1, True)


def test_a_silo_that_is_revoked_is_cut_while_it_waits(online: Online):
    home = online.member("rev-i")
    idle = online.connect(home)
    ask(idle, FLEET + "pull-messages", "POST")
    online.authority.revoke("rev-i", "left")
    assert wait_until(lambda: is_cut(idle), "the cut") < SECONDS
