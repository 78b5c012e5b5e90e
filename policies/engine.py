"""The decision engine: pure, deny by default, never raising."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from policies.decision import Context, Decision, Outcome, Stage
from policies.document import Document
from policies.errors import UndecidableError
from policies.model import SiloPolicy
from policies.request import Admission, Egress, Ingress, Release, Request, View, check_types
from policies.rules import RULES
from policies.stages import admission, egress, ingress, release, view

__all__ = ["Decision", "Step", "decide", "trace", "undecided"]

_STAGES: dict[type, Stage] = {
    Admission: admission.STAGE,
    View: view.STAGE,
    Ingress: ingress.STAGE,
    Egress: egress.STAGE,
    Release: release.STAGE,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One rule of a trace: passed, refused, absent (the policy does not ask) or unasked (a rule before it refused).

    `decision` is the refusal; `location` the place of the rule in the policy.
    """

    rule: str
    outcome: Literal["passed", "refused", "absent", "unasked"]
    location: str
    decision: Decision | None = None


def decide(
    policy: Document[SiloPolicy], request: object, now: dt.datetime, observe: Collection[str] = frozenset()
) -> Decision:
    """Decide a request under a policy at a time (aware).

    The rules of the request's stage are asked in their order; the first that refuses decides, and when none
    does the request is allowed. A refusal by a rule in `observe` is noted in `observed` and passed over, unless the
    rule is mandatory. A request of an unknown type, a fact of the wrong type or any error while deciding is a refusal
    by `evaluation-error`.
    """
    try:
        return _decide(policy, request, now, observe)
    except UndecidableError as error:
        return undecided(policy, str(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong while deciding must become a refusal
        return undecided(policy, f"an error of type {type(error).__name__}")


def trace(policy: Document[SiloPolicy], request: object, now: dt.datetime) -> tuple[Step, ...]:
    """Every rule of the request's stage in its order with its outcome, also those after the first that refuses.

    The last step is the rule by which the stage allows, unasked where a rule refused. A request that cannot be decided
    is one step, refused by `evaluation-error`.
    """
    try:
        return _trace(policy, request, now)
    except UndecidableError as error:
        return (_refused(undecided(policy, str(error))),)
    except Exception as error:  # noqa: BLE001 - as in decide
        return (_refused(undecided(policy, f"an error of type {type(error).__name__}")),)


def _decide(policy: Document[SiloPolicy], request: object, now: dt.datetime, observe: Collection[str]) -> Decision:
    stage, context = _stage(policy, request, now)
    observed: list[Decision] = []
    for check in stage.checks:
        found = check.ask(context, request)
        if isinstance(found, Outcome):
            continue
        if found.rule not in observe or RULES[found.rule].mandatory:
            return replace(found, observed=tuple(observed)) if observed else found
        observed.append(found)
    allowed = stage.allow(context, request)
    return replace(allowed, observed=tuple(observed)) if observed else allowed


def _trace(policy: Document[SiloPolicy], request: object, now: dt.datetime) -> tuple[Step, ...]:
    stage, context = _stage(policy, request, now)
    steps: list[Step] = []
    refused: set[str] = set()
    for check in stage.checks:
        place = policy.locate(RULES[check.rule].path)
        if refused.intersection(check.needs):
            steps.append(Step(check.rule, "unasked", place))
            continue
        found = check.ask(context, request)
        if isinstance(found, Outcome):
            steps.append(Step(check.rule, found.value, place))
        else:
            refused |= {check.rule, found.rule}
            steps.append(_refused(found))
    if refused:
        return (*steps, Step(f"{stage.name}.allow", "unasked", policy.locate()))
    allowed = stage.allow(context, request)
    return (*steps, Step(allowed.rule, "passed", allowed.location, allowed))


def _refused(decision: Decision) -> Step:
    return Step(decision.rule, "refused", decision.location, decision)


def _stage(policy: Document[SiloPolicy], request: object, now: dt.datetime) -> tuple[Stage, Context]:
    if not isinstance(policy, Document) or not isinstance(policy.model, SiloPolicy):
        raise UndecidableError("got no policy, expected a loaded SiloPolicy")
    if not isinstance(now, dt.datetime) or now.utcoffset() is None:
        raise UndecidableError("got a time without a time zone, expected an aware one")
    stage = _STAGES.get(type(request))
    if stage is None or not isinstance(request, Request):
        known = ", ".join(kind.__name__ for kind in _STAGES)
        raise UndecidableError(f"got a request of type {type(request).__name__}, expected one of: {known}")
    check_types(request)
    return stage, Context(policy, now)


def undecided(policy: object, error: str) -> Decision:
    """The refusal of a request that cannot be decided, also because its facts could not be gathered."""
    rule = RULES["evaluation-error"]
    known = isinstance(policy, Document) and isinstance(policy.model, SiloPolicy)
    location = policy.locate() if isinstance(policy, Document) and known else "no policy"
    return Decision("deny", rule.id, rule.message.format(error=error), location, rule.remedy)
