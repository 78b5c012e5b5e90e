"""May this reply leave the silo?"""

import math

from policies.decision import Context, Decision
from policies.request import Egress
from policies.stages.common import (
    in_force,
    metrics_listed,
    metrics_named,
    rounds_within,
    size_named,
    values_named,
)
from policies.wording import counted, listed, shown


def decide(context: Context, request: Egress) -> Decision:
    """The first rule that refuses, else permission, with the norm to clip to if the update is too long."""
    refusal = (
        in_force(context)
        or rounds_within(context, request.round, f"got round {request.round}")
        or _metrics(context, request)
        or _examples(context, request)
        or _update(context, request)
    )
    if refusal is not None:
        return refusal
    maximum = context.model.egress.update.max_norm
    if request.norm is not None and request.norm > maximum:
        norm = f"the update's norm of {request.norm:g} is clipped to {maximum:g}"
        remedy = "raise egress.update.max_norm, or lower the learning rate, to send it whole"
        return context.allow("egress.update.max_norm", maximum, norm=norm, remedy=remedy)
    return context.allow(
        "egress.allow",
        round=request.round,
        update="no update" if request.values is None else f"an update of {values_named(request.values)}",
        metrics=counted(len(request.metrics), "metric"),
        examples=counted(request.examples, "example"),
    )


def _metrics(context: Context, request: Egress) -> Decision | None:
    undeclared = [metric for metric in request.metrics if metric not in request.declared_metrics]
    if undeclared:
        declared = listed(request.declared_metrics)
        return context.deny("egress.metrics.declared", metrics=metrics_named(undeclared), declared=declared)
    refusal = metrics_listed(context, tuple(request.metrics))
    if refusal is not None:
        return refusal
    wild = [metric for metric, value in request.metrics.items() if not math.isfinite(value)]
    return context.deny("egress.metrics.finite", metrics=metrics_named(wild)) if wild else None


def _examples(context: Context, request: Egress) -> Decision | None:
    minimum = context.model.egress.metrics.minimum_count
    if request.examples >= minimum:
        return None
    examples = counted(request.examples, "example")
    return context.deny("egress.metrics.minimum_count", examples=examples, minimum=minimum)


def _update(context: Context, request: Egress) -> Decision | None:
    """The update's facts; an update with a fact missing is refused as one of the wrong shape."""
    values, expected, size, norm = request.values, request.expected_values, request.size_bytes, request.norm
    facts = (values, expected, request.dtype, request.finite, norm, size)
    if all(fact is None for fact in facts):
        return None
    if values is None or expected is None or request.dtype is None or size is None or norm is None:
        return context.deny("egress.update.shape", values="some facts missing", expected="all of them")
    if not 1 <= values == expected:
        return context.deny("egress.update.shape", values=values_named(values), expected=expected)
    if request.dtype != "float32":
        return context.deny("egress.update.dtype", dtype=shown(request.dtype))
    if request.finite is not True:
        return context.deny("egress.update.finite")
    maximum = context.model.egress.update.max_bytes
    if not 0 <= size <= maximum:
        return context.deny("egress.update.max_bytes", size=size_named(size), maximum=size_named(maximum))
    if not (math.isfinite(norm) and norm >= 0):
        reason = f"the update's norm is {norm:g}, expected a number from 0"
        return context.deny("egress.update.max_norm", norm=reason, remedy="correct the app's update")
    return None
