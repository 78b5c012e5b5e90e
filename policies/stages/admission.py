"""May this run take place here?"""

from policies.decision import ABSENT, PASSED, Check, Context, Decision, Finding, Stage
from policies.request import Admission
from policies.stages import apps, assurance, datasets, metrics, places, privacy, purposes, runs, statistics
from policies.stages.basis import IN_FORCE
from policies.vocabulary.purposes import purpose_name
from policies.wording import counted, listed


def _release(context: Context, request: Admission) -> Finding:
    release = context.model.release
    if release is None or request.surveys:
        return ABSENT
    if request.release_asked:
        return PASSED
    found = "the coordinator does not say that it keeps the final model until it is released"
    return context.deny("release.asked", found=found, minimum=release.minimum, approvers=listed(release.approvers))


def _allow(context: Context, request: Admission) -> Decision:
    metadata = context.model.metadata
    return context.allow(
        "admission.allow",
        purpose=purpose_name(request.purpose, context.model.purposes.vocabulary),
        dataset=request.dataset,
        columns=counted(len(request.columns), "column"),
        rounds=counted(request.rounds, "round"),
        name=metadata.name,
        version=metadata.version,
    )


STAGE = Stage(
    "admission",
    (
        *IN_FORCE,
        *purposes.CHECKS,
        *places.ADMISSION,
        *apps.CHECKS,
        *datasets.ADMISSION,
        *runs.ADMISSION,
        *metrics.ADMISSION,
        *statistics.ADMISSION,
        *privacy.ADMISSION,
        *assurance.CHECKS,
        Check("release.asked", _release),
    ),
    _allow,
)
