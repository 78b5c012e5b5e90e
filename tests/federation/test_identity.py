from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from federation import manifest, run
from federation.errors import IdentityError
from federation.identity import (
    FEDERATION_NAME,
    NAME,
    Role,
    check_name,
    fingerprint,
    load_certificate,
    load_private_key,
    new_key,
    parse_spiffe_id,
    peer_of,
    public_key_pem,
    read_private,
    save_private_key,
    sign,
    signing_request,
    spiffe_id,
    verify,
    write_private,
)
from federation.limits import LIMITS

KEY = new_key()


# -- names and identifiers


@given(st.from_regex(FEDERATION_NAME, fullmatch=True), st.sampled_from(Role), st.from_regex(NAME, fullmatch=True))
def test_an_identifier_reads_back_as_it_was_written(federation: str, role: Role, name: str):
    assert parse_spiffe_id(spiffe_id(federation, role, name)) == (federation, role, name)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://f/silo",
        "spiffe://f/silo/a/b",
        "spiffe://f/silo/",
        "spiffe:///silo/a",
        "spiffe://f/king/a",
        "spiffe://f/SILO/a",
        "spiffe://F/silo/a",
        "spiffe://f/silo/A",
        "spiffe://f/silo/-a",
        "spiffe://f/silo/a-",
        "spiffe://f/silo/a.b",
        "spiffe://f/silo/a_b",
        "spiffe://f/silo/a\n",
        "spiffe://f/silo/a?x=1",
        "spiffe://f/silo/" + "a" * 64,
        "spiffe://f/silo/\u0430",
        " spiffe://f/silo/a",
        "http://f/silo/a",
        "spiffe://f:1/silo/a",
    ],
)
def test_what_is_not_an_identifier_is_refused(uri: str):
    with pytest.raises(IdentityError):
        parse_spiffe_id(uri)


@given(st.text(max_size=100) | st.text(alphabet="spife:/silorcd-a.", max_size=40).map(lambda t: "spiffe://f/silo/" + t))
def test_any_text_is_an_identifier_or_is_refused(uri: str):
    try:
        federation, role, name = parse_spiffe_id(uri)
    except IdentityError:
        return
    assert spiffe_id(federation, role, name) == uri
    assert check_name(name) == name


def certificate_with(*names: x509.GeneralName) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def test_the_identity_is_the_one_uri_of_the_certificate():
    uri = x509.UniformResourceIdentifier("spiffe://f/silo/a")
    peer = peer_of(certificate_with(x509.DNSName("spiffe.example"), uri))
    assert (peer.federation, peer.role, peer.name, peer.uri) == ("f", Role.SILO, "a", "spiffe://f/silo/a")
    assert peer.public_key == public_key_pem(KEY.public_key())
    for others in ([], [x509.DNSName("f")], [uri, x509.UniformResourceIdentifier("spiffe://f/operator/a")]):
        with pytest.raises(IdentityError):
            peer_of(certificate_with(*others))


# -- key files


def test_a_key_is_written_for_its_owner_alone_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        save_private_key(tmp_path / "key.pem", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert load_private_key(tmp_path / "key.pem").private_numbers() == KEY.private_numbers()


def test_a_key_is_never_overwritten(tmp_path: Path):
    path = tmp_path / "key.pem"
    path.write_bytes(b"the only copy")
    with pytest.raises(IdentityError, match="never overwritten"):
        save_private_key(path, KEY)
    assert path.read_bytes() == b"the only copy"


@pytest.mark.parametrize("exists", [True, False])
def test_a_key_is_not_written_through_a_link(tmp_path: Path, exists: bool):
    elsewhere = tmp_path / "elsewhere"
    if exists:
        elsewhere.write_bytes(b"another's file")
    (tmp_path / "key.pem").symlink_to(elsewhere)
    with pytest.raises(IdentityError):
        write_private(tmp_path / "key.pem", b"secret")
    assert elsewhere.exists() == exists
    assert not exists or elsewhere.read_bytes() == b"another's file"


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777, 0o440])
def test_a_key_that_others_may_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int):
    path = tmp_path / "key.pem"
    save_private_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        load_private_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_of_its_owner_alone_is_read(tmp_path: Path, mode: int):
    path = tmp_path / "key.pem"
    save_private_key(path, KEY)
    path.chmod(mode)
    assert load_private_key(path).public_key() == KEY.public_key()


