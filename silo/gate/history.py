"""What a gate's own log says of the past: the policy active last, how often an app was admitted, how far runs came.

The log is the durable store: a decision is in it before what it permits happens, so nothing is ever counted too low.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from audit.entry import parse_time
from policies.bundle import ActiveVersion
from silo.gate.admissions import Admissions, Progress

ADMITTED, ACTIVATED = "run.admit", "policy.activate"
TRAINED, EVALUATED = "round.egress", "evaluation.egress"
TAKEN = "round.ingress"
MASKED, UNMASKED = "round.mask", "round.unmask"
SURVEYED = "statistics.egress"
SENT_AGAIN = "reply.again"
_MARKS = tuple(
    f'"{action}"'.encode()
    for action in (ADMITTED, ACTIVATED, TAKEN, TRAINED, EVALUATED, MASKED, UNMASKED, SURVEYED, SENT_AGAIN)
)
SUMS = 100_000
"""The sums that are remembered, the newest."""


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
    admissions: Admissions = field(default_factory=Admissions)
    sums: Sums = field(default_factory=Sums)

    def admitted(self, progress: Progress, now: datetime, app: str | None = None) -> None:
        """A run was admitted, as a new one; one of statistics has no app."""
        if app is not None:
            self.uses[app] += 1
        self.admissions.admitted(progress, now)

    def of(self, run_digest: str) -> Progress | None:
        """How far this very run came; None where it is a new one."""
        return self.admissions.by_digest.get(run_digest)

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take one entry of the log into account."""
        detail, decided = entry["detail"], entry["decision"] != "record"
        # A label belongs to one run at a time, so that an entry's is the run that was admitted under it last.
        progress = self.admissions.by_label.get(entry["run"])
        if entry["action"] == ADMITTED and entry["decision"] == "allow":
            self._take_admission(entry, detail)
        elif entry["action"] == MASKED:
            self.sums.masked(str(detail["summed"]), str(detail["among"]))
        elif entry["action"] == UNMASKED:
            self.sums.unmasked(str(detail["summed"]), str(detail["mark"]))
        elif entry["action"] == ACTIVATED:
            self.active = ActiveVersion(str(detail["name"]), int(detail["version"]), str(entry["policy"]))
        elif progress is not None and decided:
            _take_step(progress, entry, detail)

    def _take_admission(self, entry: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
        digest, debits = str(detail.get("run_digest", "")), int(detail.get("debits", 0))
        progress = Progress(str(entry["run"]), digest, debits=debits)
        if "not_after" in detail:  # an earlier version's have none, and no one can submit one of them again
            progress.not_after = parse_time(str(detail["not_after"]))
        self.admitted(progress, parse_time(str(entry["time"])), None if "app" not in detail else str(detail["app"]))


def _take_step(progress: Progress, entry: Mapping[str, Any], detail: Mapping[str, Any]) -> None:
    """Take a decision within an admitted run into account; a reply that was refused is a step, too."""
    match entry["action"]:
        case "round.ingress" if entry["decision"] == "allow" and "history" in detail:
            progress.took(int(detail["step"]), str(detail["history"]))
        case "round.egress":
            progress.last_round = max(progress.last_round, int(entry["round"]))
        case "evaluation.egress":
            progress.evaluated = True
        case "statistics.egress" if entry["decision"] == "allow":
            progress.released = True
            progress.moments = str(detail.get("statistics", "not told"))
        case "reply.again" if entry["decision"] == "allow":
            # Where the gate ended between keeping a reply and recording it, this is the first that tells of it.
            progress.released = True


def history_of(entries: Iterable[Mapping[str, Any]]) -> History:
    """The past that entries tell, in the order of the log, from the first that is left of it."""
    history = History()
    for place, entry in enumerate(entries):
        if place == 0 and entry["seq"] > 0:
            history.admissions.missing = parse_time(str(entry["time"]))
        history.take(entry)
    return history


def read_entries(audit: Path) -> Iterator[Mapping[str, Any]]:
    """The first entry that is left of a log, and those that matter here, from its directory.

    The log was verified when it was opened.
    """
    first = True
    for segment in sorted(audit.glob("segments/*.jsonl")):
        with segment.open("rb") as lines:
            for line in lines:
                if first or any(mark in line for mark in _MARKS):
                    yield json.loads(line)
                first = False
