from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from audit.note import parse_vkey
from coordinator.authority import Authority, request_fingerprint
from federation.enrolment import EnrolmentRequest, request_enrolment
from federation.errors import ConcordatError, IdentityError, ManifestError, UsageError
from federation.home import Home
from federation.identity import Role, fingerprint, load_certificate, new_key, peer_of, public_key_pem
from federation.manifest import accept_manifest, load_manifest
from policies.errors import DocumentError

PLACES = ("hub.example.org:9443", "10.1.2.3:9443", "[2001:db8::1]:9443", "hub.example.org:9444")


def certified(founded: Any, name: str, role: Role, *addresses: str, days: int = 30) -> x509.Certificate:
    _, request = founded.request(name, role, *addresses)
    return load_certificate(founded.authority.enrol(request, days)[0])


def builder(founded: Any) -> PolicyBuilder:
    return PolicyBuilder().store(Store([founded.ca])).time(datetime.now(UTC))


def state(authority: Authority) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in authority.path.iterdir()}


# -- founding


def test_a_federation_begins_with_a_key_and_an_empty_manifest(found: Callable[..., Any]):
    authority = found().authority
    assert authority.key.stat().st_mode & 0o777 == 0o600
    assert authority.path.stat().st_mode & 0o777 == 0o700
    manifest = authority.manifest()
    assert (manifest.version, manifest.federation.metadata.name) == (1, "cardio.example")
    assert manifest.federation.members == ()


def test_a_federation_is_founded_once(found: Callable[..., Any]):
    authority = found().authority
    before = state(authority)
    with pytest.raises(UsageError, match="already holds a federation"):
        authority.found("other.example")
    authority.certificate.unlink()
    with pytest.raises(IdentityError, match="never overwritten"):
        authority.found("other.example")
    assert state(authority) == {name: content for name, content in before.items() if name != "ca.pem"}


@pytest.mark.parametrize("name", ["", "Cardio", "a b", "a/b", "-a", "a" * 129, "caf\u00e9", "a\n"])
def test_a_federation_of_a_bad_name_is_not_founded(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="got federation name"):
        Authority(tmp_path / "authority").found(name)
    assert not (tmp_path / "authority").exists()


def test_the_longest_name_is_founded(found: Callable[..., Any]):
    founded = found("a" * 128)
    assert peer_of(certified(founded, "silo-a", Role.SILO)).federation == "a" * 128


# -- certificates


@pytest.mark.parametrize("role", [Role.SILO, Role.OPERATOR, Role.AUDITOR])
def test_a_members_certificate_verifies_as_a_clients(found: Callable[..., Any], role: Role):
    founded = found()
    certificate = certified(founded, "member", role)
    verified = builder(founded).build_client_verifier().verify(certificate, [])
    assert verified.subjects == [x509.UniformResourceIdentifier(f"spiffe://cardio.example/{role}/member")]
    assert peer_of(certificate).role is role
    (usage,) = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert usage == ExtendedKeyUsageOID.CLIENT_AUTH


