"""Enrolment on line: an invitation against a certificate, at the only interface that asks for none."""

from __future__ import annotations

from datetime import UTC, datetime

from federation.asking import post
from federation.enrolment import (
    EnrolmentRequest,
    Invitation,
    check_root,
    join,
    parse_request,
    request_enrolment,
    store_request,
    store_root,
)
from federation.errors import RefusedError, UsageError
from federation.home import Home, read_limited
from federation.identity import load_certificate, load_private_key
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.signing import parse_signing_request
from federation.tls import stranger_context
from federation.trust import load_chain

ENROL_PATH = "/concordat/v1/enrolment"


def prepare(home: Home, invitation: Invitation) -> EnrolmentRequest:
    """Make the keys and the request that an invitation asks for, or take up those of an attempt that was cut short.

    The invitation's root is the one that the home will join. Raises UsageError for an invitation that has expired and
    for a home that belongs to someone, IdentityError for a home of another federation.
    """
    if invitation.expires <= datetime.now(UTC):
        raise UsageError(
            f"the invitation of {invitation.name} expired on {invitation.expires:%Y-%m-%d %H:%M} UTC",
            advice="ask the operator for a new one",
        )
    root = load_certificate(invitation.authority.encode())
    check_root(home, root)
    request = _take_up(home, invitation) or request_enrolment(
        home,
        invitation.federation,
        invitation.name,
        invitation.role,
        invitation.country,
        invitation.addresses,
        token=invitation.token,
    )
    store_root(home, root)
    return request


def _take_up(home: Home, invitation: Invitation) -> EnrolmentRequest | None:
    """The request of an attempt that did not end in a certificate, with this invitation's token."""
    if not home.request.exists() or not home.key.exists():
        return None
    key = load_private_key(home.key).public_key()
    if home.certificate.exists():
        certificate = load_chain(read_limited(home.certificate, LIMITS.certificate))[0]
        if certificate.public_key() == key:
            return None
    request = parse_request(read_limited(home.request, LIMITS.enrolment_request))
    wanted = (invitation.name, invitation.role, invitation.country, invitation.addresses)
    if (request.name, request.role, request.country, request.addresses) != wanted or request.certificate is not None:
        return None
    if parse_signing_request(request.csr, request.name).public_key() != key:
        return None
    if request.token != invitation.token:
        request = request.model_copy(update={"token": invitation.token})
        store_request(home, request)
    return request


def enrol(home: Home, invitation: Invitation) -> SignedManifest:
    """Ask the coordinator for a certificate and join; raises UnreachableError, or RefusedError with its reason."""
    request = prepare(home, invitation)
    answer = post(
        invitation.coordinator,
        ENROL_PATH,
        request.model_dump(mode="json", exclude_none=True),
        stranger_context(invitation.authority),
        unsent="try again: the keys made here are kept and the token is not spent",
        unanswered="try again: the keys made here are kept; if the token is spent by now, ask for a new invitation",
    )
    if answer.status != 200:
        raise RefusedError(f"the coordinator refused the enrolment: {answer.reason}")
    return join(home, answer.content)
