"""Whether the final model of a run that this silo took part in may be handed to the operator who asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from federation.errors import IdentityError
from federation.manifest import SignedManifest
from federation.release import parse_release_request, verify_release_request
from federation.wire import Envelope
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide
from policies.model import SiloPolicy
from policies.request import Party, Release
from silo.gate.parts import Parts
from silo.governance.releases import Handover


@dataclass(frozen=True)
class Asked:
    """What was asked for, and who of the silo's approvers agreed to it."""

    handover: Handover
    party: Party
    approvers: tuple[str, ...]

    def detail(self) -> dict[str, str | int | bool]:
        """What is recorded of it."""
        return {
            "model": self.handover.model,
            "run_digest": self.handover.run_digest,
            "party": self.party.name,
            "country": self.party.country,
            "approvers": ",".join(self.approvers),
        }


def asked_of(parts: Parts, envelope: Envelope, manifest: SignedManifest) -> Asked:
    """Read and verify a request for a model; raises WireError, IdentityError or ConcordatError.

    The party is the one whose signature it carries, whatever the coordinator says.
    """
    request = parse_release_request(envelope.config)
    operator = verify_release_request(request, manifest)
    progress = parts.history.of(request.run_digest)
    if progress is None or progress.label != request.run:
        raise IdentityError(f"this silo took no part in run {request.run}")
    country = manifest.federation.member(operator.name).country
    handover = Handover(request.run, request.run_digest, request.model, operator.name)
    names = parts.approvals.of_release(handover) if parts.approvals else ()
    return Asked(handover, Party(operator.name, operator.role.value, country), names)


def decide_release(parts: Parts, policy: Document[SiloPolicy], asked: Asked, now: datetime) -> Decision:
    """Whether the policy of now lets the model go."""
    return decide(policy, Release(party=asked.party, approvals=asked.approvers), now, parts.observe)
