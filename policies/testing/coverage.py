"""Which rules a policy uses, and which of them its tests see decide."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from policies.diff.facets import FACETS
from policies.diff.space import Space
from policies.document import Document
from policies.model import SiloPolicy
from policies.rules import RULES
from policies.testing.runner import Outcome

CLIPPING = "egress.update.max_norm"
"""The one rule that decides by allowing: it clips."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The rules that a policy uses, those that decided a passing case, and whether any case is allowed."""

    policy: Document[SiloPolicy]
    used: tuple[str, ...]
    decided: frozenset[str]
    allows: bool

    @property
    def missing(self) -> tuple[str, ...]:
        """The rules without a test."""
        return tuple(rule for rule in self.used if rule not in self.decided)

    @property
    def complete(self) -> bool:
        """Whether each rule has a test and something is allowed."""
        return self.allows and not self.missing


def coverage(policy: Document[SiloPolicy], outcomes: Iterable[Outcome], now: dt.datetime) -> Coverage:
    """What cases cover of a policy; a case that failed covers nothing. `now` is the time from which ages count."""
    decisions = [outcome.decision for outcome in outcomes if outcome.passed]
    decided = frozenset(decision.rule for decision in decisions)
    return Coverage(policy, used_rules(policy, now), decided, any(decision.allowed for decision in decisions))


def used_rules(policy: Document[SiloPolicy], now: dt.datetime) -> tuple[str, ...]:
    """The rules that refuse something because of what this policy says, in the order of the documentation.

    Found by asking the policy about every request that its values span, as a comparison does. Rules that hold under
    every policy alike (a received model of the wrong type, an undeclared metric, an error while deciding) are tested
    with the engine; a rule behind which another always refuses is none that a test could see.
    """
    space = Space((policy, policy), now)
    found = {CLIPPING}
    for facet in FACETS:
        for point in facet.points(space):
            refusal = facet.answer(policy, point)[1]
            if refusal is not None:
                found.add(refusal.rule)
    return tuple(rule for rule in RULES if rule in found and rule != "default-deny")
