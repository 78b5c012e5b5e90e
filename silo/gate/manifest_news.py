"""The manifest that comes with a message where the coordinator has another than this gate said it has."""

from __future__ import annotations

from dataclasses import replace

from federation.errors import ConcordatError, ManifestError
from federation.wire import MANIFEST, MANIFEST_DIGEST, Envelope, Kind
from policies.errors import PolicyError
from silo.gate.journal import Journal
from silo.gate.parts import Parts

JUDGED_WITH_IT = frozenset({Kind.ADMIT, Kind.STATISTICS, Kind.RELEASE})
"""Messages whose manifest is verified with what it is there to judge."""


def hear_manifest(parts: Parts, journal: Journal, kind: str, envelope: Envelope) -> None:
    """Take over a manifest that came beside a message; raises Refusal for an older or a forged one."""
    if kind in JUDGED_WITH_IT or MANIFEST not in envelope.config:
        return
    try:
        parts.take_manifest(envelope)
    except (ManifestError, PolicyError) as error:
        raise journal.refuse("coordinator.manifest", str(error)[:2000]) from None


def with_manifest_digest(parts: Parts, answer: Envelope) -> Envelope:
    """An answer that says which manifest this gate has, as far as it can be read."""
    if parts.membership is None:
        return answer
    try:
        digest = parts.membership.manifest().document.digest
    except (ConcordatError, PolicyError, OSError):
        return answer
    return replace(answer, config={**answer.config, MANIFEST_DIGEST: digest})
