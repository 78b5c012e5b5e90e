from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from audit.keys import vkey_of
from audit.note import parse_vkey
from coordinator.authority import Authority, request_fingerprint
from coordinator.authority.certificates import Subject, issuing_certificate, member_certificate
from federation.enrolment import EnrolmentRequest, request_enrolment
from federation.errors import ConcordatError, IdentityError, ManifestError, UsageError
from federation.home import Home
from federation.identity import (
    Role,
    fingerprint,
    load_certificate,
    load_private_key,
    new_key,
    peer_of,
    public_key_pem,
)
from federation.manifest import accept_manifest, load_manifest
from federation.member_logs import log_origin
from federation.trust import load_chain
from policies.errors import DocumentError

PLACES = ("hub.example.org:9443", "10.1.2.3:9443", "[2001:db8::1]:9443", "hub.example.org:9444")


def certified(founded: Any, name: str, role: Role, *addresses: str, days: int = 30) -> x509.Certificate:
    _, request = founded.request(name, role, *addresses)
    return load_certificate(founded.authority.enrol(request, timedelta(days=days))[0])


def openssl(
    founded: Any, purpose: str, certificate: x509.Certificate, *options: str, issuer: x509.Certificate | None = None
) -> str:
    """What OpenSSL says of a certificate below the root, as strictly as it can: `OK` or its error."""
    issuer = issuer or load_certificate(founded.authority.issuer.read_bytes())
    for name, one in (("leaf.pem", certificate), ("issuer.pem", issuer)):
        (founded.directory / name).write_bytes(one.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(founded.authority.certificate)]
    command += ["-untrusted", "issuer.pem", "-purpose", purpose, *options, "leaf.pem"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=founded.directory)
    assert (done.returncode == 0) == (done.stdout == "leaf.pem: OK\n"), done
    return "OK" if done.returncode == 0 else done.stderr


def names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def extensions_of(certificate: x509.Certificate) -> dict[type[x509.ExtensionType], x509.Extension[Any]]:
    return {type(extension.value): extension for extension in certificate.extensions}


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
def test_a_members_certificate_verifies_as_a_clients_alone(found: Callable[..., Any], role: Role):
    founded = found()
    certificate = certified(founded, "member", role)
    assert openssl(founded, "sslclient", certificate) == "OK"
    assert "unsuitable certificate purpose" in openssl(founded, "sslserver", certificate)
    assert names_of(certificate) == [x509.UniformResourceIdentifier(f"spiffe://cardio.example/{role}/member")]
    assert peer_of(certificate).role is role
    (usage,) = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert usage == ExtendedKeyUsageOID.CLIENT_AUTH


def test_the_coordinators_certificate_verifies_as_a_servers_at_each_address(found: Callable[..., Any]):
    founded = found()
    certificate = certified(founded, "hub", Role.COORDINATOR, *PLACES)
    for option, place in (
        ("-verify_hostname", "hub.example.org"),
        ("-verify_ip", "10.1.2.3"),
        ("-verify_ip", "2001:db8::1"),
    ):
        assert openssl(founded, "sslserver", certificate, option, place) == "OK"
    for option, place, reason in (
        ("-verify_hostname", "other.example.org", "hostname mismatch"),
        ("-verify_hostname", "hub", "hostname mismatch"),
        ("-verify_ip", "10.1.2.4", "IP address mismatch"),
    ):
        assert reason in openssl(founded, "sslserver", certificate, option, place)
    assert "unsuitable certificate purpose" in openssl(founded, "sslclient", certificate)
    assert names_of(certificate) == [
        x509.UniformResourceIdentifier("spiffe://cardio.example/coordinator/hub"),
        x509.DNSName("hub.example.org"),
        x509.IPAddress(ipaddress.ip_address("10.1.2.3")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    ]
    (usage,) = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert usage == ExtendedKeyUsageOID.SERVER_AUTH


def test_a_silo_is_no_server_whatever_address_it_asks_for(found: Callable[..., Any]):
    founded = found()
    certificate = certified(founded, "silo-a", Role.SILO, "hub.example.org:9443")
    assert [type(name) for name in names_of(certificate)] == [x509.UniformResourceIdentifier]
    for options in ((), ("-verify_hostname", "hub.example.org")):
        assert "unsuitable certificate purpose" in openssl(founded, "sslserver", certificate, *options)


def test_a_certificate_says_what_it_is_for_and_nothing_more(found: Callable[..., Any]):
    extensions = extensions_of(certified(found(), "silo-a", Role.SILO))
    assert extensions[x509.BasicConstraints].value == x509.BasicConstraints(ca=False, path_length=None)
    assert extensions[x509.BasicConstraints].critical
    usage = extensions[x509.KeyUsage].value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert len(extensions) == 6


def test_the_root_certifies_one_issuing_authority_and_this_one_end_entities_alone(found: Callable[..., Any]):
    founded = found()
    issuer = load_certificate(founded.authority.issuer.read_bytes())
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier("cardio.example")], None)
    for certificate, length, size in ((founded.ca, 1, 5), (issuer, 0, 6)):
        extensions = extensions_of(certificate)
        assert extensions[x509.BasicConstraints].value == x509.BasicConstraints(ca=True, path_length=length)
        assert extensions[x509.NameConstraints].value == constraints
        usage = extensions[x509.KeyUsage].value
        assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (False, True, True)
        critical = (x509.BasicConstraints, x509.NameConstraints, x509.KeyUsage)
        assert all(extensions[kind].critical for kind in critical)
        assert len(extensions) == size
    assert founded.ca.issuer == founded.ca.subject == issuer.issuer
    assert issuer.public_key() != founded.ca.public_key()
    assert load_private_key(founded.authority.root_key).public_key() == founded.ca.public_key()
    assert load_private_key(founded.authority.key).public_key() == issuer.public_key()


