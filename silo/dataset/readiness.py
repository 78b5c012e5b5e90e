"""What `concordat data check` finds, as values: one summary for each column, findings with remedies."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class ColumnSummary:
    """One column's counts; mean and standard deviation over the values that are there, shares by the listed values."""

    name: str
    type: str
    missing: int
    outside: int
    wrong: int
    mean: float | None = None
    deviation: float | None = None
    shares: dict[str, float] | None = None


@dataclass(frozen=True)
class FoundProblem:
    """Something to look at, and what to do about it."""

    level: Level
    column: str | None
    message: str
    remedy: str


@dataclass(frozen=True)
class Readiness:
    """Whether a dataset is ready to be trained on."""

    dataset: str
    version: int
    contract: str
    rows: int
    usable: int
    columns: tuple[ColumnSummary, ...]
    classes: dict[str, int] = field(default_factory=dict)
    smallest_cell: tuple[str, int] | None = None
    findings: tuple[FoundProblem, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether nothing that was found keeps the data from being used."""
        return not any(finding.level == "error" for finding in self.findings)

    def fields(self) -> dict[str, Any]:
        """The form in which it is printed and kept."""
        return {**asdict(self), "ready": self.ready}


def parse_summaries(text: str | bytes) -> dict[str, ColumnSummary] | None:
    """The columns of an earlier check, by name; None for what is not the outcome of one."""
    try:
        content = json.loads(text)
        found = {one["name"]: ColumnSummary(**one) for one in content["columns"]}
        return found if all(map(_is_sound, found.values())) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_sound(summary: ColumnSummary) -> bool:
    """Whether what a later check compares with are numbers."""
    shares = summary.shares or {}
    given = [summary.mean, summary.deviation, *(shares.values() if isinstance(shares, dict) else ["none"])]
    return all(one is None or (isinstance(one, int | float) and math.isfinite(one)) for one in given)
