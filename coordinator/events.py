"""A run's events: what an operator follows live and reads afterwards, one JSON object a line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
COORDINATOR = "the coordinator"
"""Who ends a run that no operator ended."""
FINAL = frozenset({"run.completed", "run.failed", "run.refused", "run.stopped"})


class EventLog:
    """Events of one run, in memory and in a file; several threads may write and wait.

    What is in the file already is read, and its numbering goes on; a last line that a crash cut off is removed.
    """

    def __init__(self, path: Path) -> None:
        self._events = _read_back(path)
        self._file = path.open("a", encoding="utf-8")
        self._changed = threading.Condition()
        self._ended = self.final
        self._observer: Callable[[Event], None] | None = None

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Have each later event told to an observer, by the thread that emits it."""
        self._observer = observer

    def emit(self, kind: str, **fields: Any) -> None:
        """Append one event and wake whoever waits for it; raises OSError where the file does not take it."""
        event = {"event": kind, "time": datetime.now(UTC).isoformat(), **fields}
        with self._changed:
            event["number"] = len(self._events) + 1
            self._events.append(event)
            # Whoever waits is told whatever becomes of the file: a full disk is not to keep them waiting for the end.
            self._ended = kind in FINAL
            self._changed.notify_all()
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
            if kind in FINAL or kind == "round.closed":
                os.fsync(self._file.fileno())
        if self._observer is not None:
            self._observer(event)

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

    @property
    def final(self) -> bool:
        """Whether the run has ended: its newest event is one that ends runs."""
        return bool(self._events) and self._events[-1].get("event") in FINAL

    def find(self, kind: str, **fields: Any) -> Event | None:
        """The newest event of a kind with such fields."""
        with self._changed:
            events = list(self._events)
        for event in reversed(events):
            if event.get("event") == kind and all(event.get(name) == value for name, value in fields.items()):
                return event
        return None

    def close(self) -> None:
        """Close the file; waiting readers are let go."""
        with self._changed:
            self._ended = True
            self._file.close()
            self._changed.notify_all()


def _read_back(path: Path) -> list[Event]:
    """The whole lines of a file of events; what follows the last of them is cut off the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    events: list[Event] = []
    whole = 0
    for line in content.splitlines(keepends=True):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n") or not isinstance(event, dict) or event.get("number") != len(events) + 1:
            break
        events.append(event)
        whole += len(line)
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
    return events
