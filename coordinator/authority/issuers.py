"""An issuing authority is replaced by another, and retired: what the root signs, and what the manifest then says."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.authority.certificates import federation_of, issuer_name, issuing_certificate
from federation.errors import IdentityError, UsageError
from federation.identity import UNREADABLE, check_readable, public_key_pem
from federation.issuers import REASON_CHARACTERS, FormerIssuer
from federation.limits import LIMITS
from federation.trust import check_authority, check_issuer, check_valid, generation_of


def issuing_request(key: ec.EllipticCurvePrivateKey, federation: str, generation: int) -> bytes:
    """A signing request (RFC 2986, PEM) for a federation's n-th issuing authority, to carry to the root."""
    name = issuer_name(federation, generation)
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def certify_issuer(
    request: bytes, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    """What the root makes of a request for an issuing authority; raises IdentityError for a request of another kind.

    The key and the number are the request's; everything else is as at the founding.
    """
    check_authority(root)
    check_valid(root, now)
    if root_key.public_key() != root.public_key():
        raise IdentityError("the root's key does not belong to the root's certificate")
    if len(request) > LIMITS.certificate:
        raise IdentityError(f"got a request of {len(request)} bytes, expected at most {LIMITS.certificate}")
    try:
        asked = x509.load_pem_x509_csr(request)
        signed, key = asked.is_signature_valid, asked.public_key()
        unwanted = [extension.oid.dotted_string for extension in asked.extensions]
        generation = generation_of(asked)
    except UNREADABLE:
        raise IdentityError("the request holds no usable PEM certificate signing request") from None
    if not signed:
        raise IdentityError("the request is not signed by the key it asks a certificate for")
    public_key_pem(key)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by public_key_pem
    federation = federation_of(root)
    if generation == 1 or asked.subject != issuer_name(federation, generation) or unwanted:
        raise IdentityError(
            f"the request asks for {asked.subject.rfc4514_string()[:200]!r}, "
            f"expected a later issuing authority of {federation}, and no extensions",
            advice="make it at the authority: concordat federation issuer request",
        )
    return check_readable(issuing_certificate(key, root, root_key, federation, now, generation))


def check_successor(certificate: x509.Certificate, before: x509.Certificate, root: x509.Certificate) -> None:
    """Check that the root certified an issuing authority to come after another; raises IdentityError."""
    check_issuer(certificate, root)
    if generation_of(certificate) <= generation_of(before):
        raise IdentityError(
            f"got the issuing authority {generation_of(certificate)}, expected one after {generation_of(before)}, "
            "which signs the manifest now"
        )


def former(issuer: x509.Certificate) -> FormerIssuer:
    """An issuing authority as the manifest of the next one names it; its certificates count until it is retired."""
    return FormerIssuer(certificate=issuer.public_bytes(serialization.Encoding.PEM).decode())


def retired(
    issuers: tuple[FormerIssuer, ...], generation: int | None, reason: str, now: datetime, *, stolen: bool
) -> tuple[FormerIssuer, ...]:
    """The former issuers with one of them retired, or all that are not yet; raises UsageError where that is none.

    One that was retired in good order may turn out to be stolen later.
    """
    if not 0 < len(reason) <= REASON_CHARACTERS:
        raise UsageError(f"got a reason of {len(reason)} characters, expected 1 to {REASON_CHARACTERS}")
    chosen = [
        one
        for one in issuers
        if (generation is None or one.generation == generation)
        and (one.retired is None or (stolen and not one.stolen and generation is not None))
    ]
    if not chosen:
        which = "former issuing authority that still counts" if generation is None else f"such one: {generation}"
        raise UsageError(f"got no {which}, expected one that was replaced and is not retired")
    change = {"retired": now, "reason": reason, "stolen": stolen}
    return tuple(one.model_copy(update=change) if one in chosen else one for one in issuers)
