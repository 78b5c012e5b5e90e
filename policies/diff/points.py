"""A request of the space, and how one policy is asked about it."""

import datetime as dt
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Literal

from policies.decision import Check, Context, Decision, Stage
from policies.diff.space import Space
from policies.diff.spans import Span
from policies.document import Document
from policies.model import SiloPolicy
from policies.model.places import Destinations
from policies.request import Admission, Egress, Ingress, Party, Release, Request, View
from policies.stages import admission, egress, ingress, release, view
from policies.stages.places import RECEIVED, STATISTICS
from policies.vocabulary.places import members

STAGES: Mapping[type, Stage] = {
    Admission: admission.STAGE,
    View: view.STAGE,
    Ingress: ingress.STAGE,
    Egress: egress.STAGE,
    Release: release.STAGE,
}

Label = str | Span
Answer = Literal["allowed", "refused", "unasked"]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of facts: its labels in the order of the facet's dimensions, the request and the time.

    With `beside_coordinator` a coordinator that the asked policy accepts is put among the parties: without one no
    run is allowed, and which one is accepted differs between policies. Points of a facet with the same `alike` are
    answered alike: their countries lie in the same of the places that either policy names.
    """

    labels: tuple[Label, ...]
    request: Request
    now: dt.datetime
    beside_coordinator: bool = False
    alike: Hashable = None


@dataclass(frozen=True, slots=True)
class Facet:
    """Rules that read the same facts, and the points that could tell two policies apart by these rules.

    Other facts of a point's request do not matter to these rules. `dimensions` names the labels; the last is the one
    that is listed.
    """

    name: str
    dimensions: tuple[str, ...]
    rules: frozenset[str]
    points: Callable[[Space], Iterator[Point]]

    def answer(self, policy: Document[SiloPolicy], point: Point) -> tuple[Answer, Decision | None]:
        """What the facet's rules say: refused by the first that refuses, unasked where a rule they need refuses."""
        context = Context(policy, point.now)
        request = point.request
        if point.beside_coordinator and isinstance(request, Admission):
            coordinator = accepted_coordinator(policy, statistics=request.statistics)
            request = replace(request, parties=(*coordinator, *request.parties))
        needed, own = _checks(STAGES[type(request)], self.rules)
        for check in needed:
            if isinstance(check.ask(context, request), Decision):
                return "unasked", None
        for check in own:
            found = check.ask(context, request)
            if isinstance(found, Decision):
                return "refused", found
        return "allowed", None


@cache
def _checks(stage: Stage, rules: frozenset[str]) -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """The checks that must pass for a facet's to be asked, and the facet's own, in the order of their stage."""
    own = tuple(check for check in stage.checks if check.rule in rules)
    needed = {rule for check in own for rule in check.needs} - rules
    return tuple(check for check in stage.checks if check.rule in needed), own


@lru_cache(maxsize=16)
def _accepted(destinations: Destinations, *, statistics: bool) -> tuple[Party, ...]:
    received = [*RECEIVED["coordinator"], *([STATISTICS] if statistics else [])]
    found = [getattr(destinations, artifact) for artifact in received]
    # A final model goes where updates go where the policy does not speak of it; statistics then go nowhere.
    found = [
        destinations.model_update if one is None and name == "final_model" else one
        for name, one in zip(received, found, strict=True)
    ]
    if any(one is None for one in found):
        return ()
    countries = frozenset.intersection(*(members(one.countries) for one in found))
    named = [frozenset(one.parties) for one in found if one.parties is not None]
    names = frozenset.intersection(*named) if named else frozenset(("coordinator",))
    return (Party(min(names), "coordinator", min(countries)),) if names and countries else ()


def accepted_coordinator(policy: Document[SiloPolicy], *, statistics: bool) -> tuple[Party, ...]:
    """A coordinator that a policy accepts, if it accepts any."""
    return _accepted(policy.model.residency.destinations, statistics=statistics)
