"""Spans of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

from federation.errors import UsageError

_SPAN = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str) -> timedelta:
    """Read a number with a unit: `90s`, `15m`, `12h` or `30d`; raises UsageError."""
    found = _SPAN.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"got duration {text[:50]!r}, expected a number and s, m, h or d, such as 30d")
    return timedelta(**{_UNIT[found[2]]: int(found[1])})


def say_duration(span: timedelta) -> str:
    """The largest whole unit that a span fills: `29 days`, `11 hours`, `40 seconds`."""
    seconds = int(span.total_seconds())
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if abs(seconds) >= size:
            count = int(seconds / size)
            return f"{count} {name}" + ("" if abs(count) == 1 else "s")
    return f"{seconds} second" + ("" if abs(seconds) == 1 else "s")
