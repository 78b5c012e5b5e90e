"""A decision with the outcome of every rule, as text and as JSON values."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policies.decision import Decision
from policies.document import Document
from policies.engine import Step, decide, trace
from policies.model import SiloPolicy
from policies.request import Request

WIDTH = 30


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision on a request, and every rule of its stage in order with what it said."""

    decision: Decision
    steps: tuple[Step, ...]


def explain(policy: Document[SiloPolicy], request: Request, now: dt.datetime) -> Explanation:
    """Decide a request and trace how."""
    return Explanation(decide(policy, request, now), trace(policy, request, now))


def decision_lines(decision: Decision) -> Iterator[str]:
    """The decision, its reason, and what would have to change."""
    yield f"{'allowed' if decision.allowed else 'refused'} by {decision.rule} at {decision.location}"
    yield f"reason: {decision.reason}"
    if decision.remedy:
        yield f"remedy: {decision.remedy}"


def trace_lines(steps: tuple[Step, ...]) -> Iterator[str]:
    """One line a rule; rules of which the policy does not speak are left out, a refusal has its reason."""
    for step in steps:
        if step.outcome != "absent":
            reason = f"  {step.decision.reason}" if step.decision and step.outcome == "refused" else ""
            yield f"  {step.outcome:8} {step.rule:{WIDTH}} {step.location}{reason}"
    absent = [step.rule for step in steps if step.outcome == "absent"]
    if absent:
        yield f"  absent   {', '.join(absent)}"


def lines(explanation: Explanation) -> Iterator[str]:
    """The decision, then the outcome of every rule."""
    yield from decision_lines(explanation.decision)
    yield "every rule:"
    yield from trace_lines(explanation.steps)


def plain(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON values."""
    return {
        **_plain(explanation.decision),
        "clip_norm": explanation.decision.clip_norm,
        "trace": [
            {
                "rule": step.rule,
                "outcome": step.outcome,
                "location": step.location,
                **(_said(step.decision) if step.decision and step.outcome == "refused" else {}),
            }
            for step in explanation.steps
        ],
    }


def _plain(decision: Decision) -> dict[str, Any]:
    return {
        "effect": decision.effect,
        "rule": decision.rule,
        "location": decision.location,
        **_said(decision),
    }


def _said(decision: Decision) -> dict[str, Any]:
    return {"reason": decision.reason, "remedy": decision.remedy}
