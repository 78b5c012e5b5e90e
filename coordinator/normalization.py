"""Asks the silos of a run for means and variances before its first round, and keeps what they come to."""

from __future__ import annotations

import time
from pathlib import Path

from coordinator.dialogue import Dialogue
from coordinator.roster import Roster
from coordinator.rounds import Round, Verdict
from coordinator.secure_rounds import SecureRounds
from federation.errors import RunFailedError, WireError
from federation.home import read_limited, replace_file
from federation.limits import LIMITS
from federation.run import Run
from federation.statistics.exact_sums import decoded, values_of
from federation.statistics.normalization import (
    Normalization,
    normalization_layout,
    read_normalization,
    read_silos_moments,
)
from federation.statistics.summary import Summary
from federation.wire import Envelope, Kind

NORMALIZATION = "normalization.json"
"""The file of a run's directory that holds it, written before the first round."""


def kept_normalization(directory: Path, run: Run) -> str | None:
    """What an earlier process of this coordinator kept; raises RunFailedError where it cannot be read."""
    path = directory / NORMALIZATION
    if run.normalization is None or not path.exists():
        return None
    text = read_limited(path, LIMITS.statistics).decode("utf-8", "replace")
    try:
        read_normalization(text, len(run.features))
    except WireError as error:
        raise RunFailedError(f"what the run normalises by cannot be read: {error}") from None
    return text


def ask_for_normalization(
    dialogue: Dialogue, run: Run, directory: Path, roster: Roster, nodes: dict[str, int], quorum: int
) -> tuple[str, list[str]]:
    """The normalisation as text, kept on disk, and the silos whose statistics are in it; raises RunFailedError."""
    layout = normalization_layout(run.features)
    found: dict[str, Summary] = {}

    def take(name: str, answer: Envelope) -> None:
        found[name] = read_silos_moments(answer.text("statistics"), layout, roster.examples[name])

    state = Round(frozenset(nodes), quorum, time.monotonic() + run.strategy.deadline_seconds)
    dialogue.ask(Kind.MOMENTS, Envelope({}), nodes, state, take, "normalization", roster)
    if state.verdict(time.monotonic()) is Verdict.FAIL:
        lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
        raise RunFailedError(f"{len(state.answered)} silos sent means and variances, expected {quorum} ({lost})")
    return _kept(Normalization.of(found[name] for name in sorted(found)), directory), sorted(found)


def open_normalization(
    secure: SecureRounds, run: Run, directory: Path, roster: Roster, nodes: dict[str, int], quorum: int
) -> tuple[str, list[str]]:
    """The same under secure aggregation: of one opened sum, and no silo's own; raises RunFailedError."""
    total, silos = secure.open_moments(values_of(len(run.features)), nodes, roster, quorum)
    try:
        pooled = decoded(total, len(run.features))
    except WireError as error:
        raise RunFailedError(f"the sum of means and variances cannot be: {error}") from None
    announced = sum(roster.examples[name] for name in silos)
    if pooled.rows != announced:
        raise RunFailedError(f"means and variances are of {pooled.rows} rows, the silos announced {announced}")
    return _kept(Normalization.of_sum(pooled), directory), list(silos)


def _kept(found: Normalization, directory: Path) -> str:
    text = found.text()
    replace_file(directory / NORMALIZATION, text.encode())
    return text
