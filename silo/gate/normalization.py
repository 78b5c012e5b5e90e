"""What a gate decides of a run's normalisation: the statistics that leave for it, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from federation.errors import WireError
from federation.run import Run
from federation.statistics.exact_sums import encoded
from federation.statistics.normalization import (
    normalization_digest,
    normalization_layout,
    read_moments,
    read_normalization,
)
from federation.statistics.summary import Layout, Summary, to_fields
from federation.wire import Envelope
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide, undecided
from policies.model import SiloPolicy
from policies.request import Egress, Privacy
from silo.gate.account import Account
from silo.gate.cells import Table, conceal
from silo.gate.masking import Sums
from silo.gate.worker_link import WorkerError


@dataclass(frozen=True)
class TrainingMoments:
    """Means and variances of the training rows of a view, made before the app was loaded; not for anyone yet."""

    summary: Summary
    tables: tuple[Table, ...]


def prepare_fields(policy: Document[SiloPolicy], run: Run) -> dict[str, int]:
    """What the worker is told beside run and view: up to how many rows a value counts as rare."""
    allowed = policy.model.egress.statistics
    return {} if run.normalization is None or allowed is None else {"cell": allowed.minimum_cell}


def moments_in(fields: Mapping[str, Any], run: Run, examples: int) -> TrainingMoments | None:
    """What the worker says of its training rows; None for a run that does not ask. Raises WorkerError."""
    if run.normalization is None:
        return None
    layout = normalization_layout(run.features)
    return TrainingMoments(*summary_in("moments", fields, layout, lambda text: read_moments(text, layout, examples)))


def summary_in(
    name: str, fields: Mapping[str, Any], layout: Layout, read: Callable[[str], Summary]
) -> tuple[Summary, tuple[Table, ...]]:
    """A worker's summary under a name, and what it says of each column's values; raises WorkerError."""
    account = Account("the worker's statistics", fields)
    try:
        summary = read(json.dumps(account.given(name)))
    except (WireError, RecursionError) as error:
        raise account.wrong(str(error)) from None
    return summary, tuple(Table(values, rarest) for values, rarest in account.pairs("tables", layout.width))


def decide_moments(
    policy: Document[SiloPolicy],
    moments: TrainingMoments,
    run: Run,
    privacy: Privacy | None,
    now: datetime,
    observe: Collection[str],
) -> tuple[Decision, dict[str, Any], int]:
    """Whether what is left of the statistics may leave, what that is, and how many columns are hidden.

    Under secure aggregation nothing is hidden, as a sum in which one silo alone shows a column would be that silo's:
    there a column with a value of too few rows is refused.
    """
    allowed = policy.model.egress.statistics
    if allowed is None:
        return undecided(policy, "the policy says nothing of statistics"), {}, 0
    if run.secure_aggregation is None:
        shown = conceal(moments.summary, moments.tables, allowed.minimum_cell)
        summary, cell, hidden = shown.summary, shown.smallest, shown.hidden_columns
    else:
        few = [table.rarest for table in moments.tables if table.values <= allowed.minimum_cell]
        summary, cell, hidden = moments.summary, min(few, default=None), 0
    request = Egress(
        round=1,
        examples=moments.summary.rows,
        metrics={},
        declared_metrics=(),
        privacy=privacy,
        cell=cell,
    )
    fields = to_fields(summary, normalization_layout(run.features))
    return decide(policy, request, now, observe), fields, hidden


def sums_of(moments: TrainingMoments, view_digest: str) -> Sums:
    """The statistics as they are masked, of every feature; raises WorkerError for what no view can have."""
    try:
        return Sums(encoded(moments.summary), view_digest)
    except WireError as error:
        raise WorkerError(f"the worker's statistics cannot be: {error}") from None


def normalization_of(run: Run, envelope: Envelope) -> tuple[str | None, str | None]:
    """The normalisation that comes with a model, as text and its digest; nothing without one. Raises WireError."""
    if run.normalization is None:
        return None, None
    text = envelope.text("normalization")
    read_normalization(text, len(run.features))
    return text, normalization_digest(text)
