"""Checks manifest, signature and form of what an operator submitted, before anything is decided about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import Generic, TypeVar

from federation.errors import IdentityError, ManifestError, SubmissionError
from federation.identity import Peer
from federation.manifest import SignedManifest
from federation.run import FIELDS, Run, SignedRun, parse_signed_run, verify_signed_run
from federation.statistics.document import Statistics
from federation.submission import label_of
from federation.wire import Envelope
from policies.document import Document
from policies.errors import PolicyError
from policies.request import Party
from silo.gate.admissions import Progress
from silo.gate.journal import Journal
from silo.gate.parts import Parts
from silo.gate.session import parties_of

S = TypeVar("S", Run, Statistics)


@dataclass(frozen=True)
class Verified(Generic[S]):
    """What was submitted, whose it is, and who takes part by the manifest that came with it."""

    label: str
    """The run's id, the coordinator's word."""
    signed: SignedRun
    document: Document[S]
    operator: Peer
    manifest: SignedManifest
    parties: tuple[Party, ...]
    before: Progress | None
    """How far the run came, where this silo admitted it before."""

    def progress(self, debits: int = 0) -> Progress:
        """What is remembered of it once it is admitted as a new run."""
        return Progress(self.label, self.signed.digest, self.signed.submission.not_after, debits)

    def detail(self) -> dict[str, str | int | bool]:
        """What is recorded of it where it asks to be admitted."""
        return {
            "run_digest": self.signed.digest,
            "not_after": self.signed.submission.not_after.astimezone(UTC).isoformat(),
            "purpose": self.document.model.purpose,
            "dataset": self.document.model.dataset,
            "operator": self.operator.uri,
            "parties": ",".join(f"{party.name}:{party.country}" for party in self.parties),
        }


def verified(parts: Parts, journal: Journal, envelope: Envelope, load: Callable[[str], Document[S]]) -> Verified[S]:
    """Read a submission with `load` and verify it; raises Refusal, or WireError for what is no submission."""
    label = label_of(envelope.text("run_id"))
    try:
        manifest = parts.take_manifest(envelope)
        signed = parse_signed_run({name: envelope.text(name) for name in FIELDS})
        operator = verify_signed_run(signed, manifest)
        document = load(signed.text)
        parties = parties_of(manifest.federation, signed.submission.silos, operator)
    except (IdentityError, ManifestError) as error:
        raise journal.refuse("run.signature", str(error), label) from None
    except PolicyError as error:
        raise journal.refuse("run.document", str(error)[:2000], label) from None
    before = _before(parts, journal, label, signed, document.model)
    return Verified(label, signed, document, operator, manifest, parties, before)


def _before(parts: Parts, journal: Journal, label: str, signed: SignedRun, model: Run | Statistics) -> Progress | None:
    """How far the run came here before, None for a new one; raises Refusal where it may not be asked for."""
    submission, known = signed.submission, parts.history.admissions
    try:
        submission.require_silos(model.silos)
        if parts.peer.name not in submission.silos:
            raise SubmissionError(f"the operator did not sign for {parts.peer.name}")
    except SubmissionError as error:
        raise journal.refuse("run.silos", str(error)[:2000], label) from None
    try:
        known.require_label(label, signed.digest)
    except SubmissionError as error:
        raise journal.refuse("run.label", str(error), label) from None
    before = parts.history.of(signed.digest)
    if before is None:
        try:
            known.require_new(submission, parts.now())
        except SubmissionError as error:
            raise journal.refuse("run.validity", str(error), label) from None
    return before
