"""Which signed runs this silo admitted, by the digest of what was signed, and how far each came here.

The id of a run is the coordinator's word: a label, of which one belongs to one signed run. Nothing is looked up by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from federation.errors import SubmissionError
from federation.limits import LIMITS
from federation.submission import CLOCK_SKEW, Submission

RUNS = 64
"""The runs that are remembered however long ago they were signed, the newest; others as long as they are good."""

STEPS = 8
"""The models taken in a run that are remembered, the newest."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_AGAIN = "have the operator submit the run again, which signs it anew"


@dataclass
class Progress:
    """How far a run came at this silo: its last round whose reply was decided on, and whether it was evaluated."""

    label: str
    run_digest: str
    not_after: datetime = _NEVER
    """The time after which nobody can have it admitted as a new one."""
    debits: int = 0
    """The length of the privacy ledger when the run was admitted: no earlier debit pays for a round of it."""
    last_round: int = 0
    evaluated: bool = False
    released: bool = False
    """Whether statistics of it left."""
    moments: str = ""
    """The digest of the means and variances of it that left for the run to normalise by."""
    taken: dict[int, str] = field(default_factory=dict)
    """The run's history as this silo signed it, by the step whose model it took."""

    def took(self, step: int, history: str) -> None:
        """A model was taken."""
        self.taken[step] = history
        for old in sorted(self.taken)[:-STEPS]:
            del self.taken[old]


@dataclass
class Admissions:
    """The signed runs that were admitted, none forgotten while it could be submitted as a new one."""

    by_digest: dict[str, Progress] = field(default_factory=dict)
    by_label: dict[str, Progress] = field(default_factory=dict)
    forgotten: datetime = _NEVER
    """When a run was forgotten last: the clock is never taken to be earlier."""
    missing: datetime = _NEVER
    """What was admitted up to then may be missing: it was removed from the log when its retention ended."""

    full: int = 2 * RUNS
    """How many are remembered before the next look at which may be forgotten."""

    def admitted(self, progress: Progress, now: datetime) -> None:
        """A run was admitted, as a new one, at this time."""
        if len(self.by_digest) >= self.full:
            self._forget(now)
        self.by_digest.pop(progress.run_digest, None)
        self.by_digest[progress.run_digest] = self.by_label[progress.label] = progress

    def require_new(self, submission: Submission, now: datetime) -> None:
        """Raise SubmissionError where a run that is not known here is not open to be admitted as a new one."""
        submission.require_open(max(now, self.forgotten))
        if submission.signed <= self.missing + CLOCK_SKEW:
            raise SubmissionError(
                f"what was admitted before {self.missing:%Y-%m-%d %H:%M} is not in this silo's log any more, "
                "and the run was signed before",
                advice=_AGAIN,
            )
        if len(self.by_digest) >= LIMITS.admissions:
            self._forget(now)
        if len(self.by_digest) >= LIMITS.admissions:
            raise SubmissionError(
                f"this silo admitted {len(self.by_digest)} runs whose signatures are still good, and admits no more",
                advice="wait until some have expired",
            )

    def require_label(self, label: str, digest: str) -> None:
        """Raise SubmissionError where a label is known for another signed run, or a signed run by another label."""
        run, named = self.by_digest.get(digest), self.by_label.get(label)
        if run is not None and run.label != label:
            raise SubmissionError(
                f"this signed run was admitted as {run.label}, and comes again as {label}", advice=_AGAIN
            )
        if run is None and named is not None:
            raise SubmissionError(f"another signed run was admitted as {label}", advice=_AGAIN)

    def _forget(self, now: datetime) -> None:
        """Forget the oldest runs that nobody can have admitted as new ones any more."""
        for progress in list(self.by_digest.values())[:-RUNS]:
            if progress.not_after < now:
                self.forgotten = max(self.forgotten, now)
                del self.by_digest[progress.run_digest]
                if self.by_label.get(progress.label) is progress:
                    del self.by_label[progress.label]
        self.full = 2 * max(RUNS, len(self.by_digest))
