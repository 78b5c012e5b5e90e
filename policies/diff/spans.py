"""Ranges in which a rule cannot change its mind, each with one value to ask about and a label.

A rule compares a fact with thresholds of the policy. Between two neighbouring thresholds of either policy it says
the same of every value, so one value of each range, and each threshold itself, tell all.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from policies.calendar import DAYS, Duration, Window

DAY = dt.timedelta(days=1)
MINUTE = dt.timedelta(minutes=1)
WEEKS = 53


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a fact, `sample` a value in it; `order` sorts ranges, neighbours have successive numbers.

    `low` and `high` are the words for its ends, None where it has no end.
    """

    sample: Any
    order: int
    low: str | None
    high: str | None

    @property
    def label(self) -> str:
        """The range in words: `50`, `51 to 100`, `from 101`, `up to 0`."""
        return words(self.low, self.high)


def words(low: str | None, high: str | None) -> str:
    """A range by its ends."""
    if low is None and high is None:
        return "any"
    if high is None:
        return f"from {low}" if not str(low).startswith("above") else str(low)
    if low is None:
        return f"up to {high}" if not str(high).startswith("below") else str(high)
    return low if low == high else f"{low} to {high}"


def whole(thresholds: Iterable[int | None]) -> tuple[Span, ...]:
    """Ranges of whole numbers around thresholds."""
    cuts = sorted({t + step for t in thresholds if t is not None for step in (-1, 0, 1)} | {-1, 0, 1})
    spans = [Span(cuts[0], 0, None, str(cuts[0]))]
    for index, (low, after) in enumerate(pairwise(cuts[1:]), 1):
        spans.append(Span(low, index, str(low), str(after - 1)))
    spans.append(Span(cuts[-1], len(spans), str(cuts[-1]), None))
    return tuple(spans)


def real(thresholds: Iterable[float | None]) -> tuple[Span, ...]:
    """Ranges of real numbers around thresholds: each threshold by itself, and the open ranges between."""
    cuts = sorted({float(t) for t in thresholds if t is not None} | {0.0})
    spans = [Span(cuts[0] - 1, 0, None, f"below {cuts[0]:g}")]
    for low, high in zip(cuts, [*cuts[1:], None], strict=True):
        spans.append(Span(low, len(spans), f"{low:g}", f"{low:g}"))
        middle = low + 1 if high is None else (low + high) / 2
        spans.append(Span(middle, len(spans), f"above {low:g}", None if high is None else f"below {high:g}"))
    return tuple(spans)


def days(dates: Iterable[dt.date | None]) -> tuple[Span, ...]:
    """Ranges of days (UTC) around dates; the sample is noon of the first day."""
    known = {date for date in dates if date is not None}
    cuts = sorted(known | {date + DAY for date in known if date < dt.date.max})
    if not cuts:
        return (Span(_noon(dt.date(2000, 1, 1)), 0, None, None),)
    spans = [Span(_noon(cuts[0] - DAY), 0, None, str(cuts[0] - DAY))]
    for low, after in pairwise(cuts):
        spans.append(Span(_noon(low), len(spans), str(low), str(after - DAY)))
    spans.append(Span(_noon(cuts[-1]), len(spans), str(cuts[-1]), None))
    return tuple(spans)


def ages(durations: Iterable[Duration | None], now: dt.datetime, *, ahead: bool = False) -> tuple[Span, ...]:
    """Ranges of time before `now` (or after it) around durations; the sample is the moment so long ago (or ahead)."""
    known = sorted({d.after(now) - now if ahead else now - d.before(now): str(d) for d in durations if d}.items())
    sign = 1 if ahead else -1
    second = dt.timedelta(seconds=1)
    spans = [Span(now - sign * second, 0, None, "below P0D"), Span(now, 1, "P0D", "P0D")]
    before, name = dt.timedelta(0), "P0D"
    for length, text in known:
        spans.append(Span(now + sign * (before + length) / 2, len(spans), f"above {name}", f"below {text}"))
        spans.append(Span(now + sign * length, len(spans), text, text))
        before, name = length, text
    spans.append(Span(now + sign * (before + second), len(spans), f"above {name}", None))
    return tuple(spans)


def week(windows: Iterable[Window], start: dt.datetime) -> tuple[Span, ...]:
    """Ranges of time, over a year from `start`, in which no window opens or closes; the sample is the first minute.

    A year holds both changes of the clock of every zone. The labels are local times of the first window's zone.
    """
    every = tuple(windows)
    if not every:
        return (Span(start, 0, None, None),)
    end = start + WEEKS * 7 * DAY
    cuts = {start}
    for window in every:
        day = start.astimezone(window.zone).date() - DAY
        while day <= end.date() + DAY:
            for minute in (window.start, window.end % 1440, 0):
                cuts |= _moments(day, minute, window)
            day += DAY
    ordered = sorted(cut for cut in cuts if start <= cut < end)
    zone = every[0].zone
    return tuple(
        Span(low, index, _local(low.astimezone(zone)), _local(high.astimezone(zone)))
        for index, (low, high) in enumerate(zip(ordered, [*ordered[1:], end], strict=True))
    )


def _moments(day: dt.date, minute: int, window: Window) -> set[dt.datetime]:
    """The moments (UTC) at which the clock of a zone shows a minute of a day: one, two in a repeated hour.

    A time that the clock leaves out gives the moments around the gap.
    """
    local = dt.datetime.combine(day, dt.time(minute // 60, minute % 60))
    return {local.replace(tzinfo=window.zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1)} | _changes(
        day, window.zone
    )


@lru_cache(maxsize=2000)
def _changes(day: dt.date, zone: dt.tzinfo) -> frozenset[dt.datetime]:
    """The moment of a day at which the zone's clock is changed, if it is changed on that day, to the minute."""
    first = dt.datetime.combine(day, dt.time(0), zone).astimezone(dt.UTC)
    last = dt.datetime.combine(day + DAY, dt.time(0), zone).astimezone(dt.UTC)
    if last - first == DAY:
        return frozenset()
    low, high = 0, int((last - first) / MINUTE)
    offset = first.astimezone(zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        same = (first + middle * MINUTE).astimezone(zone).utcoffset() == offset
        low, high = (middle, high) if same else (low, middle)
    return frozenset((first + high * MINUTE,))


def _local(moment: dt.datetime) -> str:
    return f"{DAYS[moment.weekday()]} {moment:%H:%M}"


def _noon(date: dt.date) -> dt.datetime:
    return dt.datetime.combine(date, dt.time(12), dt.UTC)
