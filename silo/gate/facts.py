"""What a gate knows of itself when it decides: certificates, approvals, its log's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.run import Run, SignedRun
from policies.document import Document
from policies.model import SiloPolicy
from policies.request import Certificate, LogHealth, Privacy
from silo.gate.session import Session
from silo.governance.approvals import Subject, count, dataset_contract
from silo.governance.releases import Handover, agreed

PrivacyFacts: TypeAlias = Callable[[Session, Document[SiloPolicy], datetime], Privacy | None]
"""What a run does for privacy, and what the ledger would say of it; None where that is not known.

It is asked before the view is built, when the number of rows is not known yet (`session.prepared` is None), again once
it is, and before each round and each reply.
"""

PAYLOADS_LOOKED_AT_SECONDS = 60.0
"""How long the age of the oldest payload is taken as read; it is held against whole days."""


@dataclass(frozen=True)
class Approved:
    """Who approved a run at this silo, and who wrote its app."""

    reviewers: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Approvals:
    """The directory of the reviewers' approvals, and their keys by name."""

    directory: Path
    keys: Mapping[str, ec.EllipticCurvePublicKey]

    def of(self, signed: SignedRun, run: Run, policy: Document[SiloPolicy], operator: str) -> Approved:
        """The approvals that are valid now for exactly this app, run, policy and dataset."""
        if run.dataset not in policy.model.datasets:
            return Approved()
        subject = Subject(
            signed.app_digest, signed.content_digest, policy.digest, dataset_contract(policy, run.dataset)
        )
        counted = count(self.directory, self.keys, subject, operator)
        return Approved(counted.reviewers, counted.authors)

    def of_release(self, handover: Handover) -> tuple[str, ...]:
        """Who agreed to hand exactly this model to exactly this party."""
        return agreed(self.directory, self.keys, handover)[0]


@dataclass
class LogFacts:
    """What is known of the silo's own log: when it was verified, how many cosigned it, how old its payloads are.

    `witnesses` and `clock_skew` are asked for the number of cosigning members and for the distance of their clocks.
    """

    directory: Path
    verified: datetime | None = None
    witnesses: Callable[[], int | None] = lambda: None
    clock_skew: Callable[[], float | None] = lambda: None
    _oldest: datetime | None = field(default=None, init=False)
    _looked: datetime | None = field(default=None, init=False)

    def health(self, now: datetime) -> LogHealth:
        """The state of the log at a time."""
        if self._looked is None or not 0 <= (now - self._looked).total_seconds() < PAYLOADS_LOOKED_AT_SECONDS:
            self._oldest, self._looked = oldest_payload(self.directory), now
        return LogHealth(
            witnesses=self.witnesses(),
            verified=self.verified,
            clock_skew=self.clock_skew(),
            oldest_payload=self._oldest,
            payloads_known=True,
        )


def oldest_payload(audit: Path) -> datetime | None:
    """When the payload with the lowest number was written; None where the log keeps none."""
    paths = (path for path in (audit / "payloads").glob("*.json") if path.stem.isdigit())
    first = min(paths, key=lambda path: int(path.stem), default=None)
    return None if first is None else datetime.fromtimestamp(first.stat().st_mtime, UTC)


def certificate_facts(party: str, certificate: x509.Certificate) -> Certificate:
    """How long a party's certificate is valid."""
    return Certificate(party, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def quorum_of(run: Run, silos: int) -> int:
    """The number of silos whose updates every round of a run folds together at least."""
    return silos if run.strategy.quorum == "all" else run.strategy.quorum
