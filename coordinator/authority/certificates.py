"""Builds what an authority signs: its own certificates, members' certificates, the revocation list."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.addresses import split_address
from federation.errors import IdentityError
from federation.identity import Role, spiffe_id
from federation.trust import CLOCK_SKEW

ROOT_DAYS = 7300
ISSUER_DAYS = 1825
REVOCATION_LIST_DAYS = 90


@dataclass(frozen=True)
class Subject:
    """Whom a certificate is for, as the manifest has it."""

    federation: str
    role: Role
    name: str
    addresses: tuple[str, ...] = ()


def root_certificate(key: ec.EllipticCurvePrivateKey, federation: str, now: datetime) -> x509.Certificate:
    """The self-signed root: certifies issuing authorities, in this federation's name alone (RFC 5280, 4.2.1.10)."""
    name = _name(f"{federation} root")
    return (
        _builder(name, name, key.public_key(), key.public_key(), now, timedelta(days=ROOT_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(_names_of(federation), critical=True)
        .sign(key, hashes.SHA256())
    )


def issuing_certificate(
    key: ec.EllipticCurvePublicKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    federation: str,
    now: datetime,
    generation: int = 1,
) -> x509.Certificate:
    """The issuing authority's certificate: end entities only, for TLS only, in this federation's name alone.

    `generation` tells it from those before it. It is not valid for longer than the root.
    """
    lifetime = min(timedelta(days=ISSUER_DAYS), root.not_valid_after_utc - now)
    return (
        _builder(issuer_name(federation, generation), root.subject, key, root_key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(_names_of(federation), critical=True)
        .sign(root_key, hashes.SHA256())
    )


def member_certificate(
    key: ec.EllipticCurvePublicKey,
    subject: Subject,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.Certificate:
    """A member's certificate: one SPIFFE name, and for a coordinator the hosts it is reached at.

    It is not valid for longer than that of its issuer.
    """
    lifetime = min(lifetime, issuer.not_valid_after_utc - now)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(spiffe_id(subject.federation, subject.role, subject.name))
    ]
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    if subject.role is Role.COORDINATOR:
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        names += dict.fromkeys(_host_name(address) for address in subject.addresses)
    return (
        _builder(_name(subject.name), issuer.subject, key, issuer_key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def revocation_list(
    serials: Iterable[tuple[int, datetime]],
    number: int,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.CertificateRevocationList:
    """The list of revoked certificates (RFC 5280, section 5) for software that does not read the manifest."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + timedelta(days=REVOCATION_LIST_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for serial, date in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(issuer_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def issuer_name(federation: str, generation: int) -> x509.Name:
    """The name of a federation's n-th issuing authority; the first has no number."""
    name = _name(f"{federation} issuing authority")
    if generation == 1:
        return name
    return x509.Name([*name, x509.NameAttribute(NameOID.SERIAL_NUMBER, str(generation))])


def federation_of(root: x509.Certificate) -> str:
    """The federation in whose name alone a root certifies; raises IdentityError where it says none."""
    try:
        permitted = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    except x509.ExtensionNotFound:
        permitted = []
    names = [one.value for one in permitted if isinstance(one, x509.UniformResourceIdentifier)]
    if len(names) != 1:
        raise IdentityError("got a root that is not bound to the name of one federation")
    return str(names[0])


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[-64:])])


def _names_of(federation: str) -> x509.NameConstraints:
    return x509.NameConstraints([x509.UniformResourceIdentifier(federation)], None)


def _key_usage(*, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(address: str) -> x509.GeneralName:
    host = split_address(address)[0]
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
