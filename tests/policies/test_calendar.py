"""Durations and weekly windows: as they are written, over month ends, midnight and the change of clocks."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from policies.calendar import DAYS, Duration, parse_duration, parse_window

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2090, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001
DURATIONS = st.builds(
    lambda y, m, d, h: parse_duration(f"P{y}Y{m}M{d}DT{h}H"),
    st.integers(0, 20),
    st.integers(0, 30),
    st.integers(0, 4000),
    st.integers(1, 100),
)


@pytest.mark.parametrize(
    ("text", "months", "seconds"),
    [
        ("P1Y", 12, 0),
        ("P18M", 18, 0),
        ("P2W", 0, 14 * 86400),
        ("P7D", 0, 7 * 86400),
        ("PT12H", 0, 12 * 3600),
        ("P1Y2M3DT4H5M6S", 14, 3 * 86400 + 4 * 3600 + 5 * 60 + 6),
    ],
)
def test_a_duration_is_read(text: str, months: int, seconds: int) -> None:
    found = parse_duration(text)
    assert (found.months, found.seconds, str(found)) == (months, seconds, text)


@pytest.mark.parametrize("text", ["", "P", "PT", "P0D", "P1H", "1Y", "p1y", "P-1D", "P1.5Y", "P1Y ", "P1YT", 7, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(PydanticCustomError):
        parse_duration(text)


def test_months_end_on_the_last_day_there_is() -> None:
    end = dt.datetime(2027, 3, 31, 12, tzinfo=dt.UTC)
    assert parse_duration("P1M").before(end) == dt.datetime(2027, 2, 28, 12, tzinfo=dt.UTC)
    assert parse_duration("P1Y1M").after(dt.datetime(2027, 1, 31, tzinfo=dt.UTC)) == dt.datetime(
        2028, 2, 29, tzinfo=dt.UTC
    )
    assert parse_duration("P9999Y").before(end).year == 1
    assert parse_duration("P9999Y").after(end).year == 9998


@pytest.mark.parametrize(
    ("longer", "shorter", "covers"),
    [
        ("P1Y", "P12M", True),
        ("P1Y", "P365D", True),
        ("P1Y", "P366D", False),
        ("P366D", "P1Y", True),
        ("P365D", "P1Y", False),
        ("P1M", "P28D", True),
        ("P1M", "P30D", False),
        ("P31D", "P1M", True),
        ("P6M", "P1Y", False),
        ("P10Y", "P6Y", True),
    ],
)
def test_one_duration_covers_another_wherever_they_are_counted_from(longer: str, shorter: str, covers: bool) -> None:
    assert parse_duration(longer).covers(parse_duration(shorter)) == covers


@given(DURATIONS, DURATIONS, MOMENTS)
def test_a_duration_that_covers_another_is_never_shorter(one: Duration, other: Duration, moment: dt.datetime) -> None:
    if one.covers(other):
        # A month cut to its last day may put the two on the same day of another month: less than four days.
        assert one.after(moment) + dt.timedelta(days=4) >= other.after(moment)


def window(text: str, *local: int, fold: int = 0) -> bool:
    return parse_window(text).contains(dt.datetime(*local, tzinfo=BERLIN, fold=fold))


NIGHTS = "Mon-Fri 18:00-06:00 Europe/Berlin"


@pytest.mark.parametrize(
    ("local", "inside"),
    [
        ((2026, 11, 20, 17, 59), False),  # a Friday
        ((2026, 11, 20, 18, 0), True),
        ((2026, 11, 20, 23, 59), True),
        ((2026, 11, 21, 5, 59), True),
        ((2026, 11, 21, 6, 0), False),
        ((2026, 11, 21, 18, 0), False),
        ((2026, 11, 22, 23, 0), False),
        ((2026, 11, 23, 5, 0), False),  # a Monday, whose night before began on a Sunday
        ((2026, 11, 23, 18, 0), True),
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(local: tuple[int, ...], inside: bool) -> None:
    assert window(NIGHTS, *local) == inside


def test_a_window_follows_the_clock_on_the_wall_through_the_year() -> None:
    summer, winter = dt.datetime(2026, 7, 1, 16, 30, tzinfo=dt.UTC), dt.datetime(2026, 12, 2, 16, 30, tzinfo=dt.UTC)
    assert parse_window(NIGHTS).contains(summer)  # 18:30
    assert not parse_window(NIGHTS).contains(winter)  # 17:30


def test_the_hour_that_winter_time_repeats_is_in_the_window_twice() -> None:
    short = "Sun 02:00-03:00 Europe/Berlin"
    assert window(short, 2026, 10, 25, 2, 30, fold=0)
    assert window(short, 2026, 10, 25, 2, 30, fold=1)
    inside = [
        minute
        for minute in range(360)
        if parse_window(short).contains(dt.datetime(2026, 10, 24, 23, tzinfo=dt.UTC) + dt.timedelta(minutes=minute))
    ]
    assert len(inside) == 120


def test_the_hour_that_summer_time_leaves_out_is_never_there() -> None:
    start = dt.datetime(2026, 3, 28, 23, tzinfo=dt.UTC)
    short = parse_window("Sun 02:00-03:00 Europe/Berlin")
    assert not any(short.contains(start + dt.timedelta(minutes=minute)) for minute in range(24 * 60))


def test_other_zones_and_forms() -> None:
    assert parse_window("Sat,Sun 00:00-24:00 UTC").days == {5, 6}
    assert parse_window("Fri-Mon 08:00-12:00 America/New_York").days == {4, 5, 6, 0}
    assert parse_window("Sat 00:00-24:00 UTC").contains(dt.datetime(2026, 11, 21, 23, 59, tzinfo=dt.UTC))
    assert not parse_window("Sat 00:00-24:00 UTC").contains(dt.datetime(2026, 11, 22, tzinfo=dt.UTC))
    half = parse_window("Mon 09:00-10:00 Asia/Kolkata")
    assert half.contains(dt.datetime(2026, 11, 23, 3, 30, tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("Mon-Fri", None),
        ("18:00-06:00 Europe/Berlin", None),
        ("Mo-Fr 18:00-06:00 Europe/Berlin", "days are Mon, Tue"),
        ("Mon-Fri 18:00-25:00 Europe/Berlin", "from 00:00 to 24:00"),
        ("Mon-Fri 24:00-06:00 Europe/Berlin", "from 00:00 to 24:00"),
        ("Mon-Fri 18:60-06:00 Europe/Berlin", "from 00:00 to 24:00"),
        ("Mon 08:00-08:00 Europe/Berlin", "the window is empty"),
        ("Mon 08:00-09:00 Europe/Berlln", "the zone may be Europe/Berlin"),
        ("Mon 08:00-09:00 ../etc/passwd", "the zone is a name"),
        ("Mon 08:00-09:00 /etc/passwd", "the zone is a name"),
        (7, None),
    ],
)
def test_what_is_no_window_is_refused_with_advice(text: object, advice: str | None) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        parse_window(text)
    (found,) = caught.value.context["misfits"]
    assert "Mon-Fri 18:00-06:00 Europe/Berlin" in found.expected
    assert advice is None or advice in found.advice


@given(MOMENTS, st.sampled_from(DAYS), st.integers(0, 1439), st.integers(1, 1439))
def test_a_window_and_its_complement_split_every_moment(moment: dt.datetime, day: str, start: int, length: int) -> None:
    """From one time of the week to another, and from there back to the first a week later."""
    end = (start + length) % 1440

    def clock(minute: int) -> str:
        return f"{minute // 60:02}:{minute % 60:02}"

    inside = parse_window(f"Mon-Sun {clock(start)}-{clock(end)} Europe/Berlin")
    outside = parse_window(f"Mon-Sun {clock(end)}-{clock(start)} Europe/Berlin")
    assert inside.contains(moment) != outside.contains(moment)
    assert parse_window(f"{day} 00:00-24:00 UTC").contains(moment) == (DAYS[moment.weekday()] == day)
