"""What several commands read from their arguments."""

import contextlib
import datetime as dt
from typing import Annotated

import typer

from policies.request import Party

AtOption = Annotated[
    str | None, typer.Option("--at", help="Time of the decision, ISO 8601 with zone.", show_default="now")
]


def moment(text: str | None) -> dt.datetime:
    """The time of --at, or now; raises BadParameter for one without a zone."""
    if text is None:
        return dt.datetime.now(dt.UTC)
    found: dt.datetime | None = None
    with contextlib.suppress(ValueError):
        found = dt.datetime.fromisoformat(text)
    if found is None or found.tzinfo is None:
        raise typer.BadParameter(f"got {text}, expected a time such as 2026-11-20T12:00:00Z", param_hint="--at")
    return found


def names(text: str) -> tuple[str, ...]:
    """Names with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def party(text: str) -> Party:
    """A party as name:role:country; raises BadParameter."""
    parts = text.split(":")
    if len(parts) != 3 or not all(parts):
        raise typer.BadParameter(f"got {text}, expected name:role:country such as hub:coordinator:DE")
    return Party(*parts)
