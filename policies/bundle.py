"""A policy's signature: which text of which version someone answers for. Pure; keys are not known here.

The signature lies beside the policy as `<policy>.sig`, so that positions in decisions stay those of the file that
people read.
"""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.document import Document, Kind, load_document
from policies.errors import PolicyError
from policies.facts import Moment
from policies.limits import LIMITS, Limits
from policies.model import SiloPolicy
from policies.scalars import Name, PositiveInt, Sha256, Text

DOMAIN = b"silo policy"
"""Separates signatures over policies from all others."""


class BundleError(PolicyError):
    """A signature that is not over this policy, or a version that is not later than the active one."""


class PolicySignature(Kind):
    """`kind: PolicySignature`: one version of a policy, and the signature of who answers for it."""

    kind: Literal["PolicySignature"]
    """Kind of the document."""
    policy: Name
    """Name of the policy."""
    version: PositiveInt
    """Version of the policy."""
    digest: Sha256
    """SHA-256 of the policy's bytes."""
    signer: Text
    """Who signed, for people; the key decides."""
    signed: Moment
    """When it was signed."""
    signature: Text
    """ECDSA with SHA-256 over `statement`, base64."""


def statement(policy: Document[SiloPolicy], signer: str, signed: dt.datetime) -> bytes:
    """What is signed: name, version and digest of the policy, the signer and the time, as JSON with sorted keys."""
    metadata = policy.model.metadata
    return _statement(metadata.name, metadata.version, policy.digest, signer, signed)


def statement_of(signature: PolicySignature) -> bytes:
    """What a signature says was signed."""
    return _statement(signature.policy, signature.version, signature.digest, signature.signer, signature.signed)


def document(policy: Document[SiloPolicy], signer: str, signed: dt.datetime, signature: str) -> str:
    """The signature file's text; strings are written as JSON, which is YAML."""
    metadata = policy.model.metadata
    fields = {
        "apiVersion": "concordat/v1",
        "kind": "PolicySignature",
        "policy": metadata.name,
        "version": metadata.version,
        "digest": policy.digest,
        "signer": signer,
        "signed": _moment(signed),
        "signature": signature,
    }
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


def load_signature(
    path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS
) -> Document[PolicySignature]:
    """Read a signature file; raises DocumentError with every problem."""
    return load_document(path_or_text, PolicySignature, source, limits)


def check_subject(signature: Document[PolicySignature], policy: Document[SiloPolicy]) -> None:
    """Raise BundleError unless a signature speaks of exactly this text, name and version."""
    signed, metadata = signature.model, policy.model.metadata
    for what, found, expected in (
        ("digest", signed.digest, policy.digest),
        ("policy", signed.policy, metadata.name),
        ("version", signed.version, metadata.version),
    ):
        if found != expected:
            raise BundleError(
                f"{signature.locate((what,))}: got the signature of {what} {found}, expected {expected} of "
                f"{policy.source}; sign the policy again after every change"
            )


@dataclass(frozen=True, slots=True)
class ActiveVersion:
    """The policy that is or was active last: its name, its version, its digest."""

    name: str
    version: int
    digest: str


def version_of(policy: Document[SiloPolicy]) -> ActiveVersion:
    """A policy as a log names it."""
    return ActiveVersion(policy.model.metadata.name, policy.model.metadata.version, policy.digest)


def check_succession(last: ActiveVersion | None, candidate: Document[SiloPolicy]) -> None:
    """Raise BundleError unless a policy is the one that was active last or a later version of it.

    A policy of another name may not replace it: their versions could not be compared.
    """
    metadata = candidate.model.metadata
    if last is None or candidate.digest == last.digest:
        return
    if metadata.name != last.name:
        raise BundleError(
            f"{candidate.locate(('metadata', 'name'))}: got the policy {metadata.name}, expected {last.name}, which "
            "was active last; keep the name and raise metadata.version"
        )
    if metadata.version <= last.version:
        raise BundleError(
            f"{candidate.locate(('metadata', 'version'))}: got version {metadata.version} with another text, expected "
            f"more than {last.version}, which was active last; to return to an older policy, issue it as a new version"
        )


def _statement(policy: str, version: int, digest: str, signer: str, signed: dt.datetime) -> bytes:
    fields = {"policy": policy, "version": version, "digest": digest, "signer": signer, "signed": _moment(signed)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _moment(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
