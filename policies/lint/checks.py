"""The lints. Each looks at one policy and yields what it finds."""

import datetime as dt
from collections.abc import Callable, Iterator

from pydantic import BaseModel

from policies.calendar import DAYS, MINUTES_A_DAY, Window
from policies.diff.compare import compare
from policies.document import Document
from policies.lint.finding import Finding, finding
from policies.model import SiloPolicy
from policies.rules import RULES
from policies.tree import PathKey
from policies.vocabulary.identifiers import class_name
from policies.vocabulary.places import members, place_name
from policies.vocabulary.purposes import for_public_bodies, within
from policies.wording import counted, short_digest

Path = tuple[PathKey, ...]
Policy = Document[SiloPolicy]
Check = Callable[[Policy, dt.date, int], Iterator[Finding]]

SMALL = 10

_RULE_OF_FACET = {
    "time": "policy.effective",
    "purpose of a run": "purposes.allow",
    "operator": "purposes.persons",
    "receiver in a run": "residency.destinations",
    "receiver of a released model": "residency.destinations",
    "app": "apps.allow",
    "column": "datasets.known",
}


def lint(policy: Policy, now: dt.datetime, soon: int) -> tuple[Finding, ...]:
    """Every finding in a policy at a time, in the order of the text; `soon` is in days."""
    today = now.astimezone(dt.UTC).date()
    found = [one for check in _CHECKS for one in check(policy, today, soon)]
    return tuple(sorted(found, key=lambda one: (one.position, one.lint.id)))


def _refuses_all(policy: Policy, today: dt.date, _: int) -> Iterator[Finding]:
    """Facets of the language of which the policy allows no value, found by asking about every value."""
    noon = dt.datetime.combine(today, dt.time(12), dt.UTC)
    for facet, index in compare(policy, policy, noon).everything:
        if index == 0:
            rule = _RULE_OF_FACET.get(facet)
            yield finding(policy, "refuses-all", RULES[rule].path if rule else (), what=facet)


