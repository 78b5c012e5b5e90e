"""`kind: Approval`: a reviewer's signature over app, run, policy and dataset contract, and its revocation.

Approvals are files in a directory that the gate can read. An approval counts where a reviewer that the silo's
configuration names signed exactly what is to be run, did not write it, and has not revoked it since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import ConcordatError
from federation.home import read_limited
from federation.limits import LIMITS
from policies.document import Document, load_document
from policies.facts import Moment
from policies.model import SiloPolicy
from policies.scalars import Sha256, Text
from silo.governance.documents import Keys, Reviewed, moment, signed, statement, verified, verify_document

APPROVAL_DOMAIN = b"app approval"
REVOCATION_DOMAIN = b"app approval revocation"
APPROVAL_SUFFIX = ".approval.yaml"
REVOCATION_SUFFIX = ".revocation.yaml"


@dataclass(frozen=True)
class Subject:
    """What is approved, each by its SHA-256.

    `run` covers the text of the run and the app, as its operator signs it; `dataset` the section of the policy about
    the run's dataset, which is what the reviewer knows of the data.
    """

    app: str
    run: str
    policy: str
    dataset: str


class Approval(Reviewed):
    """`kind: Approval`."""

    kind: Literal["Approval"]
    authors: tuple[Text, ...]
    app: Sha256
    run: Sha256
    policy: Sha256
    dataset: Sha256
    approved: Moment

    @property
    def subject(self) -> Subject:
        """What is approved."""
        return Subject(self.app, self.run, self.policy, self.dataset)


class Revocation(Reviewed):
    """`kind: ApprovalRevocation`: the reviewer takes an approval back, named by the digest of what was signed."""

    kind: Literal["ApprovalRevocation"]
    approval: Sha256
    reason: Text
    revoked: Moment


@dataclass(frozen=True)
class Counted:
    """The approvals that count, and why others do not."""

    approvals: tuple[Approval, ...]
    problems: tuple[str, ...]

    @property
    def reviewers(self) -> tuple[str, ...]:
        """The distinct reviewers, by name."""
        return tuple(sorted({approval.reviewer for approval in self.approvals}))

    @property
    def authors(self) -> tuple[str, ...]:
        """Everyone whom a reviewer found named as an author of the app."""
        return tuple(sorted({author for approval in self.approvals for author in approval.authors}))


def dataset_contract(policy: Document[SiloPolicy], dataset: str) -> str:
    """The digest of what a policy says of a dataset, as sorted JSON; raises ConcordatError for an unknown one."""
    found = policy.model.datasets.get(dataset)
    if found is None:
        raise ConcordatError(f"{policy.locate(('datasets',))}: the policy has no dataset {dataset}")
    content = json.dumps(found.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def approve(
    subject: Subject, reviewer: str, authors: Iterable[str], key: ec.EllipticCurvePrivateKey, now: datetime
) -> str:
    """The text of a signed approval; raises ConcordatError where the reviewer wrote the app, or no one is known to."""
    listed = tuple(authors)
    if not listed:
        raise ConcordatError(
            "the app's pyproject.toml names no author, so no one knows that its reviewer is another",
            advice="have project.authors or the publisher filled in",
        )
    if wrote(reviewer, listed):
        raise ConcordatError(f"{reviewer} is an author of the app, expected a reviewer who did not write it")
    fields = {
        "kind": "Approval",
        "reviewer": reviewer,
        "authors": list(listed),
        **vars(subject),
        "approved": moment(now),
    }
    return signed(fields, key, APPROVAL_DOMAIN)


def revoke(approval: Approval, reason: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> str:
    """The text of a signed revocation of an approval, by its own reviewer."""
    fields = {
        "kind": "ApprovalRevocation",
        "reviewer": approval.reviewer,
        "approval": digest_of(approval),
        "reason": reason,
        "revoked": moment(now),
    }
    return signed(fields, key, REVOCATION_DOMAIN)


def digest_of(approval: Approval) -> str:
    """The digest of what an approval's reviewer signed."""
    return "sha256:" + hashlib.sha256(statement(approval)).hexdigest()


def count(directory: Path, keys: Keys, subject: Subject, operator: str | None = None) -> Counted:
    """The approvals in a directory that count for a subject; raises ConcordatError where it cannot be listed.

    An approval counts where its signature verifies under the key of a known reviewer, it speaks of exactly this
    subject, its reviewer is neither an author of the app nor the run's operator, and no valid revocation of it is
    there. An approval that cannot be read counts for nothing and is named; while there is a revocation that cannot be
    read, no approval counts, for it may be any one's.
    """
    problems: list[str] = []
    unread: list[str] = []
    approvals = list(verified(directory, APPROVAL_SUFFIX, Approval, APPROVAL_DOMAIN, keys, problems, problems))
    revocations = list(verified(directory, REVOCATION_SUFFIX, Revocation, REVOCATION_DOMAIN, keys, problems, unread))
    if unread:
        return Counted((), (*problems, *unread))
    revoked = {(revocation.reviewer, revocation.approval) for revocation in revocations}
    authors = tuple(author for approval in approvals if approval.subject == subject for author in approval.authors)
    counted = []
    for approval in approvals:
        if approval.subject != subject:
            continue
        if (approval.reviewer, digest_of(approval)) in revoked:
            problems.append(f"the approval of {approval.reviewer} was revoked")
        elif wrote(approval.reviewer, (*authors, *([operator] if operator else []))):
            problems.append(f"{approval.reviewer} wrote the app or submits the run, and may not approve it")
        else:
            counted.append(approval)
    return Counted(tuple(counted), tuple(problems))


def load_approval(path: Path) -> Approval:
    """Read one approval; nothing is verified yet. Raises DocumentError or ConcordatError."""
    return load_document(read_limited(path, LIMITS.approval), Approval, str(path)).model


def approval_files(directory: Path) -> list[Path]:
    """The approvals in a directory, by name."""
    return sorted(directory.glob(f"*{APPROVAL_SUFFIX}"))


def verify_approval(approval: Approval, keys: Keys) -> None:
    """Check an approval's signature against the key of its reviewer; raises IdentityError."""
    verify_document(approval, APPROVAL_DOMAIN, keys)


def wrote(reviewer: str, authors: Iterable[str]) -> bool:
    """Whether a reviewer is among the authors; case does not matter, and an address counts by its local part too."""
    names = {name.casefold() for author in authors for name in (author, author.partition("@")[0])}
    return reviewer.casefold() in names
