"""May this model be handed to the worker?"""

from policies.decision import PASSED, Check, Context, Decision, Finding, Stage
from policies.request import Ingress
from policies.stages import runs
from policies.stages.basis import IN_FORCE
from policies.wording import shown, size_named, values_named


def _round(context: Context, request: Ingress) -> Finding:
    if 1 <= request.round <= request.rounds_planned:
        return PASSED
    return context.deny("ingress.round", round=request.round, planned=request.rounds_planned)


def _dtype(context: Context, request: Ingress) -> Finding:
    return PASSED if request.dtype == "float32" else context.deny("ingress.dtype", dtype=shown(request.dtype))


def _shape(context: Context, request: Ingress) -> Finding:
    if 1 <= request.values == request.expected_values:
        return PASSED
    return context.deny("ingress.shape", values=values_named(request.values), expected=request.expected_values)


def _finite(context: Context, request: Ingress) -> Finding:
    return PASSED if request.finite is True else context.deny("ingress.finite")


def _bytes(context: Context, request: Ingress) -> Finding:
    maximum = context.model.egress.update.max_bytes
    if 0 <= request.size_bytes <= maximum:
        return PASSED
    return context.deny("ingress.max_bytes", size=size_named(request.size_bytes), maximum=size_named(maximum))


def _allow(context: Context, request: Ingress) -> Decision:
    return context.allow(
        "ingress.allow",
        round=request.round,
        values=values_named(request.values),
        size=size_named(request.size_bytes),
    )


STAGE = Stage(
    "ingress",
    (
        *IN_FORCE,
        Check("ingress.round", _round),
        *runs.ROUND,
        Check("ingress.dtype", _dtype),
        Check("ingress.shape", _shape),
        Check("ingress.finite", _finite),
        Check("ingress.max_bytes", _bytes),
    ),
    _allow,
)
