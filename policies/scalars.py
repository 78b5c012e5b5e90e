"""Field types of documents: dates, byte sizes, digests, names, lists without repetition."""

import datetime as dt
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from policies.wording import nearest

T = TypeVar("T", bound=Hashable)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?")
_SIZE = re.compile(r"([0-9]{1,18}) ?([A-Za-z]*)")
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for suffix, base, prefixes in (("B", 1000, "kMGT"), ("iB", 1024, "KMGT"))
    for power, prefix in enumerate(prefixes, 1)
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """What a validator found wrong with a value, or with a part of it.

    `at` is the path below the validated value, `meant` the value it was probably meant to be, `advice` what
    to do. A value that may be `secret` is not repeated.
    """

    expected: str
    at: tuple[str | int, ...] = ()
    meant: str | None = None
    advice: str | None = None
    secret: bool = False


def misfits(found: Iterable[Misfit]) -> None:
    """Raise what a validator found, if anything, so that each part is reported at its own position."""
    every = tuple(found)
    if every:
        context: dict[str, Any] = {"misfits": every}
        raise PydanticCustomError("misfit", "got a value that does not fit", context)


def misfit(
    expected: str, meant: str | None = None, advice: str | None = None, *, secret: bool = False
) -> PydanticCustomError:
    """The error for a value that does not fit as a whole."""
    context: dict[str, Any] = {"misfits": (Misfit(expected, meant=meant, advice=advice, secret=secret),)}
    return PydanticCustomError("misfit", "got a value that does not fit", context)


class SchemaWhenAsked:
    """Annotates a field with a JSON Schema that is made when one is asked for, as the tables it names are files."""

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, Any]:
        return self._make()


def _iso_date(value: object) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise misfit("a date of the calendar as YYYY-MM-DD")


def parse_size(value: object) -> int:
    """Read a number of bytes: a whole number, or one with a unit (kB, MB, GB, TB; KiB, MiB, GiB, TiB).

    Raises a pydantic error that names the unit probably meant.
    """
    expected = "a positive number of bytes such as 64MiB, 10kB or 65536"
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        number, unit = match.groups()
        if unit not in _UNITS:
            close = nearest(unit, _UNITS)
            raise misfit(expected, meant=number + close if close else None)
        size = int(number) * _UNITS[unit]
    else:
        raise misfit(expected)
    if size < 1:
        raise misfit(expected)
    return size


def _digest(value: str) -> str:
    if _DIGEST.fullmatch(value):
        return value
    lower = value.strip().lower().removeprefix("sha256:")
    meant = f"sha256:{lower}"
    advice = f"write {meant}" if _DIGEST.fullmatch(meant) else f"this has {len(lower)} after the prefix"
    raise misfit("sha256: and 64 lower-case hex digits", advice=advice)


def _name(value: str) -> str:
    if _NAME.fullmatch(value):
        return value
    raise misfit("a name of at most 64 letters, digits, dots, dashes and underscores")


def _unique(value: tuple[T, ...]) -> tuple[T, ...]:
    first: dict[T, int] = {}
    for index, item in enumerate(value):
        first.setdefault(item, index)
    misfits(
        Misfit("each item once", (index,), advice="remove the repetition")
        for index, item in enumerate(value)
        if first[item] != index
    )
    return value


def repeated(keys: Sequence[str], field: str) -> list[Misfit]:
    """The misfits of a list of mappings in which `field` must not repeat."""
    return [
        Misfit(f"each {field} once", (index, field), advice="remove the repetition")
        for index, key in enumerate(keys)
        if key in keys[:index]
    ]


IsoDate = Annotated[dt.date, BeforeValidator(_iso_date)]
"""A calendar date, `2026-11-01`."""

ByteSize = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^[0-9]{1,18} ?(B|[kMGT]B|[KMGT]iB)?$"},
            ]
        }
    ),
]
"""A number of bytes, `64MiB`, `10kB` or `65536`."""

Sha256 = Annotated[str, AfterValidator(_digest), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
"""A digest, `sha256:` and 64 hex digits."""

Name = Annotated[
    str,
    AfterValidator(_name),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?$"}),
]
"""A short name of letters, digits, dots, dashes and underscores."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""One to 200 characters."""

Unique = AfterValidator(_unique)
"""Refuses a list in which an item repeats."""

PositiveInt = Annotated[int, Field(ge=1)]
"""A whole number from 1."""
