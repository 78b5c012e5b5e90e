"""Asks two policies about every point of every facet, and keeps the points on which they differ."""

import datetime as dt
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from policies.decision import Decision
from policies.diff.facets import FACETS
from policies.diff.points import Answer, Facet, Label, Point
from policies.diff.space import Space
from policies.diff.spans import Span, real
from policies.document import Document
from policies.model import SiloPolicy

Direction = Literal["allowed", "denied"]

CLIPPING = "norm of an update that leaves unclipped"


@dataclass(frozen=True, slots=True)
class Change:
    """One point that the first policy refuses and the second allows (`allowed`), or the other way round (`denied`).

    `refusal` is the decision of the policy that refuses it; None where clipping differs.
    """

    facet: str
    direction: Direction
    labels: tuple[Label, ...]
    refusal: Decision | None = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field whose value differs, as a dotted path; a value of None is absent."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Difference:
    """All that differs between two policies.

    `changes` is what they decide differently, `fields` what they say differently: among these are fields that no
    rule of a single decision reads, such as the window of a budget, which changes what the gate counts. `everything`
    has each facet for which a policy allows no point at all, with the position of the policy (0 or 1): it refuses
    every request that the facet's rules see. `dimensions` has the names and all labels of each facet.
    """

    changes: tuple[Change, ...]
    fields: tuple[FieldChange, ...]
    everything: tuple[tuple[str, int], ...]
    dimensions: dict[str, tuple[tuple[str, ...], tuple[tuple[Label, ...], ...]]]

    @property
    def looser(self) -> bool:
        """Whether the second policy allows anything that the first refuses."""
        return any(change.direction == "allowed" for change in self.changes)

    @property
    def same(self) -> bool:
        """Whether both policies decide the same."""
        return not self.changes


def compare(before: Document[SiloPolicy], after: Document[SiloPolicy], now: dt.datetime) -> Difference:
    """What the second policy allows that the first refuses, and the other way round.

    `now` (aware) is the time from which ages count. Exact for each facet: a request that the two policies decide
    differently is told apart by a facet, whose report has a point with the same outcome.
    """
    space = Space((before, after), now)
    changes: list[Change] = []
    everything: list[tuple[str, int]] = []
    dimensions = {}
    for facet in FACETS:
        found, refusing, labels = _compare(facet, space)
        changes += found
        everything += [(facet.name, index) for index in refusing]
        dimensions[facet.name] = (facet.dimensions, labels)
    changes += _clipping(space)
    spans = tuple((span,) for span in _norms(space))
    dimensions[CLIPPING] = (("norm",), spans)
    return Difference(tuple(changes), tuple(_fields(before.model, after.model)), tuple(everything), dimensions)


def _compare(facet: Facet, space: Space) -> tuple[list[Change], list[int], tuple[tuple[Label, ...], ...]]:
    changes, labels, allowed, asked = [], [], [False, False], [False, False]
    known: dict[Hashable, list[tuple[Answer, Decision | None]]] = {}
    for point in facet.points(space):
        labels.append(point.labels)
        answers = known.get(point.alike) if point.alike is not None else None
        if answers is None:
            answers = [facet.answer(policy, point) for policy in space.policies]
            known[point.alike] = answers
        for index, (answer, _) in enumerate(answers):
            allowed[index] |= answer == "allowed"
            asked[index] |= answer != "unasked"
        change = _change(facet, point, answers)
        if change is not None:
            changes.append(change)
    refusing = [index for index in (0, 1) if asked[index] and not allowed[index]]
    return changes, refusing, tuple(labels)


def _change(facet: Facet, point: Point, answers: list[tuple[Answer, Decision | None]]) -> Change | None:
    (before, first), (after, second) = answers
    if before == "refused" and after == "allowed":
        return Change(facet.name, "allowed", point.labels, first)
    if before == "allowed" and after == "refused":
        return Change(facet.name, "denied", point.labels, second)
    return None


def _norms(space: Space) -> tuple[Span, ...]:
    return real(space.each("egress.update.max_norm"))


def _clipping(space: Space) -> Iterator[Change]:
    """Clipping is no refusal, so it has no facet: an update that one policy clips and the other does not."""
    for span in _norms(space):
        norm = span.sample
        clipped = [isinstance(norm, float) and norm > p.model.egress.update.max_norm for p in space.policies]
        if clipped[0] != clipped[1]:
            yield Change(CLIPPING, "allowed" if clipped[0] else "denied", (span,))


def _fields(before: BaseModel, after: BaseModel) -> Iterator[FieldChange]:
    first, second = dict(_leaves(before)), dict(_leaves(after))
    for path in dict.fromkeys((*first, *second)):
        if first.get(path) != second.get(path):
            yield FieldChange(path, first.get(path), second.get(path))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a policy with their values as text; items of a list of mappings by number, other lists as one."""
    if isinstance(value, BaseModel | dict):
        for key, inner in dict(value).items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{index}")
    elif value is not None and value != ():
        yield path, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
