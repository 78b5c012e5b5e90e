"""An operator's request for the final model of a run, signed, so that each silo knows to whom it would go."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import IdentityError, WireError
from federation.identity import Peer, Role, load_certificate, sign, verify
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.membership import identify

DOMAIN = b"model release request"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class ReleaseRequest:
    """Which model is asked for, by run, the digest of what was signed of it, and the digest of its weights."""

    run: str
    run_digest: str
    model: str
    signature: bytes
    certificate: bytes

    def fields(self) -> dict[str, str]:
        """The form in which it travels."""
        return {
            "run_id": self.run,
            "run_digest": self.run_digest,
            "model": self.model,
            "signature": base64.b64encode(self.signature).decode(),
            "operator": self.certificate.decode(),
        }


def request_release(
    run: str, run_digest: str, model: str, key: ec.EllipticCurvePrivateKey, certificate: bytes
) -> ReleaseRequest:
    """A request signed with the operator's key."""
    return ReleaseRequest(run, run_digest, model, sign(key, DOMAIN, _content(run, run_digest, model)), certificate)


def parse_release_request(fields: Mapping[str, object]) -> ReleaseRequest:
    """Rebuild a request from the form in which it travels; raises WireError. Nothing is verified yet."""
    texts = [fields.get(name) for name in ("run_id", "run_digest", "model", "signature", "operator")]
    try:
        sound = all(isinstance(text, str) and len(text.encode()) <= LIMITS.certificate for text in texts)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say
        sound = False
    if not sound:
        raise WireError("got a release request without one of its fields, expected each as text")
    run, run_digest, model, signature, operator = map(str, texts)
    if not _DIGEST.fullmatch(run_digest) or not _DIGEST.fullmatch(model) or not 0 < len(run) <= 100:
        raise WireError("got a release request for no run or no model, expected its id and two digests")
    try:
        return ReleaseRequest(run, run_digest, model, base64.b64decode(signature, validate=True), operator.encode())
    except ValueError:
        raise WireError("got a release request whose signature is not base64") from None


def verify_release_request(request: ReleaseRequest, manifest: SignedManifest) -> Peer:
    """Check that an operator of the federation signed this request; returns the operator. Raises IdentityError."""
    certificate = load_certificate(request.certificate)
    operator = identify(manifest, certificate)
    if operator.role is not Role.OPERATOR:
        raise IdentityError(f"the release is asked for by a {operator.role}, expected an operator")
    content = _content(request.run, request.run_digest, request.model)
    verify(certificate.public_key(), DOMAIN, content, request.signature)
    return operator


def _content(run: str, run_digest: str, model: str) -> bytes:
    return "\n".join((run, run_digest, model)).encode()
