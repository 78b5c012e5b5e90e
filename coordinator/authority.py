"""The federation's authority: its key, the certificates it issues, the manifest it signs.

Works on files alone, so that the directory can live on a machine that is off the network.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.addresses import split_address
from federation.enrolment import BUNDLE_FORMAT, EnrolmentRequest
from federation.errors import IdentityError, UsageError
from federation.home import Home, read_limited
from federation.identity import (
    FEDERATION_NAME,
    Role,
    check_name,
    fingerprint,
    load_certificate,
    load_private_key,
    new_key,
    public_key_pem,
    save_private_key,
    spiffe_id,
)
from federation.limits import LIMITS
from federation.manifest import (
    REASON_CHARACTERS,
    Federation,
    ManifestMetadata,
    Member,
    Revoked,
    SignedManifest,
    dump,
    load_manifest,
    sign_manifest,
    store_manifest,
    verify_manifest,
)

AUTHORITY_DAYS = 3650
MEMBER_DAYS = 30
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """An authority's directory: key, certificate and the manifest it last signed."""

    path: Path

    @property
    def key(self) -> Path:
        """The authority's private key; may be moved away between uses."""
        return self.path / "ca-key.pem"

    @property
    def certificate(self) -> Path:
        """The authority's certificate, which every member trusts."""
        return self.path / "ca.pem"

    def found(self, name: str) -> SignedManifest:
        """Make the key, the certificate and the first manifest; raises UsageError where a federation exists."""
        if not FEDERATION_NAME.fullmatch(name):
            raise UsageError(f"got federation name {name!r}, expected lower-case letters, digits, dots and hyphens")
        if self.certificate.exists():
            raise UsageError(f"{self.path} already holds a federation", advice="choose another directory")
        Home(self.path).create()
        key = new_key()
        save_private_key(self.key, key)
        self.certificate.write_bytes(_root_certificate(key, name).public_bytes(serialization.Encoding.PEM))
        federation = Federation(
            apiVersion="concordat/v1",
            kind="Federation",
            metadata=ManifestMetadata(name=name, version=1),
        )
        return self._sign(federation, key)

    def manifest(self) -> SignedManifest:
        """The manifest last signed here."""
        return load_manifest(Home(self.path))

    def enrol(self, request: EnrolmentRequest, days: int = MEMBER_DAYS) -> tuple[bytes, SignedManifest]:
        """Certify a member's key and enter it in the manifest; returns certificate PEM and the new manifest."""
        federation = self.manifest().federation
        check_name(request.name)
        if request.name in {one.name for one in federation.members} | {one.name for one in federation.revoked}:
            raise UsageError(
                f"{request.name} is or was a member of {federation.metadata.name}",
                advice="choose another name",
            )
        csr = _parse_csr(request)
        key = load_private_key(self.key)
        certificate = self._issue(csr, request, federation.metadata.name, key, days)
        member = Member(
            name=request.name,
            role=request.role,
            country=request.country,
            addresses=request.addresses,
            log=request.log,
        )
        changed = federation.model_copy(
            update={
                "metadata": ManifestMetadata(name=federation.metadata.name, version=federation.metadata.version + 1),
                "members": (*federation.members, member),
            }
        )
        return certificate, self._sign(changed, key)

    def revoke(self, name: str, reason: str) -> SignedManifest:
        """Take a member out of the manifest, for good; returns the new one. Raises ManifestError for a stranger."""
        federation = self.manifest().federation
        federation.member(name)
        if not 0 < len(reason) <= REASON_CHARACTERS:
            raise UsageError(f"got a reason of {len(reason)} characters, expected 1 to {REASON_CHARACTERS}")
        revoked = Revoked(name=name, date=datetime.now(UTC).date(), reason=reason)
        changed = federation.model_copy(
            update={
                "metadata": ManifestMetadata(name=federation.metadata.name, version=federation.metadata.version + 1),
                "members": tuple(member for member in federation.members if member.name != name),
                "revoked": (*federation.revoked, revoked),
            }
        )
        return self._sign(changed, load_private_key(self.key))

    def bundle(self, certificate: bytes) -> dict[str, str]:
        """What a member needs to join: its certificate, the authority's, and the signed manifest."""
        manifest = self.manifest()
        return {
            "format": BUNDLE_FORMAT,
            "certificate": certificate.decode(),
            "authority": read_limited(self.certificate, LIMITS.certificate).decode(),
            "manifest": manifest.document.text,
            "manifest_signature": manifest.signature,
        }

    def _sign(self, federation: Federation, key: ec.EllipticCurvePrivateKey) -> SignedManifest:
        text = dump(federation)
        signature = sign_manifest(text, key)
        authority = load_certificate(self.certificate.read_bytes())
        signed = verify_manifest(text, signature, authority)
        store_manifest(self.path, text, signature)
        return signed

    def _issue(
        self,
        csr: x509.CertificateSigningRequest,
        request: EnrolmentRequest,
        federation: str,
        key: ec.EllipticCurvePrivateKey,
        days: int,
    ) -> bytes:
        authority = load_certificate(self.certificate.read_bytes())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(spiffe_id(federation, request.role, request.name))
        ]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if request.role is Role.COORDINATOR:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH]
            names += [_host_name(address) for address in request.addresses]
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, request.name)]))
            .issuer_name(authority.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def _root_certificate(key: ec.EllipticCurvePrivateKey, federation: str) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{federation} authority"[:64])])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(address: str) -> x509.GeneralName:
    host = split_address(address)[0]
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _parse_csr(request: EnrolmentRequest) -> x509.CertificateSigningRequest:
    try:
        csr = x509.load_pem_x509_csr(request.csr.encode())
    except ValueError:
        raise IdentityError("the request holds no PEM certificate signing request") from None
    if not csr.is_signature_valid:
        raise IdentityError("the signing request is not signed by the key it asks a certificate for")
    public_key_pem(csr.public_key())
    return csr


def request_fingerprint(request: EnrolmentRequest) -> str:
    """The fingerprint both sides compare before a request is granted."""
    return fingerprint(public_key_pem(_parse_csr(request).public_key()))
