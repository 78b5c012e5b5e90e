"""The issuing authority is replaced and retired: members go on, what was stolen is worth nothing."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from coordinator.authority import Authority
from coordinator.authority.certificates import Subject, issuing_certificate, member_certificate
from coordinator.authority.issuers import certify_issuer
from federation.enrolment import join
from federation.errors import IdentityError, ManifestError, UsageError
from federation.home import Home
from federation.identity import Role, load_certificate, load_private_key, new_key
from federation.limits import LIMITS
from federation.manifest import (
    SignedManifest,
    accept_manifest,
    dump,
    load_manifest,
    sign_manifest,
    store_manifest,
    verify_manifest,
)
from federation.membership import coordinator_context, identify
from federation.processes import command_line, stop_all
from federation.renewal import renew, request_by_courier, verify_courier
from federation.status import status_of
from federation.trust import generation_of, load_chain
from policies.errors import PolicyError

from .conftest import CONTROL, NAME, Online, ask, wait_until
from .test_keys import in_a_process, token  # noqa: F401  a fixture
from .test_revocation import is_cut

pytestmark = pytest.mark.federation
NOW = timedelta()


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = command_line("federation", "issuer", *map(str, arguments))
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def replaced(authority: Authority, stolen: str | None = None) -> SignedManifest:
    """The next issuing authority, certified by the root's key that still lies in the directory."""
    root, key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    new = certify_issuer(authority.request_issuer(), root, key, datetime.now(UTC))
    return authority.replace_issuer(new, stolen)


def leaf(home: Home) -> x509.Certificate:
    return load_chain(home.certificate.read_bytes())[0]


class Thief:
    """Someone with a copy of an issuing key, before it was replaced."""

    def __init__(self, authority: Authority) -> None:
        self.key, self.issuer = load_private_key(authority.key), load_certificate(authority.issuer.read_bytes())
        self.manifest = authority.manifest()

    def signs(self, version: int, **changes: object) -> tuple[str, str]:
        federation = self.manifest.federation
        metadata = federation.metadata.model_copy(update={"version": version})
        text = dump(federation.model_copy(update={"metadata": metadata, **changes}))
        return text, sign_manifest(text, self.key, self.issuer)

    def certifies(self, directory: Path, name: str, role: Role, *addresses: str) -> Home:
        """A home with a certificate for a member that never asked for it."""
        home, key = Home(directory / f"forged-{name}"), new_key()
        home.create()
        subject = Subject(NAME, role, name, addresses)
        now = datetime.now(UTC)
        made = member_certificate(key.public_key(), subject, self.issuer, self.key, now, timedelta(days=1))
        pem = serialization.Encoding.PEM
        home.certificate.write_bytes(made.public_bytes(pem) + self.issuer.public_bytes(pem))
        home.key.touch(mode=0o600)
        secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        home.key.write_bytes(secret)
        store_manifest(home.path, self.manifest.document.text, self.manifest.signature)
        return home


@pytest.fixture(scope="module")
def own(short_tmp: Callable[[str], Path]) -> Iterator[Online]:
    """A federation whose issuing authority the tests may replace."""
    federation = Online(short_tmp("iss"))
    federation.member("ops", Role.OPERATOR)
    child = federation.start()
    try:
        yield federation
    finally:
        stop_all([child])


# -- in good order


