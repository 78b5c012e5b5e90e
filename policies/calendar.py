"""Time as policies write it: durations (ISO 8601) and weekly windows in local time."""

import calendar
import datetime as dt
import re
import zoneinfo
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from policies.scalars import misfit
from policies.wording import nearest

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTES_A_DAY: Final = 24 * 60

_DURATION = re.compile(
    r"P(?=.)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?"
    r"(?:T(?=.)(?:(\d{1,5})H)?(?:(\d{1,5})M)?(?:(\d{1,6})S)?)?",
    re.ASCII,
)
_WINDOW = re.compile(r"(\S+) (\d\d):(\d\d)-(\d\d):(\d\d) (\S+)", re.ASCII)
_OF_THE_MACHINE = re.compile(r"(posix|right)/.*|localtime|posixrules")
"""Zones that some machines have files for: what they say differs from machine to machine, or counts leap seconds."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of the calendar: whole months and seconds, `text` as it was written.

    A year is 12 months, a week 7 days and a day 24 hours; how long a month is depends on where it is counted from.
    """

    text: str = field(compare=False)
    months: int
    seconds: int

    def __str__(self) -> str:
        return self.text

    def before(self, moment: dt.datetime) -> dt.datetime:
        """The time this long before a moment (aware; in UTC), on the same day of an earlier month or its last day."""
        return _shift(moment, -self.months) - dt.timedelta(seconds=self.seconds)

    def after(self, moment: dt.datetime) -> dt.datetime:
        """The time this long after a moment (aware; in UTC), on the same day of a later month or its last day."""
        return _shift(moment, self.months) + dt.timedelta(seconds=self.seconds)

    def covers(self, other: "Duration") -> bool:
        """Whether this is at least as long as another, wherever the two are counted from."""
        months, seconds = self.months - other.months, self.seconds - other.seconds
        if months >= 0 and seconds >= 0:
            return True
        # Where one has more months and the other more days, the months count for the fewest days they can have.
        return _fewest_days(months) * 86400 + seconds >= 0


def _fewest_days(months: int) -> int:
    """The fewest days that a number of months can have; for a negative number, minus the most."""
    if months < 0:
        return -(-months // 12 * 366 + (-months % 12) * 31)
    return months // 12 * 365 + (months % 12) * 28


def _shift(moment: dt.datetime, months: int) -> dt.datetime:
    moment = moment.astimezone(dt.UTC)
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if not dt.MINYEAR <= year <= dt.MAXYEAR - 1:
        return dt.datetime(dt.MINYEAR if year < dt.MINYEAR else dt.MAXYEAR - 1, 1, 2, tzinfo=dt.UTC)
    last = calendar.monthrange(year, month + 1)[1]
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last))


def parse_duration(value: object) -> Duration:
    """Read `P10Y`, `P6M`, `P7D`, `PT12H` (ISO 8601); raises a pydantic error for another form, or for no time."""
    if isinstance(value, Duration):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, str) and match:
        years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = (weeks * 7 + days) * 86400 + hours * 3600 + minutes * 60 + seconds
        if total or years or months:
            return Duration(value, years * 12 + months, total)
    raise misfit("a duration of ISO 8601 above zero, such as P10Y, P6M, P7D or PT12H")


@dataclass(frozen=True, slots=True)
class Window:
    """A weekly window of local time: days on which it begins (Monday is 0), minutes of the day, a time zone.

    `end` is not part of the window; where it is not after `start`, the window ends on the following day.
    """

    text: str
    days: frozenset[int]
    start: int
    end: int
    zone: zoneinfo.ZoneInfo = field(compare=False)

    def __str__(self) -> str:
        return self.text

    def contains(self, moment: dt.datetime) -> bool:
        """Whether the clock on the wall of the zone is in the window at a moment (aware).

        The hour that a change to winter time repeats is in it twice, the one that summer time leaves out never.
        """
        local = moment.astimezone(self.zone)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or ((today - 1) % 7 in self.days and minute < self.end)


def parse_window(value: object) -> Window:
    """Read `Mon-Fri 18:00-06:00 Europe/Berlin`; raises a pydantic error that says which part does not fit."""
    if isinstance(value, Window):
        return value
    expected = "days, times and a time zone such as Mon-Fri 18:00-06:00 Europe/Berlin"
    match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    if match is None or not isinstance(value, str):
        raise misfit(expected)
    days, *clock, name = match.groups()
    start_hour, start_minute, end_hour, end_minute = map(int, clock)
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= MINUTES_A_DAY or end > MINUTES_A_DAY:
        raise misfit(expected, advice="times go from 00:00 to 24:00")
    if start == end:
        raise misfit(expected, advice="the window is empty; a whole day is 00:00-24:00")
    return Window(value, _days(days, expected), start, end, _zone(name, expected))


def _days(text: str, expected: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        for day in (first, last or first):
            if day not in DAYS:
                raise misfit(expected, advice=f"days are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        found |= {(begin + step) % 7 for step in range((DAYS.index(last or first) - begin) % 7 + 1)}
    return frozenset(found)


def _zone(name: str, expected: str) -> zoneinfo.ZoneInfo:
    try:
        if _OF_THE_MACHINE.fullmatch(name):
            raise ValueError(name)
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        close = nearest(name, zoneinfo.available_timezones())
        advice = f"the zone may be {close}" if close else "the zone is a name of the IANA time zone database"
        raise misfit(expected, advice=advice) from None


IsoDuration = Annotated[
    Duration,
    PlainValidator(parse_duration),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": "^P([0-9]+[YMWD])*(T([0-9]+[HMS])+)?$"}),
]
"""A duration, `P1Y`."""

WeeklyWindow = Annotated[
    Window,
    PlainValidator(parse_window),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z,-]+ \d\d:\d\d-\d\d:\d\d \S+$"}),
]
"""A weekly window of local time, `Mon-Fri 18:00-06:00 Europe/Berlin`."""
