"""A member's certificate is renewed with a new key while the old one still speaks for it."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from cryptography import x509
from pydantic import Field

from federation.asking import post
from federation.enrolment import join_renewed
from federation.errors import IdentityError
from federation.home import Home, read_limited
from federation.identity import Peer, load_private_key, new_key, save_private_key, sign, signing_request, verify
from federation.json_text import parse_json, without_mark
from federation.limits import LIMITS
from federation.manifest import SignedManifest, load_manifest
from federation.membership import identify, is_outlived, recognise
from federation.trust import load_chain, renewal_due, serial_of
from policies.document import Closed

IDENTITY_PREFIX = "/concordat/v1/identity/"
RENEW_PATH = IDENTITY_PREFIX + "renew"
DOMAIN = b"certificate renewal"
FORMAT: Literal["concordat/renewal-request/v1"] = "concordat/renewal-request/v1"


class RenewalRequest(Closed):
    """A renewal by courier: a request for the next key, signed with the present one."""

    format: Literal["concordat/renewal-request/v1"]
    csr: Annotated[str, Field(max_length=LIMITS.certificate)]
    certificate: Annotated[str, Field(max_length=LIMITS.certificate)]
    signature: Annotated[str, Field(max_length=1024)]


@dataclass(frozen=True)
class Certificate:
    """A home's certificate as the calendar sees it."""

    serial: str
    expires: datetime
    due: datetime

    def left(self, now: datetime) -> timedelta:
        """How long it is still valid; negative once it is not."""
        return self.expires - now


def certificate_of(home: Home) -> Certificate:
    """When a home's certificate ends and is to be renewed; raises IdentityError."""
    leaf = load_chain(read_limited(home.certificate, LIMITS.certificate))[0]
    return Certificate(serial_of(leaf), leaf.not_valid_after_utc, renewal_due(leaf))


def next_signing_request(home: Home) -> str:
    """A signing request for this member's next key, which is made now unless it waits there already."""
    if not home.next_key.exists():
        save_private_key(home.next_key, new_key())
    return signing_request(load_private_key(home.next_key), home.identity().name).decode()


def request_by_courier(home: Home) -> bytes:
    """A renewal request to carry to the operator; the next key stays here."""
    csr = next_signing_request(home)
    signature = base64.b64encode(sign(home.private_key(), DOMAIN, csr.encode())).decode()
    certificate = read_limited(home.certificate, LIMITS.certificate).decode()
    request = RenewalRequest(format=FORMAT, csr=csr, certificate=certificate, signature=signature)
    return json.dumps(request.model_dump(mode="json"), indent=1).encode() + b"\n"


def is_renewal_request(content: bytes) -> bool:
    """Whether a file is a renewal request, and not the request of someone who is to join."""
    try:
        document = parse_json(content)
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def verify_courier(
    content: bytes, manifest: SignedManifest, is_known: Callable[[x509.Certificate], bool] = lambda _: False
) -> tuple[Peer, str]:
    """Whose renewal request this is and its signing request; raises IdentityError unless its present key signed it.

    `is_known` says of a certificate that it is the newest that its member was issued: its key then speaks for the
    member also where the certificate has expired, or its issuing authority was retired.
    """
    try:
        request = RenewalRequest.model_validate_json(without_mark(content))
        signature = base64.b64decode(request.signature, validate=True)
    except ValueError:
        raise IdentityError("got something that is not a renewal request") from None
    certificate = load_chain(request.certificate.encode())[0]
    peer = recognise(manifest, certificate)
    if not is_known(certificate):
        identify(manifest, certificate)
    verify(certificate.public_key(), DOMAIN, request.csr.encode(), signature)
    return peer, request.csr


def install_renewed(home: Home, content: bytes) -> x509.Certificate:
    """Take over a bundle for the next key; a crash within leaves a pair that `Home.private_key` completes."""
    join_renewed(home, content)
    home.private_key()
    return load_chain(read_limited(home.certificate, LIMITS.certificate))[0]


def renew(home: Home, address: str, context: ssl.SSLContext) -> x509.Certificate:
    """Ask the coordinator for a certificate for a new key and install both; returns the new certificate.

    Raises UnreachableError where nobody answers, IdentityError with the coordinator's reason where it refuses.
    """
    return install_renewed(home, ask_renewal(home, address, context))


def ask_renewal(home: Home, address: str, context: ssl.SSLContext) -> bytes:
    """Ask the coordinator for a certificate for a new key; returns the bundle to install. Raises as `renew` does."""
    answer = post(address, RENEW_PATH, {"csr": next_signing_request(home)}, context)
    if answer.status != 200:
        raise IdentityError(f"the coordinator did not renew the certificate: {answer.reason}")
    return answer.content


def is_due(home: Home, now: datetime | None = None) -> bool:
    """Whether the home's certificate is in the second half of its life, or its issuing authority was replaced."""
    if certificate_of(home).due <= (now or datetime.now(UTC)):
        return True
    return is_outlived(load_manifest(home), load_chain(read_limited(home.certificate, LIMITS.certificate))[0])
