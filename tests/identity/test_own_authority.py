"""An institution brings certificates of its own authority: they work as ours do, for its own members alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.enrolment import join, parse_request, request_enrolment
from federation.errors import IdentityError, UsageError
from federation.home import Home
from federation.identity import Role, new_key
from federation.membership import identify
from federation.processes import command_line
from federation.trust import load_chain, serial_of

from .conftest import FLEET, NAME, Online

pytestmark = pytest.mark.federation


@dataclass
class Hospital:
    """A hospital's certificate authority, and what it issues."""

    directory: Path
    authority: bytes
    issue: Callable[[str, str], tuple[bytes, bytes]]

    def pair(self, uri: str, usage: str = "client") -> tuple[Path, Path]:
        chain, key = self.issue(uri, usage)
        certificate_file, key_file = self.directory / "tls.crt", self.directory / "tls.key"
        certificate_file.write_bytes(chain)
        key_file.unlink(missing_ok=True)
        key_file.touch(mode=0o600)
        key_file.write_bytes(key)
        return certificate_file, key_file


def uri_of(name: str, role: str = "silo") -> str:
    return f"spiffe://{NAME}/{role}/{name}"


def usages(usage: str) -> x509.ExtendedKeyUsage:
    known = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}
    return x509.ExtendedKeyUsage([known[usage]])


def with_openssl(directory: Path) -> Hospital:
    """A root and an issuing authority below it, as openssl makes them; the issuing one is what is trusted."""

    def run(*arguments: str, text: str = "") -> None:
        subprocess.run(["openssl", *arguments], input=text, cwd=directory, check=True, capture_output=True, text=True)

    def extensions(name: str, *lines: str) -> None:
        (directory / name).write_text("\n".join(lines) + "\n")

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    extensions("ca.cnf", "basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign,cRLSign",
               "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")  # fmt: skip
    run("req", *key, "-keyout", "root.key", "-out", "root.csr", "-subj", "/CN=Hospital Root")
    run("x509", "-req", "-in", "root.csr", "-signkey", "root.key", "-out", "root.pem", "-days", "3650",
        "-extfile", "ca.cnf")  # fmt: skip
    run("req", *key, "-keyout", "sub.key", "-out", "sub.csr", "-subj", "/CN=Hospital Issuing CA")
    run("x509", "-req", "-in", "sub.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial",
        "-out", "sub.pem", "-days", "1000", "-extfile", "ca.cnf")  # fmt: skip

    def issue(uri: str, usage: str) -> tuple[bytes, bytes]:
        extensions("leaf.cnf", "basicConstraints=critical,CA:false", "keyUsage=critical,digitalSignature",
                   f"extendedKeyUsage={usage}Auth", f"subjectAltName=URI:{uri}", "subjectKeyIdentifier=hash",
                   "authorityKeyIdentifier=keyid")  # fmt: skip
        run("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/O=Hospital/CN=concordat")
        run("x509", "-req", "-in", "leaf.csr", "-CA", "sub.pem", "-CAkey", "sub.key", "-CAcreateserial",
            "-out", "leaf.pem", "-days", "90", "-extfile", "leaf.cnf")  # fmt: skip
        return (directory / "leaf.pem").read_bytes(), (directory / "leaf.key").read_bytes()

    return Hospital(directory, (directory / "sub.pem").read_bytes(), issue)


def with_trustme(directory: Path) -> Hospital:
    """A certificate authority that `trustme` made; it signs what we build, as its own leaves carry no URI."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    signer = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)

    def issue(uri: str, usage: str) -> tuple[bytes, bytes]:
        key, now = new_key(), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hospital")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
            .add_extension(usages(usage), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), pem

    return Hospital(directory, authority.cert_pem.bytes(), issue)


@pytest.fixture(params=[with_openssl, with_trustme], ids=["openssl", "trustme"])
def hospital(request: pytest.FixtureRequest, tmp_path: Path) -> Hospital:
    made: Hospital = request.param(tmp_path)
    return made


def enrolled(online: Online, hospital: Hospital, name: str, **changes: Any) -> Home:
    home = online.home(name)
    uri = changes.get("uri", uri_of(name))
    request_enrolment(home, NAME, name, Role.SILO, "DE", own=hospital.pair(uri, changes.get("usage", "client")))
    bundle = online.authority.bundle(online.authority.enrol(parse_request(home.request.read_bytes()))[0])
    join(home, json.dumps(bundle).encode())
    online.wait_for_manifest()
    return home


def test_a_member_with_its_own_authority_gets_in(online: Online, hospital: Hospital, request: Any):
    name = f"own-{request.node.callspec.id}"
    online.authority.trust(f"{name}-ca", hospital.authority, (name,))
    online.wait_for_manifest()
    home = enrolled(online, hospital, name)
    answer = online.call(home, FLEET + "pull-messages", "POST")
    assert "flwr-public-key" in answer.text, "past the handshake and the member check"
    assert home.key.read_bytes() == (hospital.directory / "tls.key").read_bytes()
    renewed = hospital.pair(uri_of(name))
    home.certificate.write_bytes(renewed[0].read_bytes())
    home.key.write_bytes(renewed[1].read_bytes())
    assert "flwr-public-key" in online.call(home, FLEET + "pull-messages", "POST").text


def test_an_authority_vouches_for_its_own_members_alone(online: Online, hospital: Hospital, request: Any):
    """A hospital's authority issues a certificate in the operator's name, and one in another hospital's."""
    name = f"own-b-{request.node.callspec.id}"
    online.member(f"{name}-victim")
    online.authority.trust(f"{name}-ca", hospital.authority, (name,))
    online.wait_for_manifest()
    home = enrolled(online, hospital, name)
    for victim in (uri_of("ops", "operator"), uri_of(f"{name}-victim")):
        forged = hospital.pair(victim)
        home.certificate.write_bytes(forged[0].read_bytes())
        home.key.write_bytes(forged[1].read_bytes())
        answer = online.call(home, FLEET + "pull-messages", "POST")
        assert (answer.status, f"may vouch for {name} alone" in answer.text) == (403, True)


