"""Which entries of a log somebody wants to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from audit.entry import format_time
from audit.errors import AuditError

DECISIONS = ("allow", "deny", "record")


class SelectionError(AuditError):
    """What is asked for cannot be meant."""


@dataclass(frozen=True)
class Selection:
    """Conditions that an entry must all meet; an empty one asks nothing.

    `since` is the first moment and `until` the first one after; `run` and `dataset` are exact; `actor`, `rule`
    and `action` are patterns in which * stands for anything. A dataset selects the entries that name it and
    those of every run that was decided on for it.
    """

    since: str = ""
    until: str = ""
    run: str = ""
    dataset: str = ""
    actor: str = ""
    rule: str = ""
    decision: str = ""
    action: str = ""

    def __post_init__(self) -> None:
        if self.decision not in {"", *DECISIONS}:
            raise SelectionError(f"got --decision {self.decision}, expected allow, deny or record")
        object.__setattr__(self, "since", _moment(self.since, "--from"))
        object.__setattr__(self, "until", _moment(self.until, "--to"))


class Matcher:
    """Applies a selection to the entries of one log in their order, since a dataset's runs are learned on the way."""

    def __init__(self, selection: Selection) -> None:
        self._wanted = selection
        self._runs: set[str] = set()

    def __call__(self, fields: Mapping[str, Any]) -> bool:
        """Whether the entry with these fields is selected."""
        wanted = self._wanted
        of_dataset = self._of_dataset(fields)
        return (
            of_dataset
            and (not wanted.since or str(fields["time"]) >= wanted.since)
            and (not wanted.until or str(fields["time"]) < wanted.until)
            and (not wanted.run or fields["run"] == wanted.run)
            and (not wanted.decision or fields["decision"] == wanted.decision)
            and (not wanted.actor or fnmatchcase(str(fields["actor"]), wanted.actor))
            and (not wanted.rule or fnmatchcase(str(fields["rule"] or ""), wanted.rule))
            and (not wanted.action or fnmatchcase(str(fields["action"]), wanted.action))
        )

    def _of_dataset(self, fields: Mapping[str, Any]) -> bool:
        if not self._wanted.dataset:
            return True
        if fields["detail"].get("dataset") == self._wanted.dataset:
            if fields["run"] is not None:
                self._runs.add(str(fields["run"]))
            return True
        return fields["run"] in self._runs


def _moment(text: str, option: str) -> str:
    """A date or a date with time, as entries spell it; without a zone it is UTC."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
        return format_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise SelectionError(f"got {option} {text[:60]!r}, expected 2026-11-01 or 2026-11-01T08:00:00Z") from None
