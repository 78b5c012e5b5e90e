"""Windows and durations at the edges of the calendar: clocks that change, days that are short or long, odd zones."""

import datetime as dt
import zoneinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from policies.calendar import DAYS, MINUTES_A_DAY, Window, parse_duration, parse_window
from policies.scalars import _iso_date

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # changes by half an hour
    "Africa/Casablanca",  # winter time in summer, for Ramadan
    "America/Nuuk",  # changes in the evening
    "Asia/Kathmandu",
    "Pacific/Apia",  # left out a whole Friday in 2011
    "Africa/Monrovia",
    "Etc/GMT+12",
    "Pacific/Kiritimati",
    "UTC",
]
MOMENTS = st.datetimes(dt.datetime(2009, 1, 1), dt.datetime(2037, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
MINUTES = st.integers(0, MINUTES_A_DAY - 1)


def window(days: str, start: int, end: int, zone: str) -> Window:
    clock = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    return parse_window(f"{days} {clock} {zone}")


@given(st.sampled_from(ZONES), st.sets(st.sampled_from(DAYS), min_size=1), MINUTES, MINUTES, MOMENTS)
def test_a_window_is_what_the_clock_on_the_wall_says(
    zone: str, days: set[str], start: int, end: int, moment: dt.datetime
) -> None:
    if start == end:
        return
    found = window(",".join(days), start, end, zone)
    local = moment.astimezone(ZoneInfo(zone))
    minute, today, before = local.hour * 60 + local.minute, DAYS[local.weekday()], DAYS[local.weekday() - 1]
    expected = today in days and start <= minute < end
    if start > end:
        expected = (today in days and minute >= start) or (before in days and minute < end)
    assert found.contains(moment) is expected
    # Whatever zone the moment is told in.
    assert found.contains(local) is expected
    assert found.contains(moment.astimezone(ZoneInfo("Asia/Tokyo"))) is expected


@pytest.mark.parametrize(
    ("day", "hours"), [(dt.date(2026, 3, 29), 23), (dt.date(2026, 10, 25), 25), (dt.date(2026, 6, 7), 24)]
)
def test_a_whole_day_is_as_long_as_it_is(day: dt.date, hours: int) -> None:
    """The days on which clocks change have 23 and 25 hours; the window is the whole of each and nothing else."""
    found = parse_window("Sun 00:00-24:00 Europe/Berlin")
    begin = dt.datetime.combine(day, dt.time(), ZoneInfo("Europe/Berlin")).astimezone(dt.UTC)
    inside = [found.contains(begin + dt.timedelta(minutes=minute)) for minute in range(-60, 27 * 60)]
    assert inside == [False] * 60 + [True] * (hours * 60) + [False] * ((27 - hours) * 60)


def test_an_hour_that_is_left_out_is_never_and_one_that_comes_twice_is_twice() -> None:
    found = parse_window("Sun 02:00-03:00 Europe/Berlin")

    def minutes(day: dt.datetime) -> int:
        return sum(found.contains(day + dt.timedelta(minutes=minute)) for minute in range(1440))

    assert minutes(dt.datetime(2026, 3, 28, 23, tzinfo=dt.UTC)) == 0
    assert minutes(dt.datetime(2026, 10, 24, 22, tzinfo=dt.UTC)) == 120
    assert minutes(dt.datetime(2026, 11, 7, 23, tzinfo=dt.UTC)) == 60


@pytest.mark.parametrize(("day", "hours"), [(dt.date(2026, 3, 28), 11), (dt.date(2026, 10, 24), 13)])
def test_a_night_over_the_change_of_clocks_has_no_hole_and_no_second_half(day: dt.date, hours: int) -> None:
    found = parse_window("Sat 18:00-06:00 Europe/Berlin")
    begin = dt.datetime.combine(day, dt.time(18), ZoneInfo("Europe/Berlin")).astimezone(dt.UTC)
    inside = [found.contains(begin + dt.timedelta(minutes=minute)) for minute in range(-60, 16 * 60)]
    assert inside == [False] * 60 + [True] * (hours * 60) + [False] * ((16 - hours) * 60)


def test_a_day_that_a_zone_left_out_is_in_no_window() -> None:
    found = parse_window("Fri 00:00-24:00 Pacific/Apia")
    begin = dt.datetime(2011, 12, 29, 10, tzinfo=dt.UTC)  # Thursday, 00:00 there; Saturday follows
    assert not any(found.contains(begin + dt.timedelta(minutes=minute)) for minute in range(48 * 60))


@pytest.mark.parametrize(
    "text",
    [
        "Sun 23:59:60-24:00 UTC",
        "Sun 24:00-06:00 UTC",
        "Sun 00:00-24:01 UTC",
        "Sun 00:60-02:00 UTC",
        "Sun 25:00-26:00 UTC",
        "Sun 06:00-06:00 UTC",
        "Sun 00:00-00:00 UTC",
        "Sun -1:00-02:00 UTC",
        "Sun 6:00-07:00 UTC",
        "Sun \u0661\u0668:\u0660\u0660-\u0661\u0669:\u0660\u0660 UTC",
        "Sun 18:00\u201319:00 UTC",
        "Sun  18:00-19:00 UTC",
        "Sun 18:00-19:00 UTC\n",
        "\u00a0Sun 18:00-19:00 UTC",
        "sun 18:00-19:00 UTC",
        "Sun, 18:00-19:00 UTC",
        "Mon-Fri-Sun 18:00-19:00 UTC",
        "-Sun 18:00-19:00 UTC",
        "18:00-19:00 UTC",
        "Sun 18:00-19:00",
    ],
)
def test_a_window_that_names_no_time_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        parse_window(text)


@pytest.mark.parametrize(
    "zone",
    [
        "../../etc/passwd",
        "../zoneinfo/Europe/Berlin",
        "Europe/../Europe/Berlin",
        "/usr/share/zoneinfo/Europe/Berlin",
        "Europe//Berlin",
        "./UTC",
        "Europe",
        "Europe/",
        "Mars/Olympus",
        "zone.tab",
        "tzdata.zi",
        "leapseconds",
        "localtime",
        "right/Europe/Berlin",
        "posix/Europe/Berlin",
        "posixrules",
        "\x00",
        "UTC\x00",
        "x" * 5000,
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "UTC+2",
        "+02:00",
        "Z",
    ],
)
def test_a_zone_that_is_no_name_of_the_database_is_refused(zone: str) -> None:
    """Also one that only this machine's files know: every silo reads the same policy alike."""
    with pytest.raises(PydanticCustomError):
        parse_window(f"Sun 18:00-19:00 {zone}")


def test_every_zone_of_the_database_can_be_named() -> None:
    for zone in zoneinfo.available_timezones():
        if zone != "localtime":
            parse_window(f"Mon 00:00-24:00 {zone}")


@pytest.mark.parametrize(
    "text", ["P-1Y", "-P1Y", "P1Y-1M", "P\u0661Y", "P1,5Y", "P1Y\n", "P99999Y", "PT9999999S", "P0Y0M0D"]
)
def test_a_duration_that_is_negative_or_odd_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment", "before", "after"),
    [
        ("P1Y", (2028, 2, 29), (2027, 2, 28), (2029, 2, 28)),
        ("P4Y", (2028, 2, 29), (2024, 2, 29), (2032, 2, 29)),
        ("P1M", (2027, 3, 31), (2027, 2, 28), (2027, 4, 30)),
        ("P1M", (2028, 3, 31), (2028, 2, 29), (2028, 4, 30)),
        ("P1M", (2027, 1, 31), (2026, 12, 31), (2027, 2, 28)),
        ("P12M", (2028, 2, 29), (2027, 2, 28), (2029, 2, 28)),
        ("P100Y", (2000, 2, 29), (1900, 2, 28), (2100, 2, 28)),
    ],
)
def test_a_span_from_a_day_that_the_other_month_lacks_ends_on_its_last_day(
    text: str, moment: tuple[int, int, int], before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    at = dt.datetime(*moment, 12, tzinfo=dt.UTC)
    assert parse_duration(text).before(at) == dt.datetime(*before, 12, tzinfo=dt.UTC)
    assert parse_duration(text).after(at) == dt.datetime(*after, 12, tzinfo=dt.UTC)


@given(MOMENTS, st.integers(1, 60), st.integers(0, 400))
def test_what_is_later_is_never_counted_from_earlier(moment: dt.datetime, months: int, hours: int) -> None:
    """A debit does not leave its window before an earlier one: else waiting would give back what was spent after."""
    span = parse_duration(f"P{months}M")
    later = moment + dt.timedelta(hours=hours)
    assert span.before(moment) <= span.before(later)
    assert span.after(moment) <= span.after(later)
    assert span.before(moment) < moment < span.after(moment)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29",
        "2026-13-01",
        "2026-00-10",
        "0000-01-01",
        "\uff12\uff10\uff12\uff16-01-01",
        "2026-1-1",
        "2026-W01-1",
    ],
)
def test_a_date_that_is_not_in_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(PydanticCustomError):
        _iso_date(text)
