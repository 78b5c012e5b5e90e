"""What a worker tells its gate when it cannot do what was asked; such a sentence never holds a value of the data."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from federation.errors import ConcordatError

_OWN_KINDS = (
    (type(None), "NoneType"),
    *((kind, name) for name, kind in vars(builtins).items() if isinstance(kind, type) and kind.__name__ == name),
)
"""Python's own kinds with their names, before any app could change either."""


def kind_of(error: BaseException) -> str:
    """What may be told of an exception raised by submitted code: the name of Python's own kind, never one it chose."""
    return name_of(type(error), _OWN_KINDS, "an exception of its own")


def name_of(found: type, known: Iterable[tuple[object, str]] = _OWN_KINDS, otherwise: str = "something else") -> str:
    """What may be told of a class that submitted code chose: its name where it is a known one, never one it made.

    By identity: a class may say that it is of any module, have any name, and equal any other.
    """
    return next((name for kind, name in known if kind is found), otherwise)


class WorkError(ConcordatError):
    """The work cannot be done."""


class DataError(WorkError):
    """The data source is absent, unreadable or not what the run needs."""


class AppError(WorkError):
    """The app bundle cannot be unpacked, imported or asked for its model."""
