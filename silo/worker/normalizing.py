"""Scales a view by the means and deviations of all silos: what it gives for them, and what it does with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from federation.run import Run
from federation.statistics.exact_sums import decoded, encoded, values_of
from federation.statistics.normalization import (
    Normalization,
    normalization_digest,
    normalization_layout,
    read_normalization,
)
from federation.statistics.reading import read_summary
from silo.channel import Frame
from silo.worker.errors import WorkError

if TYPE_CHECKING:
    from silo.worker.data.view import PolicyView


def moments_of(view: PolicyView, run: Run, frame: Frame) -> dict[str, Any]:
    """Means and variances of the training rows, for a run that normalises by them; made before any app is loaded."""
    if run.normalization is None:
        return {}
    from silo.worker.data.summary import summarise  # noqa: PLC0415

    cell = frame.fields.get("cell")
    if type(cell) is not int:
        raise WorkError("the gate asked for statistics without saying how small a cell may be")
    found = summarise([view.train_x], normalization_layout(run.features), cell)
    return {"moments": found["summary"], "tables": found["tables"]}


def normalised(view: PolicyView, run: Run, frame: Frame, before: str | None) -> tuple[PolicyView, str | None]:
    """The view scaled by what came with a model, and its digest; a view that was scaled (`before`) stays as it is."""
    if run.normalization is None:
        return view, None
    text = str(frame.fields.get("normalization"))
    digest = normalization_digest(text)
    if before is not None and digest != before:
        raise WorkError("the run normalised by other values before")
    if before is not None:
        return view, before
    return scaled(view, read_normalization(text, len(run.features))), digest


def scaled(view: PolicyView, by: Normalization) -> PolicyView:
    """A view with its features scaled; its digest stays that of the data."""
    return replace(view, train_x=by.applied(view.train_x), validation_x=by.applied(view.validation_x))


def normalised_together(run: Run, views: Mapping[str, PolicyView]) -> dict[str, PolicyView]:
    """Views scaled by the statistics of all of them, where the run asks for it; nothing is hidden, as no policy is."""
    if run.normalization is None:
        return dict(views)
    layout = normalization_layout(run.features)
    frame = Frame("prepare", {"cell": 1})
    parts = [read_summary(json.dumps(moments_of(view, run, frame)["moments"]), layout) for view in views.values()]
    if run.secure_aggregation is None:
        by = Normalization.of(parts)
    else:
        total = np.zeros(values_of(len(run.features)), dtype=np.uint32)
        for part in parts:
            total += encoded(part)
        by = Normalization.of_sum(decoded(total, len(run.features)))
    return {name: scaled(view, by) for name, view in views.items()}