def test_one_certificate_of_an_own_authority_is_revoked_and_the_next_works(
    online: Online, hospital: Hospital, request: Any
):
    name = f"own-r-{request.node.callspec.id}"
    online.authority.trust(f"{name}-ca", hospital.authority, (name,))
    online.wait_for_manifest()
    home = enrolled(online, hospital, name)
    online.wait_for_manifest()
    assert "not a member" not in online.call(home, FLEET + "pull-messages", "POST").text
    serial = serial_of(load_chain(home.certificate.read_bytes())[0])
    for wrong, reason in ((None, "was issued here"), ("hub", "vouches for hub")):
        with pytest.raises(UsageError, match=reason):
            online.authority.revoke_certificate(serial, "copied", wrong)
    with pytest.raises(UsageError, match="as a serial number"):
        online.authority.revoke_certificate("no number", "copied", name)
    online.authority.revoke_certificate(serial, "copied", name)
    online.wait_for_manifest()
    answer = online.call(home, FLEET + "pull-messages", "POST")
    assert (answer.status, f"this certificate of {name} was revoked on" in answer.text) == (403, True)
    certificate, key = hospital.pair(uri_of(name))
    home.certificate.write_bytes(certificate.read_bytes())
    home.key.write_bytes(key.read_bytes())
    assert "revoked" not in online.call(home, FLEET + "pull-messages", "POST").text


def test_an_authority_that_is_not_in_the_manifest_is_turned_away(online: Online, hospital: Hospital, request: Any):
    name = f"own-c-{request.node.callspec.id}"
    with pytest.raises(IdentityError, match="was not issued by this federation's authority"):
        enrolled(online, hospital, name)
    assert name not in {member.name for member in online.authority.manifest().federation.members}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"usage": "server"}, "is not for a TLS client"),
        ({"uri": "spiffe://other.example/silo/own-d"}, "got a certificate of federation other.example"),
        ({"uri": uri_of("own-d", "operator")}, "is a silo in the manifest, a operator in its certificate"),
        ({"uri": "https://hospital.example"}, "expected spiffe://"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused_at_enrolment(
    online: Online, tmp_path: Path, changes: dict[str, str], reason: str
):
    hospital = with_trustme(tmp_path)
    online.authority.trust("own-d-ca", hospital.authority, ("own-d",))
    home = Home(tmp_path / "home")
    uri, usage = changes.get("uri", uri_of("own-d")), changes.get("usage", "client")
    request_enrolment(home, NAME, "own-d", Role.SILO, "DE", own=hospital.pair(uri, usage))
    with pytest.raises(IdentityError, match=reason):
        online.authority.enrol(parse_request(home.request.read_bytes()))


def test_the_commands_take_an_institutions_certificate(online: Online, tmp_path: Path):
    hospital = with_openssl(tmp_path)
    certificate, key = hospital.pair(uri_of("own-e"))
    home, bundle = tmp_path / "home", tmp_path / "bundle.json"

    def concordat(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command_line(*arguments), capture_output=True, text=True, timeout=60, check=False)

    directory = str(online.authority.path)
    trusted = concordat("federation", "trust", directory, "--name", "own-e-ca", "--certificate",
                        str(tmp_path / "sub.pem"), "--member", "own-e")  # fmt: skip
    assert trusted.returncode == 0, trusted.stderr
    asked = concordat("federation", "request", NAME, "--name", "own-e", "--role", "silo", "--country", "DE",
                      "--home", str(home), "--certificate", str(certificate), "--key", str(key))  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    enrolled_ = concordat("federation", "enroll", directory, str(home / "request.json"), "--out", str(bundle))
    assert enrolled_.returncode == 0, enrolled_.stderr
    assert concordat("federation", "join", str(bundle), "--home", str(home)).returncode == 0
    peer = identify(online.authority.manifest(), load_chain(Home(home).certificate.read_bytes())[0])
    assert peer.name == "own-e"
    other = tmp_path / "other.key"
    other.touch(mode=0o600)
    other.write_bytes(hospital.issue(uri_of("own-e"), "client")[1])
    certificate.write_bytes(home.joinpath("cert.pem").read_bytes())
    own = ["--certificate", str(certificate), "--key", str(other), "--home", str(tmp_path / "h2")]
    wrong = concordat("federation", "request", NAME, "--name", "own-e", "--role", "silo", "--country", "DE", *own)
    assert (wrong.returncode, "does not belong to the certificate" in wrong.stderr) == (1, True)


def test_what_is_no_authority_is_not_trusted(online: Online, tmp_path: Path):
    hospital = with_trustme(tmp_path)
    leaf, _ = hospital.issue(uri_of("own-f"), "client")
    before = online.authority.manifest().version
    with pytest.raises(IdentityError, match=r"may not certify others|does not say whether"):
        online.authority.trust("own-f-ca", leaf, ("own-f",))
    with pytest.raises(IdentityError, match="lower-case letters"):
        online.authority.trust("own-f-ca", hospital.authority, ("Own F",))
    assert online.authority.manifest().version == before