def test_members_renew_under_the_new_one_and_the_old_one_is_retired(own: Online, tmp_path: Path):
    """The ceremony by its commands, the root's key elsewhere; nobody is cut off until the old one is retired."""
    ops, late = own.home("ops"), own.member("late", Role.OPERATOR)
    idle = own.connect(late)
    assert ask(idle, CONTROL + "runs").status == 200
    safe = tmp_path / "safe"
    safe.mkdir()
    shutil.move(own.authority.root_key, safe / "root-key.pem")
    shutil.copy(own.authority.certificate, safe / "ca.pem")
    request, certificate = tmp_path / "request.pem", tmp_path / "issuing-2.pem"
    assert command("request", own.authority.path, "--out", request).returncode == 0
    done = command("certify", request, "--root", safe / "ca.pem", "--root-key", safe / "root-key.pem",
                   "--out", certificate)  # fmt: skip
    assert (done.returncode, "2.5.4.5=2" in done.stdout) == (0, True), done.stdout + done.stderr
    before = len(own.entries())
    done = command("replace", own.authority.path, "--certificate", certificate)
    assert done.returncode == 0, done.stderr
    assert "with a certificate of a former one: hub, late, ops" in done.stdout
    shutil.move(safe / "root-key.pem", own.authority.root_key)
    assert own.expect_entry(before, action="manifest.accept")["detail"]["issuer"] == 2
    own.expect_entry(before, action="certificate.loaded")  # the coordinator renewed its own at once
    assert ask(idle, CONTROL + "runs").status == 200, "not cut: certificates of the old one still count"
    connection = own.connect(ops)
    assert ask(connection, CONTROL + "runs").status == 200
    connection.close()

    renewed = renew(ops, own.address, coordinator_context(ops))
    manifest = load_manifest(ops)
    assert (generation_of(manifest.issuer), renewed.issuer) == (2, manifest.issuer.subject)
    status = status_of(ops)
    assert (status.issuer, status.problem) == (2, "")
    assert status.root_seconds_left > status.issuer_seconds_left > status.seconds_left > 0
    assert own.call(ops, CONTROL + "runs").status == 200

    refused = command("retire", own.authority.path, "--reason", "planned")
    assert (refused.returncode, "late would be shut out" in refused.stderr) == (2, True), refused.stderr
    assert "late" in command("show", own.authority.path).stdout
    before = len(own.entries())
    assert command("retire", own.authority.path, "--reason", "planned", "--leave-behind").returncode == 0
    wait_until(lambda: is_cut(idle), "the cut")
    answer = own.call(late, CONTROL + "runs")
    assert (answer.status, "the issuing authority 1 was retired on" in answer.text) == (403, True)
    own.expect_entry(before, action="connection.cut", actor="operator/late", reason="retired on")
    assert own.call(ops, CONTROL + "runs").status == 200
    assert "(planned)" in answer.text
    again = command("retire", own.authority.path, "--reason", "planned")
    assert (again.returncode, "expected one that was replaced and is not retired" in again.stderr) == (2, True)

    # Who was left behind comes back with the key of the certificate that it was issued last.
    courier, bundle = tmp_path / "renewal.json", tmp_path / "bundle.json"
    courier.write_bytes(request_by_courier(late))
    words = command_line("federation", "enroll", str(own.authority.path), str(courier), "--out", str(bundle))
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "compare its fingerprint by telephone" in done.stdout) == (0, True), done.stderr
    join(late, bundle.read_bytes())
    assert own.call(late, CONTROL + "runs").status == 200


# -- stolen


