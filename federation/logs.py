"""What a long-running process says on its standard error: sentences for people, or one JSON object a line.

The sentences are the kit's own: of members, addresses, rules and digests, never of a row or a person.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

from federation.terminal import printable, say

Say = Callable[[str], None]


class LogFormat(StrEnum):
    """How lines on standard error are written."""

    TEXT = "text"
    JSON = "json"


def speaker(form: LogFormat, component: str) -> Say:
    """How a process says a sentence; what libraries log, from warnings upwards, takes the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TextFormatter() if form is LogFormat.TEXT else _JsonFormatter(component))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    if form is LogFormat.TEXT:
        return tell
    return lambda text: _write(json_line(component, "info", text, datetime.now(UTC)))


def json_line(component: str, level: str, message: str, time: datetime, **more: str) -> str:
    """One line: an object with time (RFC 3339, UTC), level, component and message."""
    stamp = time.astimezone(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": stamp, "level": level, "component": component, "message": message, **more})


class _JsonFormatter(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line; of an exception its kind alone, as its words are not the kit's."""
        time = datetime.fromtimestamp(record.created, UTC)
        more = {"logger": record.name}
        if record.exc_info and record.exc_info[0]:
            more["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            more["at"] = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
        return json_line(self._component, record.levelname.lower(), record.getMessage(), time, **more)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """A record as a line, and of an exception its kind and where it came from: its words are not the kit's."""
        lines = [f"{record.levelname.lower()}: {printable(record.getMessage())}"]
        if record.exc_info and record.exc_info[0]:
            lines[0] += f" ({record.exc_info[0].__name__})"
            frames = traceback.extract_tb(record.exc_info[2])
            lines += [f"    {printable(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames]
        return "\n".join(lines)


def tell(text: str) -> None:
    """Say a sentence on standard error as one line; a process whose standard error is gone goes on."""
    with contextlib.suppress(OSError):
        say(text.rstrip("\n"), err=True)


def _write(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