def test_no_name_of_another_federation_verifies_below_a_federations_root(found: Callable[..., Any]):
    """The constraint is the issuing authority's, and the root's over any that it certifies."""
    founded = found()
    issuer, now = load_certificate(founded.authority.issuer.read_bytes()), datetime.now(UTC)
    key, root_key = load_private_key(founded.authority.key), load_private_key(founded.authority.root_key)
    unconstrained = issuing_certificate(key.public_key(), founded.ca, root_key, "other.example", now)
    for certifier in (issuer, unconstrained):
        verdicts = {}
        for federation in ("cardio.example", "other.example", "sub.cardio.example", "cardio.example.org"):
            subject = Subject(federation, Role.SILO, "silo-a")
            leaf = member_certificate(new_key().public_key(), subject, certifier, key, now, timedelta(days=1))
            verdicts[federation] = openssl(founded, "sslclient", leaf, issuer=certifier)
        own = verdicts.pop("cardio.example")
        assert own == "OK" if certifier is issuer else "permitted subtree violation" in own
        assert all("permitted subtree violation" in verdict for verdict in verdicts.values()), verdicts


def test_no_authority_verifies_below_the_issuing_one(found: Callable[..., Any]):
    founded = found()
    issuer, key = load_certificate(founded.authority.issuer.read_bytes()), load_private_key(founded.authority.key)
    below, now = new_key(), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")]))
        .issuer_name(issuer.subject)
        .public_key(below.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(below.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for kind in (x509.BasicConstraints, x509.KeyUsage):
        made = made.add_extension(issuer.extensions.get_extension_for_class(kind).value, critical=True)
    deeper = made.sign(key, hashes.SHA256())
    subject = Subject(founded.name, Role.SILO, "silo-a")
    leaf = member_certificate(new_key().public_key(), subject, deeper, below, now, timedelta(days=1))
    (founded.directory / "below.pem").write_bytes(deeper.public_bytes(serialization.Encoding.PEM))
    assert "path length constraint exceeded" in openssl(founded, "sslclient", leaf, "-untrusted", "below.pem")


@pytest.mark.parametrize("days", [1, 30, 825])
def test_a_certificate_is_valid_from_now_for_its_days(found: Callable[..., Any], days: int):
    founded = found()
    certificate = certified(founded, "silo-a", Role.SILO, days=days)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc < now
    assert timedelta(0) <= now + timedelta(days=days) - certificate.not_valid_after_utc < timedelta(minutes=5)
    other = certified(founded, "silo-b", Role.SILO, days=days)
    assert other.serial_number != certificate.serial_number


def test_a_member_is_given_its_certificate_with_its_issuer_below_the_root(found: Callable[..., Any]):
    founded = found()
    for name, role, purpose in (("silo-a", Role.SILO, "sslclient"), ("hub", Role.COORDINATOR, "sslserver")):
        chain = load_chain(founded.authority.enrol(founded.request(name, role, *PLACES[:2])[1])[0])
        assert [one.subject.rfc4514_string() for one in chain] == [f"CN={name}", "CN=cardio.example issuing authority"]
        assert openssl(founded, purpose, chain[0], issuer=chain[1]) == "OK"
        assert "unable to get local issuer certificate" in openssl(founded, purpose, chain[0], issuer=chain[0])


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


def csr_of(
    key: Any, *extensions: x509.ExtensionType, names: Sequence[str] = ("silo-a",)
) -> x509.CertificateSigningRequest:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
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
    "no usable PEM certificate signing request": {"csr": "garbage"},
    "no usable PEM": {"csr": ""},
    "got name 'Silo A'": {"name": "Silo A"},
    "got name ''": {"name": ""},
    "silo-b is or was a member": {"name": "silo-b"},
    "expected host:port": {"role": Role.COORDINATOR, "addresses": ("m\u00fcnchen.example:1",)},
    "got address": {"role": Role.COORDINATOR, "addresses": ("hub",)},
}


def renamed(log: str, origin: str) -> str:
    """The same key of a log of another name."""
    return vkey_of(origin, Ed25519PublicKey.from_public_bytes(parse_vkey(log).public))


@pytest.mark.parametrize(("reason", "change"), CHANGES.items(), ids=CHANGES)
def test_a_request_that_is_refused_changes_nothing(found: Callable[..., Any], reason: str, change: dict[str, Any]):
    founded = found()
    founded.member("silo-b")
    request: EnrolmentRequest = founded.request("silo-a")[1]
    if "role" in change:  # then its log has another name, too
        change = {**change, "log": renamed(request.log, log_origin(founded.name, change["role"], "silo-a"))}
    request = request.model_copy(update=change)
    before = state(founded.authority)
    with pytest.raises(ConcordatError, match=reason):
        founded.authority.enrol(request)
    assert state(founded.authority) == before
    assert founded.authority.manifest().version == 2


OPERATOR = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cardio.example/operator/ops")])
BEYOND: dict[str, dict[str, Any]] = {
    "another name": {"name": "operator"},
    "no name": {"name": None},
    "a second name": {"name": "silo-a", "more": "operator"},
    "an authority": {"extensions": [x509.BasicConstraints(ca=True, path_length=None)]},
    "an operator's URI": {"extensions": [OPERATOR]},
    "its own URI": {
        "extensions": [
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://cardio.example/silo/silo-a")])
        ]
    },
    "a server's use": {"extensions": [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]},
    "both": {"extensions": [OPERATOR, x509.BasicConstraints(ca=True, path_length=None)]},
}


@pytest.mark.parametrize("ask", BEYOND.values(), ids=BEYOND)
def test_a_request_that_asks_for_more_than_its_key_is_refused_and_changes_nothing(
    found: Callable[..., Any], ask: dict[str, Any]
):
    """A subject and extensions in it would be the member's words; the certificate has the operator's."""
    founded = found()
    names = [name for name in (ask.get("name", "silo-a"), ask.get("more")) if name is not None]
    csr = csr_of(new_key(), *ask.get("extensions", []), names=names)
    request = founded.request("silo-a")[1].model_copy(update={"csr": pem(csr)})
    before = state(founded.authority)
    extensions = ", ".join(extension.oid.dotted_string for extension in ask.get("extensions", []))
    reason = (
        f"asks for extensions ({extensions}), expected none"
        if extensions
        else "expected the member's own name 'CN=silo-a'"
    )
    with pytest.raises(IdentityError, match=re.escape(reason)):
        founded.authority.enrol(request)
    assert state(founded.authority) == before


def test_a_certificate_is_for_the_requests_key_and_the_manifests_name(found: Callable[..., Any]):
    founded = found()
    key = new_key()
    request = founded.request("silo-a")[1].model_copy(update={"csr": pem(csr_of(key))})
    certificate = load_certificate(founded.authority.enrol(request)[0])
    assert peer_of(certificate).uri == "spiffe://cardio.example/silo/silo-a"
    assert certificate.subject.rfc4514_string() == "CN=silo-a"
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