def test_the_coordinators_certificate_verifies_as_a_servers_at_each_address(found: Callable[..., Any]):
    founded = found()
    certificate = certified(founded, "hub", Role.COORDINATOR, *PLACES)
    for subject in (
        x509.DNSName("hub.example.org"),
        x509.IPAddress(ipaddress.ip_address("10.1.2.3")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    ):
        builder(founded).build_server_verifier(subject).verify(certificate, [])
    for subject in (x509.DNSName("other.example.org"), x509.IPAddress(ipaddress.ip_address("10.1.2.4"))):
        with pytest.raises(VerificationError):
            builder(founded).build_server_verifier(subject).verify(certificate, [])
    with pytest.raises(VerificationError):
        builder(founded).build_client_verifier().verify(certificate, [])
    assert peer_of(certificate).uri == "spiffe://cardio.example/coordinator/hub"


def test_a_silo_is_no_server_whatever_address_it_asks_for(found: Callable[..., Any]):
    founded = found()
    certificate = certified(founded, "silo-a", Role.SILO, "hub.example.org:9443")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [type(name) for name in names] == [x509.UniformResourceIdentifier]
    with pytest.raises(VerificationError):
        builder(founded).build_server_verifier(x509.DNSName("hub.example.org")).verify(certificate, [])


def test_a_certificate_says_what_it_is_for_and_nothing_more(found: Callable[..., Any]):
    founded = found()
    certificate = certified(founded, "silo-a", Role.SILO)
    extensions = {extension.value.__class__: extension for extension in certificate.extensions}
    assert extensions[x509.BasicConstraints].value == x509.BasicConstraints(ca=False, path_length=None)
    assert extensions[x509.BasicConstraints].critical
    usage = extensions[x509.KeyUsage].value
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert len(extensions) == 6
    root = {extension.value.__class__: extension for extension in founded.ca.extensions}
    assert root[x509.BasicConstraints].value == x509.BasicConstraints(ca=True, path_length=0)


@pytest.mark.parametrize("days", [1, 30, 825])
def test_a_certificate_is_valid_from_now_for_its_days(found: Callable[..., Any], days: int):
    founded = found()
    certificate = certified(founded, "silo-a", Role.SILO, days=days)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now
    assert timedelta(0) <= now + timedelta(days=days) - certificate.not_valid_after_utc < timedelta(minutes=5)
    other = certified(founded, "silo-b", Role.SILO, days=days)
    assert other.serial_number != certificate.serial_number


@pytest.mark.parametrize(
    ("role", "purpose", "others"), [(Role.SILO, "sslclient", "sslserver"), (Role.COORDINATOR, "sslserver", "sslclient")]
)
def test_openssl_verifies_the_chain_strictly(
    found: Callable[..., Any], tmp_path: Path, role: Role, purpose: str, others: str
):
    founded = found()
    certificate = certified(founded, "member", role, *PLACES[:2])
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def openssl(wanted: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(founded.authority.certificate)]
        command += ["-purpose", wanted, *options, str(tmp_path / "cert.pem")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = openssl(purpose)
    assert (done.returncode, done.stdout.strip()[-4:]) == (0, ": OK"), done.stderr
    assert openssl(others).returncode != 0
    if role is Role.COORDINATOR:
        assert openssl(purpose, "-verify_hostname", "hub.example.org").returncode == 0
        assert openssl(purpose, "-verify_ip", "10.1.2.3").returncode == 0
        assert openssl(purpose, "-verify_hostname", "other.example.org").returncode != 0


def test_the_manifest_grows_by_the_member(found: Callable[..., Any]):
    founded = found()
    _, request = founded.request("hub", Role.COORDINATOR, *PLACES[:1])
    certificate, manifest = founded.authority.enrol(request)
    assert manifest.version == 2
    member = founded.authority.manifest().federation.member("hub")
    assert (member.role, member.country, member.addresses) == (Role.COORDINATOR, "DE", PLACES[:1])
    assert member.log == request.log
    assert parse_vkey(str(member.log)).name == "cardio.example/coordinator/hub"
    key = peer_of(load_certificate(certificate)).public_key
    assert request_fingerprint(request) == fingerprint(key)


# -- requests that are refused


def pem(csr: x509.CertificateSigningRequest) -> str:
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def csr_of(key: Any, *extensions: x509.ExtensionType, name: str = "silo-a") -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        made = made.add_extension(extension, critical=False)
    return made.sign(key, hashes.SHA256())


def badly_signed() -> str:
    """A request for one's own key whose signature is another's."""
    mine, other = csr_of(new_key()), csr_of(new_key())
    raw = mine.public_bytes(serialization.Encoding.DER)
    forged = raw.replace(mine.signature, other.signature)
    if len(mine.signature) != len(other.signature):
        return badly_signed()
    return pem(x509.load_der_x509_csr(forged))


CHANGES: dict[str, dict[str, Any]] = {
    "signing request is not signed": {"csr": badly_signed()},
    "not EC P-256 or P-384": {"csr": pem(csr_of(rsa.generate_private_key(65537, 2048)))},
    "EC P-256 or P-384, expected": {"csr": pem(csr_of(ec.generate_private_key(ec.SECP521R1())))},
    "no PEM certificate signing request": {"csr": "garbage"},
    "no PEM": {"csr": ""},
    "got name 'Silo A'": {"name": "Silo A"},
    "got name ''": {"name": ""},
    "silo-b is or was a member": {"name": "silo-b"},
    "expected host:port": {"role": Role.COORDINATOR, "addresses": ("m\u00fcnchen.example:1",)},
    "got address": {"role": Role.COORDINATOR, "addresses": ("hub",)},
}


@pytest.mark.parametrize(("reason", "change"), CHANGES.items(), ids=CHANGES)
def test_a_request_that_is_refused_changes_nothing(found: Callable[..., Any], reason: str, change: dict[str, Any]):
    founded = found()
    founded.member("silo-b")
    request: EnrolmentRequest = founded.request("silo-a")[1].model_copy(update=change)
    before = state(founded.authority)
    with pytest.raises(ConcordatError, match=reason):
        founded.authority.enrol(request)
    assert state(founded.authority) == before
    assert founded.authority.manifest().version == 2


def test_what_a_request_asks_for_beyond_its_key_is_not_granted(found: Callable[..., Any]):
    """Its subject and extensions are the member's words; the certificate has the operator's."""
    founded = found()
    key = new_key()
    csr = csr_of(
        key,
        x509.BasicConstraints(ca=True, path_length=None),
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cardio.example/operator/ops")]),
        name="operator",
    )
    request = founded.request("silo-a")[1].model_copy(update={"csr": pem(csr)})
    certificate = load_certificate(founded.authority.enrol(request)[0])
    assert peer_of(certificate).uri == "spiffe://cardio.example/silo/silo-a"
    assert certificate.subject.rfc4514_string() == "CN=silo-a"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert peer_of(certificate).public_key == public_key_pem(key.public_key())


def test_nobody_is_enrolled_without_the_authoritys_key(found: Callable[..., Any], tmp_path: Path):
    founded = found()
    _, request = founded.request("silo-a")
    founded.authority.key.rename(tmp_path / "in-the-safe.pem")
    with pytest.raises(IdentityError, match="is missing"):
        founded.authority.enrol(request)
    assert founded.authority.manifest().version == 1
    (tmp_path / "in-the-safe.pem").rename(founded.authority.key)
    assert founded.authority.enrol(request)[1].version == 2


def test_a_tampered_manifest_is_not_built_upon(found: Callable[..., Any]):
    founded = found()
    founded.member("silo-b")
    _, request = founded.request("silo-a")
    path = Home(founded.authority.path).manifest
    for changed in (path.read_bytes().replace(b"silo-b", b"silo-c"), b"\xff"):
        path.write_bytes(changed)
        with pytest.raises(ManifestError):
            founded.authority.enrol(request)
        assert path.read_bytes() == changed


# -- leaving


def test_a_member_that_is_revoked_is_gone_for_good(found: Callable[..., Any]):
    founded = found()
    founded.member("silo-a")
    home = founded.member("silo-b")
    manifest = founded.authority.revoke("silo-a", "its key was copied")
    assert manifest.version == 4
    assert [member.name for member in founded.authority.manifest().federation.members] == ["silo-b"]
    with pytest.raises(ManifestError, match=r"silo-a was revoked on \d{4}-\d\d-\d\d \(its key was copied\)"):
        manifest.federation.member("silo-a")
    with pytest.raises(UsageError, match="silo-a is or was a member"):
        founded.authority.enrol(founded.request("again")[1].model_copy(update={"name": "silo-a"}))
    accept_manifest(home, manifest.document.text, manifest.signature)
    assert load_manifest(home).version == 4


def test_a_stranger_is_not_revoked(found: Callable[..., Any]):
    founded = found()
    founded.member("silo-a")
    before = state(founded.authority)
    for name in ("silo-b", "", "silo-a "):
        with pytest.raises(ManifestError, match="is not a member"):
            founded.authority.revoke(name, "no reason")
    for reason in ("", "x" * 501):
        with pytest.raises(UsageError, match="expected 1 to 500"):
            founded.authority.revoke("silo-a", reason)
    assert state(founded.authority) == before


def test_a_log_key_that_yaml_would_not_carry_is_refused(found: Callable[..., Any], tmp_path: Path):
    founded = found()
    home = Home(tmp_path / "home")
    request = request_enrolment(home, founded.name, "silo-a", Role.SILO, "DE")
    before = state(founded.authority)
    odd = request.model_copy(update={"log": "x\x00y"})
    with pytest.raises(DocumentError, match=r"manifest\.yaml:\d+:\d+: "):
        founded.authority.enrol(odd)
    assert state(founded.authority) == before
