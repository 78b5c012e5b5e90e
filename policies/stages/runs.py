"""Checks of how much a run does, when, and with whom."""

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.request import Admission, Egress, Ingress
from policies.wording import counted, listed


def _planned(context: Context, request: Admission) -> Finding:
    return _within(context, request.rounds, f"the run plans {counted(request.rounds, 'round')}")


def _this_round(context: Context, request: Ingress | Egress) -> Finding:
    return _within(context, request.round, f"got round {request.round}")


def _within(context: Context, rounds: int, asked: str) -> Finding:
    """A number of rounds, or of a round, is from 1 to the policy's maximum."""
    maximum = context.model.runs.max_rounds
    return PASSED if 1 <= rounds <= maximum else context.deny("runs.max_rounds", asked=asked, maximum=maximum)


def _windows(context: Context, _: Admission) -> Finding:
    windows = context.model.runs.windows
    if windows is None:
        return ABSENT
    if any(window.contains(context.now) for window in windows):
        return PASSED
    local = context.now.astimezone(windows[0].zone)
    return context.deny("runs.windows", local=f"{local:%a %H:%M} {windows[0].zone}", windows=listed(windows))


def _concurrent(context: Context, request: Admission) -> Finding:
    maximum = context.model.runs.max_concurrent
    if maximum is None:
        return ABSENT
    running = request.running
    if running is not None and 0 <= running < maximum:
        return PASSED
    found = "it is not known how many other runs are" if running is None else _running(running)
    return context.deny("runs.max_concurrent", running=f"{found} in progress", maximum=maximum)


def _running(count: int) -> str:
    return f"{counted(count, 'other run')} {'is' if count == 1 else 'are'}"


def _silos(context: Context, request: Admission) -> Finding:
    minimum = context.model.runs.minimum_silos
    if minimum is None:
        return ABSENT
    named = sum(party.role == "silo" for party in request.parties)
    if request.quorum is not None and min(request.quorum, named) >= minimum:
        return PASSED
    if request.quorum is None:
        found = "the run's quorum is not known"
    else:
        found = f"a round of the run needs {counted(min(request.quorum, named), 'silo')}"
    return context.deny("runs.minimum_silos", found=found, minimum=minimum)


ADMISSION = (
    Check("runs.max_rounds", _planned),
    Check("runs.windows", _windows),
    Check("runs.max_concurrent", _concurrent),
    Check("runs.minimum_silos", _silos),
)
ROUND = (Check("runs.max_rounds", _this_round),)