def test_a_key_file_that_is_absent_or_too_large_is_refused(tmp_path: Path):
    with pytest.raises(IdentityError, match="is missing"):
        read_private(tmp_path / "none.pem")
    for size, fits in ((LIMITS.key_file, True), (LIMITS.key_file + 1, False)):
        path = tmp_path / f"{size}"
        write_private(path, b"x" * size)
        if fits:
            assert len(read_private(path)) == size
        else:
            with pytest.raises(IdentityError, match=str(LIMITS.key_file)):
                read_private(path)


def test_a_passphrase_is_needed_where_one_was_given(tmp_path: Path):
    path = tmp_path / "key.pem"
    save_private_key(path, KEY, b"correct horse")
    assert load_private_key(path, b"correct horse").public_key() == KEY.public_key()
    for wrong in (None, b"battery staple"):
        with pytest.raises(IdentityError, match="passphrase"):
            load_private_key(path, wrong)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=lambda key: type(key).__name__,
)
def test_another_kind_of_key_is_refused(tmp_path: Path, key: rsa.RSAPrivateKey):
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(tmp_path / "key.pem", pem)
    with pytest.raises(IdentityError):
        load_private_key(tmp_path / "key.pem")
    with pytest.raises(IdentityError):
        public_key_pem(key.public_key())


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes):
    write_private(tmp_path / "key.pem", content)
    with pytest.raises(IdentityError, match="not a PEM private key"):
        load_private_key(tmp_path / "key.pem")


@pytest.mark.parametrize("pem", [b"", b"garbage", signing_request(KEY, "a"), b" " * (LIMITS.certificate + 1)])
def test_what_is_no_certificate_is_refused(pem: bytes):
    with pytest.raises(IdentityError):
        load_certificate(pem)


def test_a_signing_request_names_the_member_and_proves_the_key():
    request = x509.load_pem_x509_csr(signing_request(KEY, "hospital-a"))
    assert request.is_signature_valid
    assert request.public_key() == KEY.public_key()
    assert request.subject.rfc4514_string() == "CN=hospital-a"
    with pytest.raises(IdentityError):
        signing_request(KEY, "Hospital A")


def test_the_fingerprint_is_eighty_bits_of_the_keys_sha256():
    pem = public_key_pem(KEY.public_key())
    digest = hashlib.sha256(pem).hexdigest()
    assert fingerprint(pem) == f"{digest[:4]}-{digest[4:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}"
    assert fingerprint(public_key_pem(new_key().public_key())) != fingerprint(pem)


# -- signatures


def test_a_signature_holds_for_its_key_its_domain_and_its_content():
    signature = sign(KEY, b"a", b"content")
    verify(KEY.public_key(), b"a", b"content", signature)
    for key, domain, content in (
        (new_key(), b"a", b"content"),
        (KEY, b"b", b"content"),
        (KEY, b"a", b"content "),
        (KEY, b"", b"a\0content"),
    ):
        with pytest.raises(IdentityError, match="does not verify"):
            verify(key.public_key(), domain, content, signature)


def test_a_signature_of_one_use_does_not_serve_the_other():
    assert b"\0" not in manifest.DOMAIN + run.DOMAIN
    for mine, others in ((manifest.DOMAIN, run.DOMAIN), (run.DOMAIN, manifest.DOMAIN)):
        signature = sign(KEY, mine, b"content")
        with pytest.raises(IdentityError):
            verify(KEY.public_key(), others, b"content", signature)


@given(st.binary(max_size=80))
def test_bytes_that_are_no_signature_are_refused(signature: bytes):
    with pytest.raises(IdentityError):
        verify(KEY.public_key(), b"a", b"content", signature)


def test_only_keys_of_the_two_curves_verify():
    other = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(IdentityError, match="P-256 or P-384"):
        verify(other.public_key(), b"a", b"content", other.sign(b"a\0content"))
