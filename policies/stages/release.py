"""May the final model be handed to this party?"""

from policies.decision import ABSENT, PASSED, Check, Context, Decision, Finding, Stage
from policies.request import Release
from policies.stages import places
from policies.stages.basis import IN_FORCE
from policies.wording import counted, listed, shown


def _agreed(context: Context, request: Release) -> list[str]:
    """The named approvers who agreed; whoever asks for the model does not count."""
    named = context.model.release.approvers if context.model.release else ()
    return [name for name in named if name in request.approvals and name != request.party.name]


def _approvers(context: Context, request: Release) -> Finding:
    release = context.model.release
    if release is None:
        return ABSENT
    agreed = _agreed(context, request)
    if len(agreed) >= release.minimum:
        return PASSED
    return context.deny(
        "release.approvers",
        count=counted(len(agreed), "approver"),
        names=listed(agreed, "no one"),
        party=shown(request.party.name),
        minimum=release.minimum,
        approvers=listed(release.approvers),
    )


def _allow(context: Context, request: Release) -> Decision:
    return context.allow(
        "release.allow",
        party=shown(request.party.name),
        count=counted(len(_agreed(context, request)), "approver"),
        name=context.model.metadata.name,
        version=context.model.metadata.version,
    )


STAGE = Stage("release", (*IN_FORCE, *places.RELEASE, Check("release.approvers", _approvers)), _allow)
