"""What a worker tells its gate when it cannot do what was asked; such a sentence never holds a value of the data."""

from __future__ import annotations

from federation.errors import ConcordatError


def kind_of(error: BaseException) -> str:
    """What may be told of an exception raised by submitted code: the name of Python's own kind, never one it chose."""
    kind = type(error)
    return kind.__name__ if kind.__module__ == "builtins" else "an exception of its own"


class WorkError(ConcordatError):
    """The work cannot be done."""


class DataError(WorkError):
    """The data source is absent, unreadable or not what the run needs."""


class AppError(WorkError):
    """The app bundle cannot be unpacked, imported or asked for its model."""
