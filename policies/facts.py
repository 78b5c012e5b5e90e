"""The YAML form of a request: a model derived from each request's dataclass, and back.

A mapping of facts may leave facts out, so that one named request serves many cases; `build` says what is missing.
"""

import dataclasses
import datetime as dt
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, WithJsonSchema, create_model

from policies.document import Closed
from policies.request import Request
from policies.scalars import IsoDate, misfit

STAGES: dict[str, type[object]] = {kind.__name__.lower(): kind for kind in get_args(Request)}
"""The dataclass of a request by the name of its stage."""

Facts = Mapping[str, object]


class MissingFactsError(ValueError):
    """Facts that a request needs and that no one gave; carries their dotted names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class FactsModel(Closed):
    """The base of the derived models; a fact may be infinite or not a number, as a faulty update's norm is."""

    model_config = ConfigDict(allow_inf_nan=True)


def _moment(value: object) -> dt.datetime:
    moment = value if isinstance(value, dt.datetime) else None
    if isinstance(value, str) and "T" in value:
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            moment = None
    if moment is None or moment.utcoffset() is None:
        raise misfit("a time with its zone such as 2026-11-20T12:00:00Z")
    return moment


Moment = Annotated[dt.datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time with its zone, `2026-11-20T12:00:00Z`."""


@cache
def facts_model(kind: type[Any], *, partial: bool = True) -> type[FactsModel]:
    """The model of a dataclass's facts; with `partial` each may be left out, also those of a nested dataclass."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        form = _form(field.type, partial=partial)
        optional = partial or not _required(field)
        fields[field.name] = (form | None, None) if optional else (form, ...)
    name = f"{kind.__name__}{'Facts' if partial else ''}"
    return cast(type[FactsModel], create_model(name, __base__=FactsModel, __doc__=kind.__doc__, **fields))


def stages_model(name: str, base: type[Closed]) -> type[Any]:
    """A model with one optional field of facts for each stage, beside the fields of `base`."""
    fields: dict[str, Any] = {stage: (facts_model(STAGES[stage]) | None, None) for stage in STAGES}  # type: ignore[arg-type]
    return create_model(name, __base__=base, __doc__=base.__doc__, **fields)


def given(facts: FactsModel) -> dict[str, object]:
    """The facts that a document gives, as plain values, nested facts as mappings of those that are given."""
    return {name: _given(getattr(facts, name)) for name in facts.model_fields_set}


def merged(base: Facts, over: Facts) -> dict[str, object]:
    """The facts of `base` with those of `over` in their place; nested facts are merged, lists are replaced."""
    out = dict(base)
    for name, value in over.items():
        before = out.get(name)
        nested = isinstance(value, _Nested) and isinstance(before, _Nested)
        out[name] = _Nested(merged(cast(Facts, before), cast(Facts, value))) if nested else value
    return out


def build(stage: str, facts: Facts) -> Request:
    """The request of a stage; raises MissingFactsError."""
    missing: list[str] = []
    request = _build(STAGES[stage], facts, (), missing)
    if missing:
        raise MissingFactsError(tuple(missing))
    return cast(Request, request)


class _Nested(dict[str, object]):
    """The given facts of a nested dataclass, told apart from a fact that is itself a mapping."""


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _form(annotation: Any, *, partial: bool) -> Any:
    """An annotation of a dataclass as one of a model: nested dataclasses become models, dates and times strict text."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return facts_model(annotation, partial=partial)
    if annotation is dt.datetime:
        return Moment
    if annotation is dt.date:
        return IsoDate
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        parts = [_form(part, partial=partial) for part in arguments]
        return Union[tuple(parts)]  # noqa: UP007  built at run time
    if origin is tuple:
        return tuple[tuple(... if part is ... else _form(part, partial=False) for part in arguments)]  # type: ignore[misc]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict[tuple(_form(part, partial=False) for part in arguments)]  # type: ignore[misc]
    return annotation


def _given(value: object) -> object:
    return _Nested(given(value)) if isinstance(value, FactsModel) else value


def _build(kind: type[Any], facts: Facts, path: tuple[str, ...], missing: list[str]) -> object:
    values: dict[str, object] = {}
    for field in dataclasses.fields(kind):
        if field.name in facts:
            values[field.name] = _value(field.type, facts[field.name], (*path, field.name), missing)
        elif _required(field):
            missing.append(".".join((*path, field.name)))
    return None if missing else kind(**values)


def _value(annotation: Any, value: object, path: tuple[str, ...], missing: list[str]) -> object:
    """A given fact as the dataclass holds it."""
    if isinstance(value, _Nested):
        return _build(_dataclass_in(annotation), value, path, missing)
    if isinstance(value, FactsModel):
        return _build(_dataclass_in(annotation), given(value), path, missing)
    if isinstance(value, tuple):
        return tuple(_value(annotation, item, (*path, str(index)), missing) for index, item in enumerate(value))
    if isinstance(value, dict):
        return {name: _value(annotation, item, (*path, str(name)), missing) for name, item in value.items()}
    return value


def _dataclass_in(annotation: Any) -> type[Any]:
    """The dataclass that an annotation such as `tuple[Party, ...]` or `Privacy | None` speaks of."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    for part in get_args(annotation):
        if part is not type(None) and part is not ...:
            return _dataclass_in(part)
    raise TypeError(f"got {annotation}, expected a dataclass in it")
