"""May this model be handed to the worker?"""

from policies.decision import Context, Decision
from policies.request import Ingress
from policies.stages.common import in_force, rounds_within, size_named, values_named
from policies.wording import shown


def decide(context: Context, request: Ingress) -> Decision:
    """The first rule that refuses, or entry."""
    refusal = in_force(context) or _round(context, request) or _content(context, request)
    return refusal or context.allow(
        "ingress.allow",
        round=request.round,
        values=values_named(request.values),
        size=size_named(request.size_bytes),
    )


def _round(context: Context, request: Ingress) -> Decision | None:
    if not 1 <= request.round <= request.rounds_planned:
        return context.deny("ingress.round", round=request.round, planned=request.rounds_planned)
    return rounds_within(context, request.round, f"got round {request.round}")


def _content(context: Context, request: Ingress) -> Decision | None:
    maximum = context.model.egress.update.max_bytes
    if request.dtype != "float32":
        return context.deny("ingress.dtype", dtype=shown(request.dtype))
    if not 1 <= request.values == request.expected_values:
        return context.deny("ingress.shape", values=values_named(request.values), expected=request.expected_values)
    if request.finite is not True:
        return context.deny("ingress.finite")
    if not 0 <= request.size_bytes <= maximum:
        return context.deny("ingress.max_bytes", size=size_named(request.size_bytes), maximum=size_named(maximum))
    return None
