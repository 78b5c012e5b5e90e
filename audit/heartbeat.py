"""Silence made visible: an entry after so long without one, so that a gap means that no process was there to write."""

from __future__ import annotations

import threading

from audit.entry import Event
from audit.errors import AuditError
from audit.log import AuditLog

HEARTBEAT_SECONDS = 900.0


class Heartbeat:
    """A thread that appends `log.heartbeat` whenever nothing else was appended for that long."""

    def __init__(self, log: AuditLog, actor: str, seconds: float = HEARTBEAT_SECONDS) -> None:
        self._log, self._actor, self._seconds = log, actor, seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once no entry can follow."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait = self._seconds
        while not self._stopping.wait(wait):
            idle = self._log.health.idle_seconds
            if idle >= self._seconds:
                try:
                    self._log.append(
                        Event(self._actor, "log.heartbeat", self._log.origin, detail={"idle_seconds": int(idle)})
                    )
                except AuditError:
                    return  # the log refuses: whoever acts next finds out, and stops
                idle = 0.0
            wait = self._seconds - idle