def test_a_stolen_issuing_key_is_ended_at_once(own: Online, tmp_path: Path):
    """Attacks with the old key: a manifest of a higher version, a member, a coordinator, a renewal."""
    ops, victim = own.home("ops"), own.member("victim", Role.OPERATOR)
    thief = Thief(own.authority)
    forged = thief.certifies(tmp_path, "victim", Role.OPERATOR)
    shutil.copy(own.authority.certificate, forged.authority)
    assert own.call(forged, CONTROL + "runs").status == 200, "until then nobody can tell"
    poison = thief.signs(1_000_000, members=thief.manifest.federation.members[:1])
    poisoned = Home(tmp_path / "poisoned")
    shutil.copytree(victim.path, poisoned.path)
    accept_manifest(poisoned, *poison)
    idle = own.connect(ops)
    assert ask(idle, CONTROL + "runs").status == 200

    root_key = own.authority.root_key
    done = command("replace", own.authority.path, "--root-key", root_key, "--stolen", "the key was copied")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: is_cut(idle), "the cut")
    newest = own.authority.manifest()
    own.wait_for_manifest()
    for home in (forged, ops, victim):
        answer = own.call(home, CONTROL + "runs")
        assert (answer.status, "was retired on" in answer.text and "the key was copied" in answer.text) == (403, True)

    # Whoever took the thief's manifest takes the successor's all the same, and the thief's no more.
    accept_manifest(poisoned, newest.document.text, newest.signature)
    later = thief.signs(2_000_000)
    for home in (poisoned, own.coordinator):
        with pytest.raises(ManifestError, match="a replaced issuing authority signs no manifests"):
            accept_manifest(home, *later)
        with pytest.raises(ManifestError, match=f"expected {newest.edition[0]}, which replaced it"):
            accept_manifest(home, thief.manifest.document.text, thief.manifest.signature)
    # Put there by hand, past the check, it is replaced within seconds.
    store_manifest(own.coordinator.path, *later)
    wait_until(lambda: load_manifest(own.coordinator).version == newest.version, "the newest manifest")

    # A coordinator of the thief's is turned away by whoever has the newest manifest.
    fake = thief.certifies(tmp_path, "hub", Role.COORDINATOR, own.address)
    assert shakes_hands(victim, fake), "who has not heard of it cannot tell"
    accept_manifest(victim, newest.document.text, newest.signature)
    with pytest.raises(ssl.SSLCertVerificationError, match="was retired on"):
        shakes_hands(victim, fake)

    # The member's own key brings it back by courier, the forged one does not.
    authority = own.authority
    with pytest.raises(IdentityError, match="was retired on"):
        verify_courier(request_by_courier(forged), newest, authority.issued.is_newest)
    for home in (victim, ops):
        peer, csr = verify_courier(request_by_courier(home), newest, authority.issued.is_newest)
        join(home, json.dumps(authority.bundle(authority.renew(peer, csr))).encode())
        assert own.call(home, CONTROL + "runs").status == 200


