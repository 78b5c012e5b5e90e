"""What a long-running process says on its standard error: sentences for people, or one JSON object a line.

The sentences are the kit's own: of members, addresses, rules and digests, never of a row or a person.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum

Say = Callable[[str], None]


class LogFormat(StrEnum):
    """How lines on standard error are written."""

    TEXT = "text"
    JSON = "json"


def speaker(form: LogFormat, component: str) -> Say:
    """How a process says a sentence; with JSON also what libraries log, from warnings upwards, takes that form."""
    if form is LogFormat.TEXT:
        return _write
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(component))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
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


def _write(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
