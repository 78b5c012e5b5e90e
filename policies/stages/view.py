"""May this view of a dataset be used?"""

from policies.decision import Context, Decision, Stage
from policies.request import View
from policies.stages import datasets
from policies.stages.basis import IN_FORCE
from policies.wording import counted


def _allow(context: Context, request: View) -> Decision:
    return context.allow(
        "view.allow",
        dataset=request.dataset,
        columns=counted(len(request.columns), "column"),
        rows=counted(request.rows, "row"),
    )


STAGE = Stage("view", (*IN_FORCE, *datasets.VIEW), _allow)
