"""What a gate's handler works with, and the refusal it answers with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from audit.log import AuditLog, utc_now
from federation.errors import ConcordatError
from federation.identity import Peer, load_certificate
from federation.logs import tell
from federation.manifest import SignedManifest
from federation.wire import MANIFEST, MANIFEST_SIGNATURE, Envelope, Scalar
from policies.document import Document
from policies.model import SiloPolicy
from silo.gate.facts import Approvals, Approved, LogFacts, PrivacyFacts, certificate_facts, quorum_of
from silo.gate.fleet import FleetNode
from silo.gate.history import History
from silo.gate.ledger import Ledger
from silo.gate.policy_file import PolicyFile
from silo.gate.replies import Replies
from silo.gate.session import NOTHING, Session, Standing
from silo.gate.spending import facts_of
from silo.gate.witnessing import Witnessing
from silo.gate.worker_link import WorkerLink


class Refusal(ConcordatError):  # noqa: N818  a decision, not a fault
    """A request was refused; carries what the asking side is told."""

    def __init__(self, rule: str, reason: str, location: str = "", remedy: str | None = None) -> None:
        super().__init__(reason)
        self.fields: dict[str, Scalar] = {
            "status": "refused",
            "rule": rule,
            "reason": reason,
            "location": location,
            "remedy": remedy or "",
        }


@dataclass(frozen=True)
class Membership:
    """What a gate signs with, and against what it checks the signatures of others."""

    signer: Callable[[], tuple[ec.EllipticCurvePrivateKey, x509.Certificate]]
    """The silo's key and its certificate, as they are now."""
    manifest: Callable[[], SignedManifest]
    """The newest manifest that this gate accepted."""


@dataclass
class Parts:
    """What a handler works with."""

    peer: Peer
    policy: Document[SiloPolicy]
    log: AuditLog
    link: WorkerLink
    node: FleetNode
    accept_manifest: Callable[[str, str], SignedManifest]
    witnessing: Witnessing
    sign_receipt: Callable[[int, str], str]
    """Signs with the log's key that this silo took a run's models up to a step."""
    certificate: Callable[[], x509.Certificate] | None = None
    """The silo's own certificate as it is now."""
    policy_file: PolicyFile | None = None
    """Where a newer policy would lie; without it the policy stays."""
    history: History = field(default_factory=History)
    approvals: Approvals | None = None
    log_facts: LogFacts | None = None
    ledger: Ledger | None = None
    """Without it no run with privacy is admitted."""
    replies: Replies | None = None
    """Where replies are kept to be sent again; without it a round that is asked for again is refused."""
    membership: Membership | None = None
    """Without it no run with secure aggregation is admitted."""
    manifest: SignedManifest | None = None
    """The newest that came with a message since the gate started."""
    privacy: PrivacyFacts | None = None
    """What is known of a run's privacy, where it is not what the ledger says."""
    observe: frozenset[str] = NOTHING
    """Rules whose refusals are recorded and not made."""
    say: Callable[[str], None] = tell
    now: Callable[[], datetime] = utc_now
    steady: Callable[[], float] = time.monotonic

    def take_manifest(self, envelope: Envelope) -> SignedManifest:
        """Take over the manifest that a message brings; raises ManifestError for an older or a forged one."""
        manifest = self.accept_manifest(envelope.text(MANIFEST), envelope.text(MANIFEST_SIGNATURE))
        self.witnessing.use(manifest.federation)
        self.manifest = manifest
        return manifest

    @property
    def privacy_facts(self) -> PrivacyFacts:
        """What a policy is told of a run's privacy."""
        return self.privacy or facts_of(self.ledger)


def standing(
    parts: Parts,
    session: Session,
    policy: Document[SiloPolicy],
    now: datetime,
    current: Session | None,
    *,
    again: bool,
) -> Standing:
    """What the gate knows of a run beside the run itself; `current` is the run that this silo serves now.

    A run that goes on (`again`) is counted neither against its app's uses nor against the runs in progress.
    """
    other = current is not None and current is not session and current.digest != session.digest
    approved = Approved()
    if parts.approvals is not None:
        approved = parts.approvals.of(session.signed, session.run, policy, session.operator.name)
    certificates = [certificate_facts(session.operator.name, load_certificate(session.signed.operator_certificate))]
    if parts.certificate is not None:
        certificates.append(certificate_facts(parts.peer.name, parts.certificate()))
    return Standing(
        quorum=quorum_of(session.run, sum(party.role == "silo" for party in session.parties)),
        authors=approved.authors,
        reviewers=approved.reviewers,
        uses=parts.history.uses[session.signed.app_digest] - again,
        running=int(other and current is not None and current.in_progress(parts.steady())),
        release_asked=session.release_asked,
        certificates=tuple(certificates),
        privacy=parts.privacy_facts(session, policy, now),
        log=parts.log_facts.health(now) if parts.log_facts else None,
    )
