"""What a gate's own log says of the past: the policy active last, how often an app was admitted, how far runs came.

The log is the durable store: a decision is in it before what it permits happens, so nothing is ever counted too low.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.bundle import ActiveVersion

ADMITTED, ACTIVATED = "run.admit", "policy.activate"
TRAINED, EVALUATED = "round.egress", "evaluation.egress"
TAKEN = "round.ingress"
MASKED, UNMASKED = "round.mask", "round.unmask"
_MARKS = tuple(f'"{action}"'.encode() for action in (ADMITTED, ACTIVATED, TAKEN, TRAINED, EVALUATED, MASKED, UNMASKED))
RUNS = 64
"""The runs whose progress is remembered, the newest; an older one that comes again is admitted as a new one."""

STEPS = 8
"""The models taken in a run that are remembered, the newest."""
SUMS = 100_000
"""The sums that are remembered, the newest."""


@dataclass
class Progress:
    """How far a run came at this silo: its last round whose reply was decided on, and whether it was evaluated."""

    run_digest: str
    debits: int = 0
    """The length of the privacy ledger when the run was admitted: no earlier debit pays for a round of it."""
    last_round: int = 0
    evaluated: bool = False
    taken: dict[int, str] = field(default_factory=dict)
    """The run's history as this silo signed it, by the step whose model it took."""

    def took(self, step: int, history: str) -> None:
        """A model was taken."""
        self.taken[step] = history
        for old in sorted(self.taken)[:-STEPS]:
            del self.taken[old]


@dataclass
class Sums:
    """What a gate did under secure aggregation, by what was summed: a signed run's round."""

    among: dict[str, str] = field(default_factory=dict)
    """The digest of the run's silos among which it was first masked."""
    opened: dict[str, str] = field(default_factory=dict)
    """The mark of the one sum that this gate helped to open."""

    def masked(self, summed: str, among: str) -> None:
        """An update was masked."""
        _remember(self.among, summed, among)

    def unmasked(self, summed: str, mark: str) -> None:
        """Shares were revealed."""
        _remember(self.opened, summed, mark)


def _remember(known: dict[str, str], summed: str, value: str) -> None:
    known.pop(summed, None)
    known[summed] = value
    while len(known) > SUMS:
        del known[next(iter(known))]


@dataclass
class History:
    """The past of one gate; `uses` counts admissions by the digest of their app."""

    active: ActiveVersion | None = None
    uses: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Progress] = field(default_factory=dict)
    sums: Sums = field(default_factory=Sums)

    def admitted(self, run_id: str, run_digest: str, app: str, debits: int = 0) -> None:
        """A run was admitted, as a new one."""
        self.uses[app] += 1
        self.progress.pop(run_id, None)
        self.progress[run_id] = Progress(run_digest, debits)
        for old in list(self.progress)[:-RUNS]:
            del self.progress[old]

    def of(self, run_id: str, run_digest: str) -> Progress | None:
        """How far this very run came; None where it is a new one."""
        found = self.progress.get(run_id)
        return found if found is not None and found.run_digest == run_digest else None

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take one entry of the log into account."""
        detail = entry["detail"]
        if entry["action"] == ADMITTED and entry["decision"] == "allow" and "app" in detail:
            digest, debits = str(detail.get("run_digest", "")), int(detail.get("debits", 0))
            self.admitted(str(entry["run"]), digest, str(detail["app"]), debits)
        elif entry["action"] == TAKEN and entry["decision"] == "allow" and "history" in detail:
            progress = self.progress.get(str(entry["run"]))
            if progress is not None:
                progress.took(int(detail["step"]), str(detail["history"]))
        elif entry["action"] in {TRAINED, EVALUATED} and entry["decision"] != "record":
            progress = self.progress.get(str(entry["run"]))
            if progress is not None and entry["action"] == TRAINED:
                progress.last_round = max(progress.last_round, int(entry["round"]))
            elif progress is not None:
                progress.evaluated = True
        elif entry["action"] == MASKED:
            self.sums.masked(str(detail["summed"]), str(detail["among"]))
        elif entry["action"] == UNMASKED:
            self.sums.unmasked(str(detail["summed"]), str(detail["mark"]))
        elif entry["action"] == ACTIVATED:
            self.active = ActiveVersion(str(detail["name"]), int(detail["version"]), str(entry["policy"]))


def history_of(entries: Iterable[Mapping[str, Any]]) -> History:
    """The past that entries tell, in the order of the log."""
    history = History()
    for entry in entries:
        history.take(entry)
    return history


def read_entries(audit: Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a log that matter here, from its directory; the log was verified when it was opened."""
    for segment in sorted(audit.glob("segments/*.jsonl")):
        with segment.open("rb") as lines:
            for line in lines:
                if any(mark in line for mark in _MARKS):
                    yield json.loads(line)
