"""A run's events: what an operator follows live and reads afterwards, one JSON object a line."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
FINAL = frozenset({"run.completed", "run.failed", "run.refused", "run.stopped"})


class EventLog:
    """Events of one run, in memory and in a file; several threads may write and wait."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._events: list[Event] = []
        self._changed = threading.Condition()
        self._ended = False

    def emit(self, kind: str, **fields: Any) -> None:
        """Append one event and wake whoever waits for it."""
        event = {"event": kind, "time": datetime.now(UTC).isoformat(), **fields}
        with self._changed:
            event["number"] = len(self._events) + 1
            self._events.append(event)
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
            self._ended = self._ended or kind in FINAL
            self._changed.notify_all()

    def after(self, number: int, timeout: float) -> tuple[list[Event], bool]:
        """Events with a higher number, waiting up to `timeout` seconds for the first; and whether the run has ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > number or self._ended, timeout)
            return self._events[number:], self._ended

    @property
    def last(self) -> Mapping[str, Any]:
        """The newest event."""
        with self._changed:
            return self._events[-1] if self._events else {}

    def close(self) -> None:
        """Close the file; waiting readers are let go."""
        with self._changed:
            self._ended = True
            self._file.close()
            self._changed.notify_all()