def shakes_hands(member: Home, server: Home) -> bool:
    """Whether a member's way to its coordinator ends at this server; raises what the handshake raises."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            context.wrap_socket(far, server_side=True).recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with coordinator_context(member).wrap_socket(near, server_hostname="127.0.0.1") as wrapped:
            return wrapped.version() == "TLSv1.3"
    finally:
        near.close()
        thread.join()


# -- what the root did not certify


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.found(NAME)
    return made


def test_an_authority_that_the_root_did_not_certify_replaces_nothing(authority: Authority, tmp_path: Path):
    request = authority.request_issuer()
    other = Authority(tmp_path / "other")
    other.found(NAME)
    foreign, foreign_key = load_certificate(other.certificate.read_bytes()), load_private_key(other.root_key)
    root, root_key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    now, before = datetime.now(UTC), authority.manifest()
    with pytest.raises(IdentityError, match="not certified by this federation's root"):
        authority.replace_issuer(certify_issuer(request, foreign, foreign_key, now))
    with pytest.raises(IdentityError, match="does not belong to the root's certificate"):
        certify_issuer(request, root, foreign_key, now)
    with pytest.raises(IdentityError, match="not for the key"):
        authority.replace_issuer(certify_issuer(other.request_issuer(), root, root_key, now))
    with pytest.raises(IdentityError, match="expected one after 1"):
        authority.replace_issuer(before.issuer)
    # The present issuing authority certifies no other: the path ends with it.
    issuing_key = load_private_key(authority.key)
    child = issuing_certificate(new_key().public_key(), before.issuer, issuing_key, NAME, now, 2)
    with pytest.raises(IdentityError, match="not certified by this federation's root"):
        authority.replace_issuer(child)
    text = before.document.text
    with pytest.raises(ManifestError, match="not certified by this federation's root"):
        verify_manifest(text, sign_manifest(text, foreign_key, other.manifest().issuer), root)
    assert authority.manifest().document.digest == before.document.digest


def test_a_manifest_names_no_former_issuer_that_never_was_one(authority: Authority, tmp_path: Path):
    other = Authority(tmp_path / "other")
    other.found(NAME)
    root = load_certificate(authority.certificate.read_bytes())
    replaced(authority)
    manifest, key = authority.manifest(), load_private_key(authority.key)
    pem = serialization.Encoding.PEM

    def naming(certificate: x509.Certificate, **fields: object) -> str:
        one = manifest.federation.former_issuers[0].model_copy(
            update={"certificate": certificate.public_bytes(pem).decode(), **fields}
        )
        return dump(manifest.federation.model_copy(update={"former_issuers": (one,)}))

    for certificate, reason in (
        (other.manifest().issuer, "not certified by this federation's root"),
        (manifest.issuer, "expected one before 2"),
    ):
        text = naming(certificate)
        with pytest.raises(ManifestError, match=reason):
            verify_manifest(text, sign_manifest(text, key, manifest.issuer), root)
    for fields in ({"retired": datetime.now(UTC)}, {"reason": "why"}, {"stolen": True}):
        text = naming(manifest.federation.former_issuers[0].x509, **fields)
        with pytest.raises(PolicyError, match="a time and a reason"):
            verify_manifest(text, sign_manifest(text, key, manifest.issuer), root)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
     b"x" * (LIMITS.certificate + 1)],
    ids=["nothing", "no text", "no request", "too large"],
)  # fmt: skip
def test_the_root_certifies_nothing_but_a_request(authority: Authority, content: bytes):
    root, key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    with pytest.raises(IdentityError):
        certify_issuer(content, root, key, datetime.now(UTC))


def test_the_root_certifies_no_member_and_no_other_federation(authority: Authority, tmp_path: Path):
    root, key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    member = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ops")])
    )
    from cryptography.hazmat.primitives import hashes

    pem = member.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    other = Authority(tmp_path / "other")
    other.found("other.example")
    for request in (pem, other.request_issuer()):
        with pytest.raises(IdentityError, match=f"expected a later issuing authority of {NAME}"):
            certify_issuer(request, root, key, datetime.now(UTC))


# -- time, and where keys lie


def test_a_federation_whose_issuing_authority_has_expired_goes_on(authority: Authority, tmp_path: Path):
    root, root_key = load_certificate(authority.certificate.read_bytes()), load_private_key(authority.root_key)
    key = load_private_key(authority.key)
    # Founded more than five years ago: the root of then, the issuing authority of then.
    long_ago = datetime.now(UTC) - timedelta(days=1826)
    expired = issuing_certificate(key.public_key(), root, root_key, NAME, long_ago)
    text = authority.manifest().document.text
    member = Home(tmp_path / "member")
    member.create()
    shutil.copy(authority.certificate, member.authority)
    for directory in (authority.path, member.path):
        store_manifest(directory, text, sign_manifest(text, key, expired))
    for home in (member, Home(authority.path)):
        with pytest.raises(ManifestError, match="not now"):
            load_manifest(home)
    newest = replaced(authority)
    accept_manifest(member, newest.document.text, newest.signature)
    assert load_manifest(member).edition == (2, 2)


def test_no_certificate_outlives_its_authority(authority: Authority, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.authority.certificates.ISSUER_DAYS", 10)
    newest = replaced(authority)
    root = load_certificate(authority.certificate.read_bytes())
    span = newest.issuer.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=9) < span <= timedelta(days=10) < root.not_valid_after_utc - datetime.now(UTC)
    subject = Subject(NAME, Role.SILO, "silo-a")
    key = load_private_key(authority.key)
    made = member_certificate(
        new_key().public_key(), subject, newest.issuer, key, datetime.now(UTC), timedelta(days=30)
    )
    assert made.not_valid_after_utc <= newest.issuer.not_valid_after_utc


def test_what_was_signed_before_a_retirement_stands_and_under_a_stolen_key_does_not(
    authority: Authority, tmp_path: Path
):
    from federation.enrolment import parse_request, request_enrolment

    home = Home(tmp_path / "hub")
    request_enrolment(home, NAME, "hub", Role.COORDINATOR, "DE", ("127.0.0.1:1",))
    chain, _ = authority.enrol(parse_request(home.request.read_bytes()))
    certificate = load_chain(chain)[0]
    replaced(authority)
    before = datetime.now(UTC)
    assert identify(authority.manifest(), certificate).name == "hub"
    orderly = authority.retire_issuer("planned")
    assert identify(orderly, certificate, before).name == "hub", "a passport of then"
    with pytest.raises(IdentityError, match="was retired on"):
        identify(orderly, certificate)
    stolen = authority.retire_issuer("found out later", 1, stolen=True)
    with pytest.raises(IdentityError, match="was retired on"):
        identify(stolen, certificate, before)
    with pytest.raises(UsageError, match="expected one that was replaced"):
        authority.retire_issuer("again", 1)


def test_a_request_that_waits_is_taken_up_again(authority: Authority):
    first, second = authority.request_issuer(), authority.request_issuer()
    keys = [x509.load_pem_x509_csr(one).public_key() for one in (first, second)]
    assert keys[0] == keys[1]
    assert oct(authority.key_of(2).stat().st_mode & 0o777) == "0o600"
    with pytest.raises(UsageError, match="has a key already"):
        authority.request_issuer("pkcs11:token=x")


def test_keys_with_a_passphrase_are_replaced_by_keys_with_it(tmp_path: Path):
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse\n")
    made = Authority(tmp_path / "a", b"correct horse")
    made.found(NAME)
    arguments = ("replace", made.path, "--root-key", made.root_key, "--passphrase-file", secret)
    wrong = command(*arguments)
    assert (wrong.returncode, "wrong or missing passphrase" in wrong.stderr) == (1, True), wrong.stderr
    done = command(*arguments, "--root-passphrase-file", secret)
    assert done.returncode == 0, done.stderr
    assert b"ENCRYPTED" in made.key_of(2).read_bytes()
    made.check_key()
    assert "correct horse" not in done.stdout + done.stderr + wrong.stderr


TOKEN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from coordinator.authority import Authority
from coordinator.authority.issuers import certify_issuer
from coordinator.authority.keys import load_key
from federation.identity import load_certificate
uri = lambda name: sys.argv[2].replace("NAME", name)
authority = Authority(Path(sys.argv[1]))
authority.found("cardio.example", "30d", uri("root"), uri("issuing"))
request = authority.request_issuer(uri("issuing-2"))
root = load_certificate(authority.certificate.read_bytes())
authority.replace_issuer(certify_issuer(request, root, load_key(Path("-"), uri("root"), None), datetime.now(UTC)))
authority.check_key()
print(authority.manifest().edition, sorted(path.name for path in authority.path.glob("*key*")))
"""


def test_keys_in_a_token_are_replaced_by_keys_in_it(token: Callable[[str], str], tmp_path: Path):  # noqa: F811
    done = in_a_process(TOKEN, str(tmp_path / "a"), token("NAME"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 2) []"
    assert "object=issuing-2" in (tmp_path / "a" / "authority.yaml").read_text()


def test_the_command_says_what_it_misses(authority: Authority):
    neither = command("replace", authority.path)
    assert (neither.returncode, "expected one of them" in neither.stderr) == (2, True)
    absent = command("replace", authority.path, "--root-key", authority.path / "absent.pem")
    assert (absent.returncode, "absent.pem is missing" in absent.stderr) == (1, True), absent.stderr
    assert "Traceback" not in absent.stderr + neither.stderr
