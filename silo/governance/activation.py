"""Puts a new version of a policy in the place that the gate reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from federation.errors import ConcordatError
from federation.home import read_limited, replace_file
from federation.limits import LIMITS
from federation.signed_policy import load_active_policy, load_public_key, signature_path
from policies.bundle import check_succession, version_of
from policies.document import Document
from policies.model import SiloPolicy, load_policy
from silo.config import load_silo_config


@dataclass(frozen=True)
class Activated:
    """The policy that is active now, the one before, and who signed for it (None: this silo asks for no signature)."""

    policy: Document[SiloPolicy]
    before: Document[SiloPolicy] | None
    signed: bool


def activate(candidate: Path, config_path: Path) -> Activated:
    """Verify a policy and put it in the active one's place, the signature first, the policy after it.

    The gate looks at the policy's file alone, so it never sees a new text with an old signature; a crash between
    the two writes leaves an active policy whose signature does not fit, which the gate refuses to load: activate
    again. Raises IdentityError where the configuration names a signer and the signature is missing or wrong,
    PolicyError where the policy is not valid or not a later version of the active one.
    """
    config = load_silo_config(config_path)
    signer = load_public_key(config.policy_signer) if config.policy_signer else None
    policy = load_active_policy(candidate, signer)
    before = load_policy(config.policy) if config.policy.exists() else None
    check_succession(None if before is None else version_of(before), policy)
    content = read_limited(candidate, LIMITS.document)
    if "sha256:" + hashlib.sha256(content).hexdigest() != policy.digest:
        raise ConcordatError(f"{candidate} changed while it was read", advice="activate it again")
    if signer is not None:
        replace_file(signature_path(config.policy), read_limited(signature_path(candidate), LIMITS.document))
    replace_file(config.policy, content)
    return Activated(policy, before, signer is not None)
