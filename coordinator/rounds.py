"""When a round closes: pure, over who was asked, who answered and what time it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """What to do with a round."""

    WAIT = "wait"
    CLOSE = "close"
    FAIL = "fail"


@dataclass
class Round:
    """One round: closes when everyone asked has answered, or at the deadline if the quorum has; else it fails."""

    asked: frozenset[str]
    quorum: int
    deadline: float
    answered: set[str] = field(default_factory=set)
    dropped: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    forgot: set[str] = field(default_factory=set)
    """Of those that refused, the silos that no longer know the run."""

    @property
    def waiting_for(self) -> frozenset[str]:
        """Silos asked that have neither answered nor dropped out."""
        return self.asked - self.answered - set(self.dropped)

    def answer(self, silo: str) -> None:
        """Count a silo's usable answer."""
        if silo in self.waiting_for:
            self.answered.add(silo)

    def drop(self, silo: str, reason: str) -> None:
        """Count a silo as lost for this round."""
        if silo in self.waiting_for:
            self.dropped[silo] = reason

    def refuse(self, silo: str, reason: str) -> None:
        """Count a silo as lost for this round by its own decision."""
        if silo in self.waiting_for:
            self.refused.add(silo)
            self.drop(silo, reason)

    def verdict(self, now: float) -> Verdict:
        """What the round's state means at a time on the deadline's clock."""
        enough = len(self.answered) >= self.quorum
        if not self.waiting_for:
            return Verdict.CLOSE if enough else Verdict.FAIL
        if len(self.answered) + len(self.waiting_for) < self.quorum:
            return Verdict.FAIL
        if now >= self.deadline:
            return Verdict.CLOSE if enough else Verdict.FAIL
        return Verdict.WAIT

    def close(self) -> frozenset[str]:
        """Record everyone still awaited as late; returns who that is."""
        late = self.waiting_for
        for silo in late:
            self.dropped[silo] = "no answer before the deadline"
        return late


def quorum_of(quorum: int | str, silos: int) -> int:
    """The number of answers a round needs: a number, or `all`."""
    return silos if quorum == "all" else int(quorum)
