"""May this reply leave the silo?"""

import math

from policies.decision import ABSENT, PASSED, Check, Context, Decision, Finding, Stage
from policies.request import Egress
from policies.stages import metrics, privacy, runs, statistics
from policies.stages.basis import IN_FORCE
from policies.wording import counted, shown, size_named, values_named

SHAPE = ("egress.update.shape",)


def _facts(request: Egress) -> tuple[object, ...]:
    return (
        request.values,
        request.expected_values,
        request.dtype,
        request.finite,
        request.norm,
        request.size_bytes,
    )


def _shape(context: Context, request: Egress) -> Finding:
    """The update has the model's size; one with a fact missing is refused as one of the wrong shape."""
    facts = _facts(request)
    if all(fact is None for fact in facts):
        return ABSENT
    if request.values is None or any(fact is None for fact in facts):
        return context.deny("egress.update.shape", values="some facts missing", expected="all of them")
    if 1 <= request.values == request.expected_values:
        return PASSED
    return context.deny("egress.update.shape", values=values_named(request.values), expected=request.expected_values)


def _dtype(context: Context, request: Egress) -> Finding:
    if request.dtype is None:
        return ABSENT
    return PASSED if request.dtype == "float32" else context.deny("egress.update.dtype", dtype=shown(request.dtype))


def _finite(context: Context, request: Egress) -> Finding:
    if request.finite is None:
        return ABSENT
    return PASSED if request.finite is True else context.deny("egress.update.finite")


def _bytes(context: Context, request: Egress) -> Finding:
    size, maximum = request.size_bytes, context.model.egress.update.max_bytes
    if size is None:
        return ABSENT
    if 0 <= size <= maximum:
        return PASSED
    return context.deny("egress.update.max_bytes", size=size_named(size), maximum=size_named(maximum))


def _norm(context: Context, request: Egress) -> Finding:
    """The norm is a number; one above the maximum is clipped where the reply is allowed."""
    norm = request.norm
    if norm is None:
        return ABSENT
    if math.isfinite(norm) and norm >= 0:
        return PASSED
    reason = f"the update's norm is {norm:g}, expected a number from 0"
    return context.deny("egress.update.max_norm", norm=reason, remedy="correct the app's update")


def _allow(context: Context, request: Egress) -> Decision:
    """Permission, with the norm to clip to if the update is too long."""
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


STAGE = Stage(
    "egress",
    (
        *IN_FORCE,
        *runs.ROUND,
        *metrics.EGRESS,
        Check("egress.update.shape", _shape),
        Check("egress.update.dtype", _dtype, needs=SHAPE),
        Check("egress.update.finite", _finite, needs=SHAPE),
        Check("egress.update.max_bytes", _bytes, needs=SHAPE),
        Check("egress.update.max_norm", _norm, needs=SHAPE),
        *statistics.EGRESS,
        *privacy.EGRESS,
    ),
    _allow,
)
