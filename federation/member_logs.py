"""The keys of the members' logs, as the manifest has them."""

from __future__ import annotations

from audit.errors import VerificationError
from audit.note import VerifierKey, parse_vkey
from federation.identity import Role
from federation.manifest import Federation, Member


def log_origin(federation: str, role: Role, name: str) -> str:
    """The origin line of a member's audit log: `<federation>/<role>/<name>`."""
    return f"{federation}/{role.value}/{name}"


def log_key(federation: Federation, member: Member) -> VerifierKey | None:
    """The key of a member's log; None for a text that is no key, and for one that is named as another's log.

    The member itself says it at enrolment: it is not to end whoever reads the manifest, nor to stand for another.
    """
    try:
        key = parse_vkey(member.log or "")
    except VerificationError:
        return None
    return key if key.name == log_origin(federation.metadata.name, member.role, member.name) else None
