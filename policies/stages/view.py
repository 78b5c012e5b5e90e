"""May this view of a dataset be built?"""

from policies.decision import Context, Decision
from policies.request import View
from policies.stages import common
from policies.wording import counted


def decide(context: Context, request: View) -> Decision:
    """The first rule that refuses, or the view."""
    refusal = (
        common.in_force(context)
        or common.dataset_known(context, request.dataset)
        or common.columns_allowed(context, request.dataset, request.columns)
        or _rows(context, request)
    )
    return refusal or context.allow(
        "view.allow",
        dataset=request.dataset,
        columns=counted(len(request.columns), "column"),
        rows=counted(request.rows, "row"),
    )


def _rows(context: Context, request: View) -> Decision | None:
    minimum = context.model.datasets[request.dataset].rows.minimum
    if request.rows >= minimum:
        return None
    return context.deny(
        "datasets.rows.minimum",
        ("datasets", request.dataset, "rows", "minimum"),
        dataset=request.dataset,
        rows=counted(request.rows, "row"),
        minimum=minimum,
    )
