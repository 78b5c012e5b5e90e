"""A model's validation errors as problems at positions of the text."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from policies.errors import Problem
from policies.scalars import Misfit
from policies.tree import Node, PathKey, Position
from policies.wording import listed, nearest, shown, suggestion

_EXPECTED_TYPE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
}
_EXPECTED_BOUND = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
    "string_too_short": ("min_length", "at least {} characters"),
    "string_too_long": ("max_length", "at most {} characters"),
    "too_short": ("min_length", "at least {} in the list"),
    "too_long": ("max_length", "at most {} in the list"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}
_QUOTED = re.compile(r"'([^']*)'")


def problems_of(model: type[BaseModel], root: Node, errors: Iterable[ErrorDetails], source: str) -> Iterator[Problem]:
    """Translate pydantic's errors, leaving out those at values that were refused while reading."""
    for error in errors:
        path = error["loc"]
        if path[-1:] == ("[key]",):
            yield _key(root, path[:-1], error, source)
        elif error["type"] == "missing":
            yield from _missing(model, root, path, source)
        elif error["type"] == "extra_forbidden":
            yield _unknown(model, root, path, source)
        elif error["type"] == "misfit":
            for found in error.get("ctx", {}).get("misfits", ()):
                yield from _misfit(root, path, found, source)
        else:
            yield from _other(root, path, error, source)


def _missing(model: type[BaseModel], root: Node, path: Sequence[PathKey], source: str) -> Iterator[Problem]:
    if _follow(root, path[:-1])[1].faulty:
        return
    name = str(path[-1])
    described = next((info.description for info in _fields(model, path[:-1], name) if info.description), None)
    about = f" ({described.split('. ')[0].rstrip('.')})" if described else ""
    where = f' in "{path[-2]}"' if len(path) > 1 else ""
    message = f'got no "{name}"{where}, expected this field{about}'
    yield Problem(*_follow(root, path[:-1])[0], message, source)


def _unknown(model: type[BaseModel], root: Node, path: Sequence[PathKey], source: str) -> Problem:
    name, parent = str(path[-1]), _follow(root, path[:-1])[1]
    known = sorted(_names(model, path[:-1]))
    free = [field for field in known if field not in (parent.entries or {})]
    message = f'got the unknown field "{shown(name)}", expected one of: {listed(known)}'
    return Problem(*_follow(root, path)[0], message + suggestion(nearest(name, free)), source)


def _key(root: Node, path: Sequence[PathKey], error: ErrorDetails, source: str) -> Problem:
    found = next(iter(error.get("ctx", {}).get("misfits", ())), None)
    expected = found.expected if found else f"another key ({shown(error['msg'])})"
    return Problem(*_follow(root, path)[0], f'got the key "{shown(path[-1])}", expected {expected}', source)


def _misfit(root: Node, path: Sequence[PathKey], found: Misfit, source: str) -> Iterator[Problem]:
    position, node = _follow(root, (*path, *found.at))
    if node.faulty:
        return
    advice = f"; {found.advice}" if found.advice else ""
    got = "a value that may hold a secret" if found.secret else _got(node)
    message = f"got {got}, expected {found.expected}{suggestion(found.meant)}{advice}"
    yield Problem(*_value_position(position, node), message, source)


def _other(root: Node, path: Sequence[PathKey], error: ErrorDetails, source: str) -> Iterator[Problem]:
    position, node = _follow(root, path)
    if node.faulty:
        return
    kind, context = error["type"], error.get("ctx", {})
    advice = ""
    if kind in ("literal_error", "enum"):
        known = _QUOTED.findall(str(context.get("expected", "")))
        expected = f"one of: {listed(known)}" if len(known) > 1 else listed(known)
        advice = suggestion(nearest(str(node.value), known)) if len(known) > 1 else ""
    elif kind in _EXPECTED_TYPE:
        expected = _EXPECTED_TYPE[kind]
        if kind == "string_type" and isinstance(node.value, bool | int | float):
            advice = ": put it in quotes"
    elif kind in _EXPECTED_BOUND:
        key, words = _EXPECTED_BOUND[kind]
        expected = "text" if context.get(key) == 1 and kind == "string_too_short" else words.format(context.get(key))
    else:
        expected = f"another value ({shown(error['msg'])})"
    yield Problem(*_value_position(position, node), f"got {_got(node)}, expected {expected}{advice}", source)


def _got(node: Node) -> str:
    if node.entries is not None:
        return "a mapping"
    if node.items is not None:
        return f"a list of {len(node.items)}" if node.items else "an empty list"
    match node.value:
        case None:
            return "nothing"
        case bool():
            return str(node.value).lower()
        case str():
            return f'"{shown(node.value)}"'
        case _:
            return f"the number {shown(node.value)}"


def _value_position(position: Position, node: Node) -> Position:
    """A scalar is pointed at itself; a collection, or nothing at all, at its key."""
    scalar = node.entries is None and node.items is None
    return node.position if scalar and node.value is not None else position


def _follow(root: Node, path: Sequence[PathKey]) -> tuple[Position, Node]:
    """The node of an error's path; parts that name a branch of a union are passed over."""
    position, node = root.position, root
    for key in path:
        found = node.child(key)
        if found is not None:
            position, node = found
    return position, node


def _names(model: type[BaseModel], path: Sequence[PathKey]) -> set[str]:
    return {info.alias or name for owner in _models(model, path) for name, info in owner.model_fields.items()}


def _fields(model: type[BaseModel], path: Sequence[PathKey], name: str) -> Iterator[FieldInfo]:
    for owner in _models(model, path):
        for field, info in owner.model_fields.items():
            if name in (field, info.alias):
                yield info


def _models(model: type[BaseModel], path: Sequence[PathKey]) -> list[type[BaseModel]]:
    """The models that can stand at a path, found by following annotations."""
    here: list[Any] = [model]
    for key in path:
        further: list[Any] = []
        for annotation in here:
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                fields = annotation.model_fields.items()
                further += [info.annotation for name, info in fields if key in (name, info.alias)]
            else:
                further += get_args(annotation)
        here = [inner for annotation in further for inner in _branches(annotation)] or here
    return [found for found in here if isinstance(found, type) and issubclass(found, BaseModel)]


def _branches(annotation: Any) -> Iterator[Any]:
    """An annotation without its optional, union and metadata wrappers."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
        return
    origin = getattr(annotation, "__origin__", None)
    if origin in (dict, list, tuple, set, frozenset):
        yield annotation
        return
    if isinstance(origin, type) and get_args(annotation):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from _branches(argument)
