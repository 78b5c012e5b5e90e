"""A decision and how one is made from a rule and facts."""

import datetime as dt
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from policies.document import Document
from policies.model import SiloPolicy
from policies.rules import RULES
from policies.tree import PathKey


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by which rule, why, and where in the policy that rule stands.

    `remedy` says what would have to change; it is None for a plain allow. `clip_norm` is the norm to which
    the update must be clipped before it leaves, None for no clipping. `observed` are the refusals of rules that the
    gate was told to record only.
    """

    effect: Literal["allow", "deny"]
    rule: str
    reason: str
    location: str
    remedy: str | None = None
    clip_norm: float | None = None
    observed: "tuple[Decision, ...]" = ()

    @property
    def allowed(self) -> bool:
        """Whether the effect is allow."""
        return self.effect == "allow"


class Outcome(enum.Enum):
    """How a rule that did not refuse came out."""

    PASSED = "passed"
    """The policy asks, and the facts are within."""
    ABSENT = "absent"
    """The policy does not ask."""


Finding = Decision | Outcome
"""What one rule says of a request."""

PASSED, ABSENT = Outcome.PASSED, Outcome.ABSENT


@dataclass(frozen=True, slots=True)
class Context:
    """What every check sees: the policy and the time."""

    policy: Document[SiloPolicy]
    now: dt.datetime

    @property
    def model(self) -> SiloPolicy:
        """The policy's fields."""
        return self.policy.model

    @property
    def today(self) -> dt.date:
        """The date in UTC."""
        return self.now.astimezone(dt.UTC).date()

    def deny(self, rule_id: str, path: tuple[PathKey, ...] | None = None, **facts: object) -> Decision:
        """A refusal by a rule, at the rule's own field of the policy or at a closer one."""
        rule = RULES[rule_id]
        remedy = rule.remedy.format_map(facts) if rule.remedy else None
        location = self.policy.locate(rule.path if path is None else path)
        return Decision("deny", rule.id, rule.message.format_map(facts), location, remedy)

    def allow(self, rule_id: str, clip_norm: float | None = None, **facts: object) -> Decision:
        """A permission by a rule."""
        rule = RULES[rule_id]
        location = self.policy.locate(rule.path)
        remedy = rule.remedy.format_map(facts) if rule.remedy else None
        return Decision("allow", rule.id, rule.message.format_map(facts), location, remedy, clip_norm)


@dataclass(frozen=True, slots=True)
class Check:
    """How a stage asks one rule. It is asked only where the rules it `needs` did not refuse."""

    rule: str
    ask: Callable[[Context, Any], Finding]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """The checks of one kind of request, in their order, and the decision where none refuses."""

    name: str
    checks: tuple[Check, ...]
    allow: Callable[[Context, Any], Decision]
