"""Signs a policy with the key of who answers for it, and takes only a signed one where a signer is named."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import IdentityError
from federation.home import read_limited
from federation.identity import public_key_pem, sign, verify
from federation.limits import LIMITS
from policies import bundle
from policies.document import Document
from policies.model import SiloPolicy, load_policy

SIGNATURE_SUFFIX = ".sig"


def signature_path(policy: Path) -> Path:
    """Where a policy's signature lies: beside it."""
    return policy.with_name(policy.name + SIGNATURE_SUFFIX)


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a PEM public key; raises IdentityError."""
    try:
        key = serialization.load_pem_public_key(read_limited(path, LIMITS.key_file))
    except ValueError:
        raise IdentityError(f"{path} is not a PEM public key", advice="give the file that ends in .pub.pem") from None
    public_key_pem(key)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by public_key_pem
    return key


def sign_policy(policy: Document[SiloPolicy], signer: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> str:
    """The text of the signature file for a policy."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    signature = sign(key, bundle.DOMAIN, bundle.statement(policy, signer, moment))
    return bundle.document(policy, signer, moment, base64.b64encode(signature).decode())


def verify_policy(
    policy: Document[SiloPolicy], signature: Document[bundle.PolicySignature], signer: ec.EllipticCurvePublicKey
) -> None:
    """Check that the signer's key signed exactly this policy; raises IdentityError or PolicyError."""
    bundle.check_subject(signature, policy)
    try:
        content = base64.b64decode(signature.model.signature, validate=True)
    except ValueError:
        raise IdentityError(f"{signature.locate(('signature',))}: got a signature that is not base64") from None
    verify(signer, bundle.DOMAIN, bundle.statement_of(signature.model), content)


def load_active_policy(
    path: Path, signer: ec.EllipticCurvePublicKey | None, source: str | None = None
) -> Document[SiloPolicy]:
    """Read a policy; where a signer is named, only with a signature file beside it that the signer's key made.

    Raises IdentityError or PolicyError.
    """
    policy = load_policy(path, source)
    if signer is None:
        return policy
    beside = signature_path(path)
    if not beside.exists():
        raise IdentityError(
            f"{path} has no signature {beside.name}, and this silo takes only signed policies",
            advice="run: concordat policy sign",
        )
    verify_policy(policy, bundle.load_signature(beside, beside.name), signer)
    return policy
