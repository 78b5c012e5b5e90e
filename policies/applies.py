"""What the laws that a policy says apply ask it to say at least; pure over the model and the dated table of floors."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from policies.calendar import Duration
from policies.document import Closed, Document
from policies.errors import Problem
from policies.tree import PathKey
from policies.vocabulary import Floor, Law, law_table
from policies.vocabulary.places import members, place_name
from policies.wording import listed

Path = tuple[PathKey, ...]


def below_the_law(document: Document[Closed]) -> list[Problem]:
    """Each floor of a law under `applies` that the policy is below, at the field, or at the law where it has none."""
    codes: Sequence[str] = getattr(document.model, "applies", ())
    return [
        problem
        for index, code in enumerate(codes)
        for floor in law_table().laws[code].floors
        for problem in _problems(document, law_table().laws[code], floor, ("applies", index))
    ]


def _problems(document: Document[Closed], law: Law, floor: Floor, applies: Path) -> Iterator[Problem]:
    for path, value in _resolve(document.model, floor.field.split(".")):
        below = _below(floor, value)
        if below is None or _lifted(document.model, floor, path):
            continue
        found, expected = below
        absent = value is None or value == ()
        where = document.root.locate(applies if absent else path)
        field = ".".join(map(str, path))
        lifts = f" (or {' or '.join(floor.unless)})" if floor.unless else ""
        message = f"got {found} as {field}, expected {expected}{lifts}: {floor.because} ({law.name}, {floor.provision})"
        yield Problem(*where, message, document.source)


def _below(floor: Floor, value: object) -> tuple[str, str] | None:
    """What was found and what is expected, where a value is below a floor."""
    texts = _texts(value)
    if floor.present:
        return ("nothing", "this field") if value is None or texts == () else None
    if floor.at_least is not None:
        enough = isinstance(value, Duration) and value.covers(floor.at_least)
        return None if enough else (str(value or "nothing"), f"at least {floor.at_least}")
    if floor.any_of is not None:
        met = any(text.startswith(floor.any_of) for text in texts or ())
        return None if met else (listed(texts or ()), f"one that begins with {' or '.join(floor.any_of)}")
    if floor.all_of is not None:
        missing = [name for name in floor.all_of if name not in (texts or ())]
        return (listed(texts or ()), f"also {listed(missing)}") if missing else None
    places, bounds = _countries(texts), members(floor.within or floor.outside or ())
    beyond = sorted(places - bounds if floor.within else places & bounds)
    if not beyond or value is None:
        return None
    direction = "within" if floor.within else "outside"
    named = listed(place_name(code) for code in floor.within or floor.outside or ())
    return listed(place_name(code) for code in beyond), f"countries {direction} {named}"


def _lifted(model: BaseModel, floor: Floor, path: Path) -> bool:
    for condition in floor.unless:
        field, _, beginning = condition.partition("=")
        for _, value in _resolve(model, _aligned(field.split("."), floor.field.split("."), path)):
            texts = _texts(value)
            if any(text.startswith(beginning) for text in texts or ()) if beginning else value and texts != ():
                return True
    return False


def _aligned(pattern: Sequence[str], other: Sequence[str], path: Path) -> list[str]:
    """A pattern with its `*` in the place of those that another pattern had for the same beginning."""
    same = 0
    while same < min(len(pattern), len(other)) and pattern[same] == other[same]:
        same += 1
    return [*map(str, path[:same]), *pattern[same:]]


def _resolve(value: Any, pattern: Sequence[str], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values at a dotted path, `*` for every key; None for a field that the policy leaves out."""
    if not pattern:
        yield path, value
        return
    head, *rest = pattern
    entries = dict(value) if isinstance(value, BaseModel | dict) else {}
    if head == "*":
        for key, inner in entries.items():
            if inner is not None:
                yield from _resolve(inner, rest, (*path, key))
    elif head in entries and entries[head] is not None:
        yield from _resolve(entries[head], rest, (*path, head))
    else:
        yield (*path, *pattern), None


def _texts(value: object) -> tuple[str, ...] | None:
    """A value as texts: itself, its items, or the names of its items."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, tuple):
        return tuple(str(getattr(item, "name", item)) for item in value)
    return None


def _countries(texts: tuple[str, ...] | None) -> frozenset[str]:
    return members(texts or ())
