"""How long what a log holds is kept: rules by class, what is due by them, and removal that is itself recorded."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from audit.entry import parse_time
from audit.errors import RetentionError
from audit.limits import LIMITS

_PERIOD = re.compile(
    r"P(?:([0-9]{1,4})Y)?(?:([0-9]{1,4})M)?(?:([0-9]{1,4})W)?(?:([0-9]{1,5})D)?"
    r"(?:T(?=.)(?:([0-9]{1,5})H)?(?:([0-9]{1,5})M)?(?:([0-9]{1,6})S)?)?"
)
_RULE = re.compile(r"(entries|payload:[a-z0-9_.*-]{1,80})=(P[0-9YMWDTHS]+)\.\.(P[0-9YMWDTHS]+)?")
_ANY_DAY = datetime(2026, 1, 1)  # noqa: DTZ001  only to compare two periods


@dataclass(frozen=True)
class Period:
    """Years, months and days of the calendar, and seconds, as ISO 8601 writes them."""

    years: int
    months: int
    days: int
    seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read `P10Y`, `P6M`, `P2W`, `P30D`, `PT12H` or a combination; raises RetentionError."""
        match = _PERIOD.fullmatch(text)
        if match is None or not any(match.groups()):
            raise RetentionError(f"got the period {text[:40]!r}, expected one such as P10Y, P6M or P30D")
        years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return cls(years, months, 7 * weeks + days, 3600 * hours + 60 * minutes + seconds)

    def before(self, now: datetime) -> datetime:
        """The time this long ago; a day that its month does not have becomes the last one that it has."""
        year, month = divmod(now.year * 12 + now.month - 1 - 12 * self.years - self.months, 12)
        if year < 300:  # so that the days can be taken off, too
            return now.replace(year=1, month=1, day=1)
        day = min(now.day, calendar.monthrange(year, month + 1)[1])
        return now.replace(year=year, month=month + 1, day=day) - timedelta(days=self.days, seconds=self.seconds)


@dataclass(frozen=True)
class Rule:
    """A class of content, kept at least and at most so long: `entries`, or payloads by a pattern of actions."""

    text: str
    pattern: str | None
    minimum: Period
    maximum: Period | None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `payload:round.*=P30D..P2Y`, or `entries=P10Y..` without a maximum; raises RetentionError."""
        match = _RULE.fullmatch(text)
        if match is None:
            raise RetentionError(
                f"got the rule {text[:80]!r}, expected <class>=<minimum>..<maximum>, such as "
                "payload:round.*=P30D..P2Y, or entries=P10Y.. where there is no maximum"
            )
        minimum, maximum = Period.parse(match[2]), None if match[3] is None else Period.parse(match[3])
        if maximum is not None and maximum.before(_ANY_DAY) > minimum.before(_ANY_DAY):
            raise RetentionError(f"got the rule {text}, expected a maximum that is not shorter than the minimum")
        pattern = None if match[1] == "entries" else match[1].removeprefix("payload:")
        return cls(text, pattern, minimum, maximum)


def parse_rules(data: bytes) -> tuple[Rule, ...]:
    """Read rules, one a line; raises RetentionError."""
    if len(data) > LIMITS.retention:
        raise RetentionError(f"got rules of {len(data)} bytes, expected at most {LIMITS.retention}")
    return tuple(Rule.parse(line) for line in data.decode("ascii", "replace").splitlines())


def rule_for(rules: Sequence[Rule], action: str) -> Rule | None:
    """The first rule for payloads whose pattern matches an action."""
    return next((rule for rule in rules if rule.pattern is not None and fnmatchcase(action, rule.pattern)), None)


def due_payloads(
    entries: Iterable[dict[str, object]], rules: Sequence[Rule], now: datetime, bound: Rule | None = None
) -> Iterator[int]:
    """The numbers of entries with a payload that has been kept for the maximum of its rule, or of the policy's.

    `bound` is what the policy says of all payloads: before its minimum nothing is due, whatever the rules say.
    """
    latest = datetime.max.replace(tzinfo=now.tzinfo) if bound is None else bound.minimum.before(now)
    cutoffs = {rule.text: min(latest, rule.maximum.before(now)) for rule in rules if rule.maximum is not None}
    older = None if bound is None or bound.maximum is None else bound.maximum.before(now)
    for entry in entries:
        if entry["payload_commitment"] is None:
            continue
        rule, time = rule_for(rules, str(entry["action"])), parse_time(str(entry["time"]))
        by_rule = cutoffs.get(rule.text) if rule is not None else None
        if any(cutoff is not None and time <= cutoff for cutoff in (by_rule, older)):
            yield int(str(entry["seq"]))


def entries_cutoff(rules: Sequence[Rule], now: datetime, bound: Rule | None = None) -> datetime | None:
    """The time before which whole segments are due, or None where entries are kept for ever.

    Payloads go with their segment, so that a policy's minimum keeps it, too.
    """
    for rule in rules:
        if rule.pattern is None and rule.maximum is not None:
            return min(one.before(now) for one in (rule.maximum, *([bound.minimum] if bound else [])))
        if rule.pattern is None:
            return None
    return None


def too_young_by(
    entry: dict[str, object], rules: Sequence[Rule], now: datetime, bound: Rule | None = None
) -> Rule | None:
    """The rule, or what the policy says, for whose minimum a payload has not been kept yet; None where for none."""
    found = (bound, rule_for(rules, str(entry["action"])))
    time = parse_time(str(entry["time"]))
    return next((rule for rule in found if rule is not None and time > rule.minimum.before(now)), None)


def format_ranges(numbers: Iterable[int]) -> str:
    """Numbers in the form `4,7-9`, ascending."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
