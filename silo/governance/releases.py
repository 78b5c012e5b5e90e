"""`kind: ReleaseApproval`: an approver's agreement to hand a run's final model to one party.

They lie beside the approvals of apps, in the directory that silo.yaml names, signed with the same reviewers' keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec

from policies.facts import Moment
from policies.scalars import Sha256, Text
from silo.governance.documents import Keys, Reviewed, ReviewerName, moment, signed, verified

DOMAIN = b"model release approval"
SUFFIX = ".release.yaml"


@dataclass(frozen=True)
class Handover:
    """What is agreed to: the weights of a run, by the digest that the logs name, and to whom they go."""

    run: str
    run_digest: str
    model: str
    party: str


class ReleaseApproval(Reviewed):
    """`kind: ReleaseApproval`."""

    kind: Literal["ReleaseApproval"]
    run: Text
    run_digest: Sha256
    model: Sha256
    party: ReviewerName
    approved: Moment

    @property
    def handover(self) -> Handover:
        """What is agreed to."""
        return Handover(self.run, self.run_digest, self.model, self.party)


def agree(handover: Handover, reviewer: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> str:
    """The text of a signed agreement."""
    fields = {"kind": "ReleaseApproval", "reviewer": reviewer, **vars(handover), "approved": moment(now)}
    return signed(fields, key, DOMAIN)


def agreed(directory: Path, keys: Keys, handover: Handover) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who agreed to exactly this, by name, and why other documents do not count; raises ConcordatError."""
    problems: list[str] = []
    found = verified(directory, SUFFIX, ReleaseApproval, DOMAIN, keys, problems, problems)
    names = {approval.reviewer for approval in found if approval.handover == handover}
    return tuple(sorted(names)), tuple(problems)
