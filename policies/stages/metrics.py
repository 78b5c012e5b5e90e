"""Checks of metrics, as a run declares them and as a reply has them."""

import math

from policies.decision import PASSED, Check, Context, Finding
from policies.request import Admission, Egress
from policies.wording import counted, listed


def _allowed(context: Context, request: Admission | Egress) -> Finding:
    allowed = context.model.egress.metrics.allow
    wrong = [metric for metric in request.metrics if metric not in allowed]
    if not wrong:
        return PASSED
    return context.deny("egress.metrics.allow", metrics=_named(wrong), allowed=listed(allowed))


def _declared(context: Context, request: Egress) -> Finding:
    undeclared = [metric for metric in request.metrics if metric not in request.declared_metrics]
    if not undeclared:
        return PASSED
    declared = listed(request.declared_metrics)
    return context.deny("egress.metrics.declared", metrics=_named(undeclared), declared=declared)


def _finite(context: Context, request: Egress) -> Finding:
    wild = [metric for metric, value in request.metrics.items() if not math.isfinite(value)]
    return context.deny("egress.metrics.finite", metrics=_named(wild)) if wild else PASSED


def _range(context: Context, request: Egress) -> Finding:
    beyond = request.beyond_range
    return context.deny("egress.metrics.range", metrics=_named(list(beyond))) if beyond else PASSED


def _examples(context: Context, request: Egress) -> Finding:
    minimum = context.model.egress.metrics.minimum_count
    if request.examples >= minimum:
        return PASSED
    examples = counted(request.examples, "example")
    return context.deny("egress.metrics.minimum_count", examples=examples, minimum=minimum)


def _named(metrics: list[str]) -> str:
    """`metric a` or `metrics a, b`."""
    return f"{'metric' if len(metrics) == 1 else 'metrics'} {listed(metrics)}"


ADMISSION = (Check("egress.metrics.allow", _allowed),)
EGRESS = (
    Check("egress.metrics.declared", _declared),
    *ADMISSION,
    Check("egress.metrics.finite", _finite),
    Check("egress.metrics.range", _range),
    Check("egress.metrics.minimum_count", _examples),
)
