"""Chains of trust: the root that every member holds, the issuing authority, and what a certificate must show."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import IdentityError
from federation.identity import UNREADABLE, Peer, Role, check_readable, public_key_pem
from federation.limits import LIMITS

CLOCK_SKEW = timedelta(minutes=5)
"""How far a certificate's beginning lies before its issue, for members whose clocks are behind."""


def load_chain(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Parse the certificates of a PEM file, the leaf first; raises IdentityError."""
    if len(pem) > LIMITS.certificate:
        raise IdentityError(f"got certificates of {len(pem)} bytes, expected at most {LIMITS.certificate}")
    try:
        return tuple(check_readable(certificate) for certificate in x509.load_pem_x509_certificates(pem))
    except UNREADABLE:
        raise IdentityError("got something that is not a PEM certificate") from None


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority's name and key are those that signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def check_valid(certificate: x509.Certificate, now: datetime | None = None) -> None:
    """Check that a certificate is valid at a time (aware, default now); raises IdentityError with both dates."""
    now = now or datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise IdentityError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, not now ({now:%Y-%m-%d %H:%M} UTC)",
            advice="renew it, or set this machine's clock right",
        )


def check_authority(certificate: x509.Certificate) -> None:
    """Check that a certificate may certify others (RFC 5280, 4.2.1.9 and 4.2.1.3); raises IdentityError."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise IdentityError("got a certificate that does not say whether it is an authority's") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise IdentityError("got a certificate that may not certify others, expected an authority's")


def check_issuer(issuer: x509.Certificate, root: x509.Certificate, *, expired: bool = False) -> None:
    """Check that the root certified an issuing authority and that it is valid now; raises IdentityError.

    With `expired` its dates do not count: for what is known of old, and not to be acted on.
    """
    if not is_issued_by(issuer, root):
        raise IdentityError("the issuing authority was not certified by this federation's root")
    check_authority(issuer)
    public_key_pem(issuer.public_key())
    generation_of(issuer)
    if not expired:
        check_valid(issuer)


def generation_of(issuer: x509.Certificate | x509.CertificateSigningRequest) -> int:
    """Which of a federation's issuing authorities this is, from 1; raises IdentityError.

    The root certified the number with the name: `serialNumber` of the subject (X.520, 6.2.9). The first has none.
    """
    numbers = [str(attribute.value) for attribute in issuer.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if not numbers:
        return 1
    if len(numbers) != 1 or not re.fullmatch("[1-9][0-9]{0,5}", numbers[0]):
        raise IdentityError(f"got an issuing authority with the number {numbers[0][:40]!r}, expected one from 1")
    return int(numbers[0])


def check_usage(certificate: x509.Certificate, peer: Peer) -> None:
    """Check that the extended key usage fits the role: servers serve, all others are clients; raises IdentityError."""
    wanted, name = ExtendedKeyUsageOID.CLIENT_AUTH, "client"
    if peer.role is Role.COORDINATOR:
        wanted, name = ExtendedKeyUsageOID.SERVER_AUTH, "server"
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([])
    if wanted not in usages:
        raise IdentityError(f"the certificate of {peer.name} is not for a TLS {name}, as a {peer.role} needs it")


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as lower-case hexadecimal digits."""
    return f"{certificate.serial_number:x}"


def renewal_due(certificate: x509.Certificate) -> datetime:
    """When a certificate is to be renewed: at half of the life it was given."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    given = max(end - begin - CLOCK_SKEW, timedelta())
    return end - given / 2
