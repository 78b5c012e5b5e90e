"""Puts changes in order: those of one facet and direction as few boxes that hold exactly these points."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from policies.diff.compare import Change, Difference, Direction
from policies.diff.points import Label
from policies.diff.space import OTHER
from policies.diff.spans import Span, words

ANY = "any"

Labels = tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A set of points: for each dimension the labels it takes, all combinations of them. `rules` refused them."""

    facts: tuple[tuple[str, tuple[str, ...]], ...]
    rules: tuple[str, ...]
    locations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The changes of one facet in one direction."""

    facet: str
    direction: Direction
    boxes: tuple[Box, ...]


def groups(difference: Difference) -> tuple[Group, ...]:
    """Every change, in the order of the facets, newly allowed before newly denied."""
    found = []
    for direction in ("allowed", "denied"):
        own = [change for change in difference.changes if change.direction == direction]
        for facet, (dimensions, every) in difference.dimensions.items():
            changes = [change for change in own if change.facet == facet]
            if changes:
                found.append(Group(facet, direction, tuple(_boxes(changes, dimensions, every))))
    return tuple(found)


def _boxes(changes: Sequence[Change], dimensions: Sequence[str], every: Sequence[Labels]) -> Iterator[Box]:
    points = {change.labels for change in changes}
    free = _free_dimensions(points, every, len(dimensions))
    rules: dict[Labels, list[Change]] = {}
    for change in changes:
        head = tuple(ANY if i in free else label for i, label in enumerate(change.labels[:-1]))
        rules.setdefault(head, []).append(change)
    last = len(dimensions) - 1
    by_tail: dict[tuple[str, ...], list[tuple[Labels, list[Change]]]] = {}
    for head, own in rules.items():
        tail = (ANY,) if last in free else tuple(_merged(change.labels[-1] for change in own))
        by_tail.setdefault(tail, []).append((head, own))
    for tail, heads in by_tail.items():
        for values in _rectangles([head for head, _ in heads]):
            inside = [
                c for head, own in heads for c in own if all(_in(v, d) for v, d in zip(head, values, strict=True))
            ]
            refusals = [change.refusal for change in inside if change.refusal]
            facts = (*zip(dimensions[:-1], values, strict=True), (dimensions[-1], tail))
            yield Box(
                facts,
                tuple(dict.fromkeys(refusal.rule for refusal in refusals)),
                tuple(dict.fromkeys(refusal.location for refusal in refusals)),
            )


def _free_dimensions(points: set[Labels], every: Sequence[Labels], count: int) -> set[int]:
    """The dimensions whose label does not matter: with one label of it, all are among the points, or there is one."""
    free: set[int] = set()
    for index in range(count):
        if {labels[index] for labels in every} == {OTHER}:
            free.add(index)
        values: dict[Labels, set[Label]] = {}
        inside: dict[Labels, set[Label]] = {}
        for labels in every:
            rest = labels[:index] + labels[index + 1 :]
            values.setdefault(rest, set()).add(labels[index])
            if labels in points:
                inside.setdefault(rest, set()).add(labels[index])
        if all(len(values[rest]) > 1 and found == values[rest] for rest, found in inside.items()):
            free.add(index)
    return free


def _rectangles(heads: Sequence[Labels]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Heads as products: along the last of their dimensions, those that agree in all others are put together."""
    if not heads or not heads[0]:
        yield ()
        return
    by_rest: dict[Labels, list[Label]] = {}
    for head in heads:
        by_rest.setdefault(head[:-1], []).append(head[-1])
    by_values: dict[tuple[str, ...], list[Labels]] = {}
    for rest, labels in by_rest.items():
        by_values.setdefault(tuple(_merged(labels)), []).append(rest)
    for values, rests in by_values.items():
        for outer in _rectangles(rests):
            yield (*outer, values)


def _in(label: Label, values: tuple[str, ...]) -> bool:
    return (label if isinstance(label, str) else label.label) in values or isinstance(label, Span)


def _merged(labels: Iterable[Label]) -> list[str]:
    """Labels once each, successive ranges put together."""
    once = list(dict.fromkeys(labels))
    texts: list[str] = [label for label in once if isinstance(label, str)]
    ranges = sorted((label for label in once if isinstance(label, Span)), key=lambda span: span.order)
    for _, run in groupby(enumerate(ranges), key=lambda pair: pair[1].order - pair[0]):
        inside = [span for _, span in run]
        texts.append(words(inside[0].low, inside[-1].high))
    return list(dict.fromkeys(texts))


def plain(difference: Difference) -> dict[str, Any]:
    """A difference as JSON values, with every label."""
    sections: dict[str, Any] = {"allowed": [], "denied": []}
    for group in groups(difference):
        for box in group.boxes:
            facts = {name: list(values) for name, values in box.facts}
            sections[group.direction].append({"facet": group.facet, "facts": facts, "rules": list(box.rules)})
    return {
        "looser": difference.looser,
        "same": difference.same,
        "newly_allowed": sections["allowed"],
        "newly_denied": sections["denied"],
        "nothing_allowed": [{"facet": name, "policy": index + 1} for name, index in difference.everything],
        "fields": [{"field": f.path, "before": f.before, "after": f.after} for f in difference.fields],
    }


def lines(difference: Difference, shown: int = 12) -> Iterator[str]:
    """A difference for people; of long lists the first `shown` labels."""
    for direction, title in (("allowed", "newly allowed"), ("denied", "newly denied")):
        own = [group for group in groups(difference) if group.direction == direction]
        yield f"{title}:" if own else f"{title}: nothing"
        for group in own:
            yield f"  {group.facet}"
            for box in group.boxes:
                facts = ", ".join(f"{name} {_listed(values, shown)}" for name, values in box.facts if values != (ANY,))
                refused = "refused before by" if direction == "allowed" else "refused now by"
                by = f" ({refused} {', '.join(box.rules)})" if box.rules else ""
                yield f"    {facts or 'all'}{by}"
    for name, index in difference.everything:
        yield f"note: the {('first', 'second')[index]} policy refuses every {name}"
    if difference.fields:
        yield "fields that differ:"
        for field in difference.fields:
            yield f"  {field.path}: {field.before or 'absent'} -> {field.after or 'absent'}"


def _listed(values: Sequence[str], shown: int) -> str:
    rest = len(values) - shown
    text = "; ".join(values[:shown]) if any(" " in value for value in values[:shown]) else ", ".join(values[:shown])
    return f"{text} and {rest} more" if rest > 0 else text
