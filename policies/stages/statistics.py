"""Checks of statistics of the data: which kinds are asked for, for whom, and what a reply shows."""

from policies.decision import ABSENT, PASSED, Check, Context, Decision, Finding
from policies.request import Admission, Egress
from policies.wording import counted, listed


def _unspoken(context: Context) -> Decision:
    return context.deny(
        "default-deny",
        ("egress",),
        what="statistics of the data",
        nearest="egress.metrics",
        failed="the kind of what leaves",
        remedy="ask for none, or add egress.statistics",
    )


def _allowed(context: Context, request: Admission) -> Finding:
    if not request.statistics:
        return ABSENT
    statistics = context.model.egress.statistics
    if statistics is None:
        return _unspoken(context)
    wrong = [kind for kind in request.kinds if kind not in statistics.allow]
    if not wrong:
        return PASSED
    return context.deny("egress.statistics.allow", kinds=listed(wrong), allowed=listed(statistics.allow, "none"))


def _per_silo(context: Context, request: Admission) -> Finding:
    if not (request.statistics and request.per_silo):
        return ABSENT
    statistics = context.model.egress.statistics
    if statistics is None:
        return _unspoken(context)
    return PASSED if statistics.per_silo else context.deny("egress.statistics.per_silo")


def _cell(context: Context, request: Egress) -> Finding:
    if request.cell is None:
        return ABSENT
    statistics = context.model.egress.statistics
    if statistics is None:
        return _unspoken(context)
    if request.cell >= statistics.minimum_cell:
        return PASSED
    rows = counted(request.cell, "row")
    return context.deny("egress.statistics.minimum_cell", rows=rows, minimum=statistics.minimum_cell)


ADMISSION = (
    Check("egress.statistics.allow", _allowed),
    Check("egress.statistics.per_silo", _per_silo),
)
EGRESS = (Check("egress.statistics.minimum_cell", _cell),)