def _datasets(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    for name, dataset in policy.model.datasets.items():
        path: Path = ("datasets", name, "columns")
        columns = dataset.columns
        denied = [column for column in columns.allow if columns.classes.get(column) in columns.deny]
        if len(denied) == len(columns.allow):
            yield finding(policy, "dataset-unusable", path, dataset=name)
        for column in denied:
            index = columns.allow.index(column)
            label = class_name(columns.classes[column])
            yield finding(policy, "column-denied", (*path, "allow", index), column=column, class_name=label)
        for column in columns.classes:
            if column not in columns.readable:
                yield finding(policy, "column-unknown", (*path, "classes", column), column=column)
        count = policy.model.egress.metrics.minimum_count
        rows: Path = ("datasets", name, "rows", "minimum")
        if dataset.rows.minimum < count:
            yield finding(policy, "rows-below-count", rows, rows=dataset.rows.minimum, count=count)
        if dataset.rows.minimum < SMALL:
            yield finding(policy, "small-count", rows, what="rows.minimum", count=dataset.rows.minimum)


def _ends(policy: Policy, today: dt.date, soon: int) -> Iterator[Finding]:
    """Every field named expires, wherever the language has one."""
    for path, date in _dates(policy.model):
        what = _named(policy.model, path)
        left = (date - today).days
        if left < 0:
            yield finding(policy, "ended", path, what=what, date=date)
        elif left <= soon:
            yield finding(policy, "ends-soon", path, what=what, date=date, days=counted(left, "day"))
    if policy.model.metadata.effective > today:
        yield finding(policy, "not-yet", ("metadata", "effective"), date=policy.model.metadata.effective)


def _dates(value: object, path: Path = ()) -> Iterator[tuple[Path, dt.date]]:
    if isinstance(value, dt.date) and path[-1] == "expires":
        yield path, value
    elif isinstance(value, BaseModel | dict):
        for key, inner in dict(value).items():
            yield from _dates(inner, (*path, key))
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _dates(inner, (*path, index))


def _named(model: SiloPolicy, path: Path) -> str:
    """The thing that ends, by its path and what it calls itself."""
    owner: object = model
    for key in path[:-1]:
        owner = owner[key] if isinstance(owner, tuple | dict) else getattr(owner, str(key))  # type: ignore[index]
    title = getattr(owner, "name", None) or getattr(owner, "ref", None) or getattr(owner, "digest", "")
    return f"{'.'.join(map(str, path[:-1]))} ({short_digest(str(title))})"


def _apps(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    for index, app in enumerate(policy.model.apps.allow):
        path: Path = ("apps", "allow", index, "digest")
        digest = short_digest(app.digest)
        if len(set(app.digest.removeprefix("sha256:"))) == 1:
            yield finding(policy, "placeholder", path, digest=digest)
        if app.expires is None:
            yield finding(policy, "approval-without-end", path, digest=digest)
        if app.reviewers == 1:
            where = ("apps", "allow", index, "reviewers")
            yield finding(policy, "one-person", where, what="the approval of an app")
    release = policy.model.release
    if release is not None and release.minimum == 1:
        yield finding(policy, "one-person", ("release", "minimum"), what="the release of a model")


def _purposes(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    purposes = policy.model.purposes
    for index, purpose in enumerate(purposes.allow):
        path: Path = ("purposes", "allow", index)
        for other in purposes.allow:
            if other != purpose and within(purpose, other, purposes.vocabulary):
                yield finding(policy, "purpose-contained", path, purpose=purpose, outer=other)
                break
        if for_public_bodies(purpose, purposes.vocabulary) and not purposes.public_bodies:
            yield finding(policy, "reserved-purpose", path, purpose=purpose)
    for index, name in enumerate(purposes.public_bodies):
        if purposes.persons is not None and name not in purposes.persons:
            yield finding(policy, "person-unnamed", ("purposes", "public_bodies", index), name=name)


def _places(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    for name, destination in policy.model.residency.destinations:
        places = destination.countries if destination is not None else ()
        for index, place in enumerate(places):
            own = members((place,))
            outer = next((o for o in places if o != place and own < members((o,))), None)
            if outer is not None:
                path = ("residency", "destinations", name, "countries", index)
                named = {"place": place_name(place), "outer": place_name(outer)}
                yield finding(policy, "place-contained", path, **named)


def _windows(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    windows = policy.model.runs.windows or ()
    for index, window in enumerate(windows):
        for number, other in enumerate(windows):
            inside, around = _minutes(window), _minutes(other)
            shadowed = inside < around or (inside == around and number < index)
            if window is not other and window.zone.key == other.zone.key and shadowed:
                yield finding(policy, "window-contained", ("runs", "windows", index), window=window, outer=other)
                break


def _minutes(window: Window) -> frozenset[int]:
    """The minutes of the local week in a window, from Monday 00:00."""
    length = (window.end - window.start) % MINUTES_A_DAY or MINUTES_A_DAY
    starts = (day * MINUTES_A_DAY + window.start for day in window.days)
    week = len(DAYS) * MINUTES_A_DAY
    return frozenset((start + step) % week for start in starts for step in range(length))


def _bounds(policy: Policy, _today: dt.date, _soon: int) -> Iterator[Finding]:
    model = policy.model
    count = model.egress.metrics.minimum_count
    if count < SMALL:
        path = ("egress", "metrics", "minimum_count")
        yield finding(policy, "small-count", path, what="egress.metrics.minimum_count", count=count)
    privacy = model.privacy
    if privacy and privacy.budget and privacy.max_epsilon and privacy.max_epsilon > privacy.budget.epsilon:
        facts = {"epsilon": privacy.max_epsilon, "budget": privacy.budget.epsilon}
        yield finding(policy, "epsilon-beyond-budget", ("privacy", "max_epsilon"), **facts)
    if model.audit is None or model.audit.retention.maximum is None:
        yield finding(policy, "no-maximum-retention", ("audit", "retention"))
    if not model.applies:
        yield finding(policy, "no-law", ("applies",))


_CHECKS: tuple[Check, ...] = (_refuses_all, _datasets, _ends, _apps, _purposes, _places, _windows, _bounds)
