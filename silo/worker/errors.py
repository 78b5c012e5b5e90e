"""What a worker tells its gate when it cannot do what was asked; such a sentence never holds a value of the data."""

from __future__ import annotations

from federation.errors import ConcordatError


class WorkError(ConcordatError):
    """The work cannot be done."""


class DataError(WorkError):
    """The data source is absent, unreadable or not what the run needs."""


class AppError(WorkError):
    """The app bundle cannot be unpacked, imported or asked for its model."""
