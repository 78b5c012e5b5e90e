"""How much of what is refused enters the log: all of it, up to so many a minute, and then how many more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime


class RefusalBudget:
    """At most so many refusals a minute enter the log, so that a stranger cannot fill the disk; thread-safe."""

    def __init__(self, per_minute: int = 120, on_suppressed: Callable[[int], None] = lambda _: None) -> None:
        self._per_minute = per_minute
        self._on_suppressed = on_suppressed
        self._minute = -1
        self._used = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more refusal may be recorded in this minute."""
        with self._lock:
            suppressed = self._turn()
            self._used += 1
            allowed = self._used <= self._per_minute
        self._tell(suppressed)
        return allowed

    def settle(self) -> None:
        """Report what was left out, where its minute is over."""
        with self._lock:
            suppressed = self._turn()
        self._tell(suppressed)

    def _turn(self) -> int:
        minute = int(datetime.now(UTC).timestamp() // 60)
        if minute == self._minute:
            return 0
        suppressed = max(0, self._used - self._per_minute)
        self._minute, self._used = minute, 0
        return suppressed

    def _tell(self, suppressed: int) -> None:
        if suppressed:
            self._on_suppressed(suppressed)
