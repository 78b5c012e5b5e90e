"""Enrolment on line: a token is worth one certificate, for one member, until a day; a stranger learns nothing."""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from coordinator.authority.invitations import EnrolmentRefusedError
from federation.addresses import split_address
from federation.enrolment import EnrolmentRequest, Invitation, parse_invitation
from federation.errors import RefusedError, UnreachableError, UsageError
from federation.home import Home
from federation.identity import Role, new_key, peer_of
from federation.joining import ENROL_PATH, enrol, prepare
from federation.limits import LIMITS
from federation.processes import command_line
from federation.tls import stranger_context
from federation.trust import load_chain

from .conftest import FLEET, Answer, Online, ask

pytestmark = pytest.mark.federation


def knock(online: Online, invitation: Invitation) -> http.client.HTTPSConnection:
    host, port = split_address(online.enrolment)
    return http.client.HTTPSConnection(host, port, context=stranger_context(invitation.authority), timeout=30)


def send(online: Online, invitation: Invitation, request: EnrolmentRequest | bytes) -> Answer:
    content = request if isinstance(request, bytes) else request.model_dump_json(exclude_none=True).encode()
    connection = knock(online, invitation)
    try:
        return ask(connection, ENROL_PATH, "POST", content)
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def a_minute_of_ones_own(online: Online, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test knocks from a loopback address of its own, as the limit of attempts counts by address."""
    used = online.__dict__.setdefault("addresses", iter(range(2, 250)))
    address = f"127.0.1.{next(used)}"
    plain = http.client.HTTPSConnection.__init__

    def bound(self: http.client.HTTPSConnection, *args: Any, **options: Any) -> None:
        plain(self, *args, **{**options, "source_address": (address, 0)})

    monkeypatch.setattr(http.client.HTTPSConnection, "__init__", bound)


def test_an_invitation_makes_a_member_that_gets_in(online: Online):
    invitation = online.invite("inv-a")
    home = online.home("inv-a")
    manifest = enrol(home, invitation)
    assert manifest.federation.member("inv-a").role is Role.SILO
    # At once, as a gate does that waits for its certificate.
    answer = online.call(home, FLEET + "pull-messages", "POST")
    assert answer.status == 403
    assert "not a member" not in answer.text  # no Flower key: past the member check
    assert oct(home.key.stat().st_mode & 0o777) == "0o600"
    granted = online.expect_entry(0, action="certificate.enrol", decision="allow", detail="inv-a")
    assert granted["rule"] == "enrolment.token"


def test_both_sides_see_the_same_fingerprint(online: Online, tmp_path: Path):
    file = tmp_path / "invitation.json"
    made = concordat(
        "federation", "invite", str(online.authority.path), "inv-b", "--country", "DE", "--at", online.enrolment,
        "--out", str(file),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    done = concordat("silo", "enroll", "--invitation", str(file), "--home", str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    shown = next(line.rpartition(" ")[2] for line in done.stdout.splitlines() if "fingerprint" in line)
    granted = online.expect_entry(0, action="certificate.enrol", decision="allow", detail="inv-b")
    assert granted["detail"]["key"] == shown
    assert "inv-b" in concordat("federation", "show", str(online.authority.path)).stdout


def test_an_invitation_that_cannot_be_written_spends_no_token(online: Online, tmp_path: Path):
    """The invitation that was handed over before stays good."""
    file = tmp_path / "invitation.json"
    make = ["federation", "invite", str(online.authority.path), "inv-z", "--at", online.enrolment]
    assert concordat(*make, "--country", "DE", "--out", str(file)).returncode == 0
    for country, out, said in (
        ("DE", file, "exists"),
        ("DE", tmp_path / "none" / "invitation.json", "is not a directory"),
        ("XX", tmp_path / "other.json", "got 'XX', expected a country code"),
    ):
        done = concordat(*make, "--country", country, "--out", str(out))
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    invitation = parse_invitation(file.read_bytes())
    assert enrol(Home(tmp_path / "home"), invitation).federation.member("inv-z").role is Role.SILO


def concordat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=120, check=False)


def test_a_token_is_spent_by_its_use(online: Online):
    invitation = online.invite("inv-c")
    enrol(online.home("inv-c"), invitation)
    before = len(online.entries())
    with pytest.raises(RefusedError, match=r"the token for inv-c was used on \d{4}-"):
        enrol(online.home("inv-c-again"), invitation)
    refused = online.expect_entry(before, action="certificate.enrol", decision="deny")
    assert (refused["rule"], refused["detail"]["name"]) == ("enrolment.used", "inv-c")


def test_a_token_ends_on_its_day(online: Online):
    invitation = online.invite("inv-d", lifetime=timedelta())
    later = invitation.model_copy(update={"expires": datetime.now(UTC) + timedelta(days=1)})
    with pytest.raises(RefusedError, match="the token for inv-d expired on"):
        enrol(online.home("inv-d"), later)
    with pytest.raises(UsageError, match="expired on"):
        enrol(online.home("inv-d2"), invitation)
    assert not online.home("inv-d2").key.exists()


def test_a_newer_invitation_replaces_the_one_before(online: Online):
    first, second = online.invite("inv-e"), online.invite("inv-e")
    with pytest.raises(RefusedError, match="replaced by a newer one"):
        enrol(online.home("inv-e1"), first)
    assert enrol(online.home("inv-e2"), second).federation.member("inv-e")


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "inv-other"), ("role", Role.OPERATOR), ("country", "FR"), ("addresses", ("evil.example:1",))],
)
def test_a_token_is_for_what_the_operator_wrote_and_nothing_else(online: Online, field: str, value: Any):
    invitation = online.invite(f"inv-f-{field}")
    request = prepare(online.home(f"inv-f-{field}"), invitation).model_copy(update={field: value})
    before = len(online.entries())
    answer = send(online, invitation, request)
    assert answer.status == 403
    assert f"the token is for {field}" in answer.text
    assert online.expect_entry(before, decision="deny")["rule"] == "enrolment.foreign"
    assert value not in {member.name for member in online.authority.manifest().federation.members}


def csr(key: Any, subject: str, signer: Any = None, *extensions: x509.ExtensionType) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(key, hashes.SHA256())
    if signer is None:
        return made.public_bytes(serialization.Encoding.PEM).decode()
    other = builder.sign(signer, hashes.SHA256())
    while len(other.signature) != len(made.signature):
        other = builder.sign(signer, hashes.SHA256())
    forged = made.public_bytes(serialization.Encoding.DER).replace(made.signature, other.signature)
    return x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()


OPERATOR = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cardio.example/operator/ops")])
FORGED: dict[str, Callable[[str], str]] = {
    "asks for 'CN=ops'": lambda _: csr(new_key(), "ops"),
    "asks for extensions": lambda name: csr(new_key(), name, None, OPERATOR),
    "not signed by the key": lambda name: csr(new_key(), name, new_key()),
    "no usable PEM": lambda _: "garbage",
}


@pytest.mark.parametrize(("reason", "forge"), FORGED.items(), ids=FORGED)
def test_a_signing_request_for_more_than_ones_own_name_is_refused(
    online: Online, reason: str, forge: Callable[[str], str]
):
    name = f"inv-g{len(reason)}"
    invitation = online.invite(name)
    home = online.home(name)
    request = prepare(home, invitation).model_copy(update={"csr": forge(name)})
    before = len(online.entries())
    answer = send(online, invitation, request)
    assert (answer.status, reason in answer.text) == (403, True), answer.text
    refused = online.expect_entry(before, decision="deny", action="certificate.enrol")
    assert (refused["rule"], reason in refused["reason"]) == ("enrolment.request", True)
    # A refused request spends nothing: the right one still gets in.
    assert send(online, invitation, prepare(home, invitation)).status == 200


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 5000, b'{"format": "concordat/invitation/v1"}'])
def test_a_stranger_learns_nothing(online: Online, content: bytes):
    invitation = online.invite("inv-h")
    before = len(online.entries())
    answer = send(online, invitation, content)
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "the request was refused"})
    assert online.expect_entry(before, decision="deny", actor="unidentified")["rule"] == "enrolment.request"


def test_a_guessed_token_is_refused_without_a_word(online: Online):
    invitation = online.invite("inv-i")
    request = prepare(online.home("inv-i"), invitation).model_copy(update={"token": "A" * 43})
    before = len(online.entries())
    answer = send(online, invitation, request)
    assert (answer.status, json.loads(answer.body)) == (403, {"error": "the request was refused"})
    refused = online.expect_entry(before, decision="deny")
    assert refused["rule"] == "enrolment.token"
    assert "A" * 43 not in json.dumps(refused)


def test_attempts_are_limited(online: Online):
    invitation = online.invite("inv-j")
    statuses = [send(online, invitation, b"{}").status for _ in range(25)]
    assert statuses[0] == 400
    assert statuses[-1] == 429


def test_a_request_that_is_too_large_is_refused(online: Online):
    invitation = online.invite("inv-k")
    answer = send(online, invitation, b" " * (LIMITS.enrolment_request + 1))
    assert answer.status == 413


@pytest.mark.parametrize(
    "path", ["/", FLEET + "pull-messages", "/concordat/v1/control/runs", "/concordat/v1/evidence/"]
)
def test_nothing_else_is_behind_the_open_door(online: Online, path: str):
    connection = knock(online, online.invite("inv-l"))
    assert ask(connection, path, "POST", b"x") == Answer(404, b'{"error": "not found"}')
    connection.close()


def test_an_impostor_of_the_coordinator_gets_no_token(online: Online, tmp_path: Path):
    """The invitation names the root: a server of another authority is not even spoken to."""
    other = Online(tmp_path / "other")
    other.start()
    try:
        invitation = online.invite("inv-m").model_copy(update={"coordinator": other.enrolment})
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            enrol(online.home("inv-m"), invitation)
    finally:
        assert other.child is not None
        other.child.signal(15)
        other.child.wait(30)
    assert not any("inv-m" in json.dumps(entry) for entry in other.entries())


def test_an_attempt_that_was_cut_short_goes_on_with_the_same_key(online: Online):
    invitation = online.invite("inv-n")
    home = online.home("inv-n")
    nobody = invitation.model_copy(update={"coordinator": "127.0.0.1:1"})
    with pytest.raises(UnreachableError, match="the keys made here are kept"):
        enrol(home, nobody)
    key = home.key.read_bytes()
    enrol(home, invitation)
    assert home.key.read_bytes() == key


def test_a_token_works_by_courier_too(online: Online, tmp_path: Path):
    file, home, bundle = tmp_path / "i.json", tmp_path / "home", tmp_path / "b.json"
    file.touch(mode=0o600)
    file.write_text(online.invite("inv-o").model_dump_json())
    written = concordat("silo", "enroll", "--invitation", str(file), "--home", str(home), "--offline")
    assert written.returncode == 0, written.stderr
    request = home / "request.json"
    assert oct(request.stat().st_mode & 0o777) == "0o600"
    done = concordat("federation", "enroll", str(online.authority.path), str(request), "--out", str(bundle))
    assert done.returncode == 0, done.stderr
    again = concordat("federation", "enroll", str(online.authority.path), str(request), "--out", str(bundle))
    assert (again.returncode, f"{bundle} exists" in again.stderr) == (2, True)
    other = tmp_path / "other.json"
    again = concordat("federation", "enroll", str(online.authority.path), str(request), "--out", str(other))
    assert (again.returncode, "was used on" in again.stderr, other.exists()) == (1, True, False)
    assert concordat("silo", "join", str(bundle), "--home", str(home)).returncode == 0
    assert peer_of(load_chain(Home(home).certificate.read_bytes())[0]).name == "inv-o"


def test_a_member_that_lost_its_key_comes_back_under_its_name(online: Online, tmp_path: Path):
    home = online.home("inv-p")
    enrol(home, online.invite("inv-p"))
    fresh = Home(tmp_path / "fresh")
    fresh.create()
    fresh.log_key.touch(mode=0o600)
    fresh.log_key.write_bytes(home.log_key.read_bytes())
    before = online.authority.manifest().version
    enrol(fresh, online.invite("inv-p"))
    assert online.authority.manifest().version == before
    other_log = Home(tmp_path / "other-log")
    with pytest.raises(RefusedError, match="brings another log key"):
        enrol(other_log, online.invite("inv-p"))


def test_an_invitation_that_is_not_one_is_refused(tmp_path: Path):
    file = tmp_path / "i.json"
    file.touch(mode=0o600)
    file.write_text("{}")
    done = concordat("silo", "enroll", "--invitation", str(file), "--home", str(tmp_path / "h"))
    assert (done.returncode, "the invitation is not usable" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    file.chmod(0o644)
    assert "expected 0600" in concordat("silo", "enroll", "--invitation", str(file), "--home", str(tmp_path)).stderr


def test_a_revoked_name_is_not_invited_again(online: Online):
    online.member("inv-q")
    online.authority.revoke("inv-q", "left")
    with pytest.raises(UsageError, match="is or was a member"):
        online.invite("inv-q")


def test_a_token_of_before_the_revocation_is_worth_nothing(online: Online):
    invitation = online.invite("inv-r")
    enrol(online.home("inv-r"), invitation)
    again = online.invite("inv-r")
    online.authority.revoke("inv-r", "left")
    request = prepare(online.home("inv-r2"), again)
    with pytest.raises(EnrolmentRefusedError, match="is or was a member"):
        online.authority.redeem(request, lambda: None)


def test_an_invitation_reads_back(online: Online):
    invitation = online.invite("inv-s")
    assert parse_invitation(invitation.model_dump_json().encode()) == invitation
    assert invitation.token not in repr(invitation)
