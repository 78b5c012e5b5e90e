"""The decision engine: pure, deny by default, never raising."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from policies.decision import Context, Decision
from policies.document import Document
from policies.errors import UndecidableError
from policies.model import SiloPolicy
from policies.request import Admission, Egress, Ingress, View, check_types
from policies.rules import RULES
from policies.stages import admission, egress, ingress, view

__all__ = ["Decision", "decide"]

_STAGES: dict[type, Callable[[Context, Any], Decision]] = {
    Admission: admission.decide,
    View: view.decide,
    Ingress: ingress.decide,
    Egress: egress.decide,
}


def decide(policy: Document[SiloPolicy], request: object, now: dt.datetime) -> Decision:
    """Decide a request under a policy at a time (aware).

    The rules of the request's stage are asked in their order; the first that refuses decides, and when none
    does the request is allowed. A request of an unknown type, a fact of the wrong type or any error while
    deciding is a refusal by `evaluation-error`.
    """
    try:
        return _decide(policy, request, now)
    except UndecidableError as error:
        return _undecided(policy, str(error))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong while deciding must become a refusal
        return _undecided(policy, f"an error of type {type(error).__name__}")


def _decide(policy: Document[SiloPolicy], request: object, now: dt.datetime) -> Decision:
    if not isinstance(policy, Document) or not isinstance(policy.model, SiloPolicy):
        raise UndecidableError("got no policy, expected a loaded SiloPolicy")
    if not isinstance(now, dt.datetime) or now.utcoffset() is None:
        raise UndecidableError("got a time without a time zone, expected an aware one")
    stage = _STAGES.get(type(request))
    if stage is None or not isinstance(request, Admission | View | Ingress | Egress):
        known = ", ".join(kind.__name__ for kind in _STAGES)
        raise UndecidableError(f"got a request of type {type(request).__name__}, expected one of: {known}")
    check_types(request)
    return stage(Context(policy, now), request)


def _undecided(policy: object, error: str) -> Decision:
    rule = RULES["evaluation-error"]
    known = isinstance(policy, Document) and isinstance(policy.model, SiloPolicy)
    location = policy.locate() if isinstance(policy, Document) and known else "no policy"
    return Decision("deny", rule.id, rule.message.format(error=error), location, rule.remedy)
