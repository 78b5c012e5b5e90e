"""The facets of the language: which rules read which facts, and the requests that vary them.

A test holds that every rule which depends on the policy is in a facet.
"""

import dataclasses
import datetime as dt
from collections.abc import Hashable, Iterator
from typing import Any, get_args

from policies.diff import spans
from policies.diff.points import Facet, Label, Point
from policies.diff.space import OTHER, Space, region, subsets
from policies.model.egress import Statistic
from policies.request import Admission, Certificate, Egress, Ingress, LogHealth, Party, Privacy, Release, View
from policies.stages.basis import IN_FORCE
from policies.stages.places import RECEIVED

UNKNOWN = "unknown"

INDEPENDENT = frozenset(
    (
        "ingress.round",
        "ingress.dtype",
        "ingress.shape",
        "ingress.finite",
        "egress.metrics.declared",
        "egress.metrics.finite",
        "egress.metrics.range",
        "egress.update.shape",
        "egress.update.dtype",
        "egress.update.finite",
        "egress.update.max_norm",
    )
)
"""Rules that refuse the same under every policy; `max_norm` refuses what is no number and clips the rest."""

_BASE = Admission("", "", (), "", 1, (), ())
_REPLY = Egress(round=1, examples=1, metrics={}, declared_metrics=())
_MODEL = Ingress(1, 1, 1, 1, "float32", finite=True, size_bytes=0)


def _name(space: Space, name: str) -> str:
    return OTHER if name == space.stranger else name


def _admission(space: Space, labels: tuple[Label, ...], now: dt.datetime | None = None, **facts: Any) -> Point:
    return Point(labels, dataclasses.replace(_BASE, **facts), now or space.now)


def _in_force(space: Space) -> Iterator[Point]:
    purposes = ("permit", "ethics", "dpia", "agreement")
    dates = [*space.each("metadata.effective")]
    for name in purposes:
        dates += space.each(f"purposes.{name}.expires")
    dates += [one.expires for one in space.union("attestations")]
    dates += space.each("inventory.validated.expires")
    for span in spans.days(dates):
        yield _admission(space, (span,), span.sample)


def _purposes(space: Space) -> Iterator[Point]:
    for operator in space.operators():
        for purpose in space.purposes():
            shown = OTHER if purpose == space.stranger else purpose.replace("MONDO:9999999", OTHER)
            parties = (Party(operator, "operator", "??"),)
            yield _admission(space, (_name(space, operator), shown), purpose=purpose, parties=parties)


def _persons(space: Space) -> Iterator[Point]:
    for operator in space.operators():
        yield _admission(space, (_name(space, operator),), parties=(Party(operator, "operator", "??"),))


def _own_country(space: Space) -> Iterator[Point]:
    for country in space.countries():
        yield _admission(space, (region(country),), silo="s", parties=(Party("s", "silo", country),))


def _receivers(space: Space) -> Iterator[Point]:
    """Each party as the coordinator, or beside a coordinator that the asked policy accepts."""
    requests: dict[Hashable, Admission] = {}
    for statistics in (False, True):
        for role in RECEIVED:
            for name in space.parties():
                for country in space.countries():
                    labels = ("yes" if statistics else "no", role, _name(space, name), region(country))
                    alike = (statistics, role, name, space.places_of(country))
                    if alike not in requests:
                        parties = (Party(name, role, country),)
                        requests[alike] = dataclasses.replace(_BASE, parties=parties, statistics=statistics)
                    yield Point(labels, requests[alike], space.now, role != "coordinator", alike)


def _release_parties(space: Space) -> Iterator[Point]:
    for role in RECEIVED:
        for name in space.parties():
            for country in space.countries():
                request = Release(party=Party(name, role, country), approvals=())
                alike = (role, name, space.places_of(country))
                yield Point((role, _name(space, name), region(country)), request, space.now, alike=alike)


def _approvers(space: Space) -> Iterator[Point]:
    names = space.union("release.approvers")
    for asking in (*names, space.stranger):
        for agreed in subsets(names):
            labels = (_name(space, asking), " and ".join(agreed) or "no one")
            yield Point(labels, Release(party=Party(asking, "operator", "??"), approvals=agreed), space.now)


def _digests(space: Space) -> tuple[str, ...]:
    return (*dict.fromkeys(app.digest for app in space.union("apps.allow")), "")


def _apps(space: Space) -> Iterator[Point]:
    dates = [app.expires for app in space.union("apps.allow")]
    for digest in _digests(space):
        for span in spans.days(dates):
            yield _admission(space, (digest or OTHER, span), span.sample, app_digest=digest)


def _reviewers(space: Space) -> Iterator[Point]:
    names = space.union("apps.reviewers")
    for digest in _digests(space):
        for author in (None, *names, space.stranger):
            for approved in subsets(names):
                shown = UNKNOWN if author is None else _name(space, author)
                labels = (digest or OTHER, shown, " and ".join(approved) or "no one")
                authors = () if author is None else (author,)
                yield _admission(space, labels, app_digest=digest, authors=authors, reviewers=approved)


def _uses(space: Space) -> Iterator[Point]:
    apps = space.union("apps.allow")
    for digest in _digests(space):
        for label, uses in _known(spans.whole([app.uses for app in apps if app.digest == digest])):
            yield _admission(space, (digest or OTHER, label), app_digest=digest, uses=uses)


def _columns(space: Space) -> Iterator[Point]:
    for name, datasets in {**space.datasets(), space.stranger: ()}.items():
        columns = dict.fromkeys(column for dataset in datasets for column in dataset.columns.readable)
        for column in (*columns, space.stranger):
            yield _admission(space, (_name(space, name), _name(space, column)), dataset=name, columns=(column,))


def _rows(space: Space) -> Iterator[Point]:
    for name, datasets in space.common_datasets().items():
        for span in spans.whole(dataset.rows.minimum for dataset in datasets):
            yield Point((name, span), View(name, (), span.sample), space.now)


def _row_choice(fact: str) -> Any:
    def points(space: Space) -> Iterator[Point]:
        for name, datasets in space.common_datasets().items():
            columns = dict.fromkeys(getattr(dataset.rows, fact) for dataset in datasets)
            for column in dict.fromkeys((*columns, None, space.stranger)):
                shown = "no column" if column is None else _name(space, column)
                yield Point((name, shown), View(name, (), 0, **{fact: column}), space.now)

    return points


def _contracts(space: Space) -> Iterator[Point]:
    for name, datasets in space.common_datasets().items():
        for digest in dict.fromkeys((*(dataset.contract for dataset in datasets), None, OTHER)):
            shown = "none" if digest is None else "another" if digest == OTHER else digest
            yield Point((name, shown), View(name, (), 0, contract=digest), space.now)


def _pseudonyms(space: Space) -> Iterator[Point]:
    for name, datasets in space.common_datasets().items():
        columns = dict.fromkeys(column for dataset in datasets for column in dataset.columns.pseudonymize)
        for column in (*columns, space.stranger):
            yield Point((name, _name(space, column)), View(name, (column,), 0), space.now)


def _rounds(space: Space) -> Iterator[Point]:
    for span in spans.whole(space.each("runs.max_rounds")):
        yield _admission(space, (span,), rounds=span.sample)


def _windows(space: Space) -> Iterator[Point]:
    windows = space.union("runs.windows")
    year = dt.datetime(space.now.year, 1, 1, tzinfo=windows[0].zone if windows else dt.UTC)
    monday = (year - year.weekday() * spans.DAY).astimezone(dt.UTC)
    for span in spans.week(windows, monday):
        yield _admission(space, (span,), span.sample)


def _concurrent(space: Space) -> Iterator[Point]:
    for label, running in _known(spans.whole(space.each("runs.max_concurrent"))):
        yield _admission(space, (label,), running=running)


def _silos(space: Space) -> Iterator[Point]:
    bounds = space.each("runs.minimum_silos")
    named = tuple(Party(f"s{index}", "silo", "??") for index in range(max(bounds, default=0) + 2))
    for label, quorum in _known(spans.whole(bounds)):
        yield _admission(space, (label,), quorum=quorum, parties=named)


def _metrics(space: Space) -> Iterator[Point]:
    for metric in (*space.union("egress.metrics.allow"), space.stranger):
        yield _admission(space, (_name(space, metric),), metrics=(metric,))


def _examples(space: Space) -> Iterator[Point]:
    for span in spans.whole(space.each("egress.metrics.minimum_count")):
        yield Point((span,), dataclasses.replace(_REPLY, examples=span.sample), space.now)


def _statistics(space: Space) -> Iterator[Point]:
    yield _admission(space, ("not asked for",))
    yield _admission(space, ("rows alone",), statistics=True)
    for kind in get_args(Statistic):
        yield _admission(space, (kind,), statistics=True, kinds=(kind,))


def _per_silo(space: Space) -> Iterator[Point]:
    yield _admission(space, ("merged",), statistics=True)
    yield _admission(space, ("by itself",), statistics=True, per_silo=True)


def _cells(space: Space) -> Iterator[Point]:
    yield Point(("none shown",), _REPLY, space.now)
    for span in spans.whole(space.each("egress.statistics.minimum_cell")):
        yield Point((span,), dataclasses.replace(_REPLY, cell=span.sample), space.now)


def _received_bytes(space: Space) -> Iterator[Point]:
    for span in spans.whole(space.each("egress.update.max_bytes")):
        yield Point((span,), dataclasses.replace(_MODEL, size_bytes=span.sample), space.now)


def _sent_bytes(space: Space) -> Iterator[Point]:
    for span in spans.whole(space.each("egress.update.max_bytes")):
        update: dict[str, Any] = {"values": 1, "expected_values": 1, "dtype": "float32", "finite": True, "norm": 0.0}
        yield Point((span,), dataclasses.replace(_REPLY, size_bytes=span.sample, **update), space.now)


def _mode(space: Space) -> Iterator[Point]:
    for mode in (None, "none", "example_dp", "silo_dp"):
        yield _admission(space, (mode or UNKNOWN,), privacy=None if mode is None else Privacy(mode=mode))


def _mode_in(space: Space) -> str:
    """The mode in which bounds on privacy are asked about: one that a policy needs."""
    return next((mode for mode in space.each("privacy.mode") if mode != "none"), "example_dp")


def _private(fact: str) -> Any:
    def points(space: Space) -> Iterator[Point]:
        bounds = space.each(f"privacy.{fact}")
        for label, value in _known(spans.real(bounds)):
            yield _admission(space, (label,), privacy=Privacy(mode=_mode_in(space), **{fact: value}))

    return points


def _epsilon(fact: str, bound: str) -> Any:
    def points(space: Space) -> Iterator[Point]:
        for delta_label, delta in _known(spans.real(space.each("privacy.budget.delta"))):
            for label, value in _known(spans.real(space.each(bound))):
                privacy = Privacy(mode=_mode_in(space), delta=delta, **{fact: value})
                yield _admission(space, (delta_label, label), privacy=privacy)

    return points


def _secure(space: Space) -> Iterator[Point]:
    for secure in (False, True):
        privacy = Privacy(mode=_mode_in(space), secure_aggregation=secure)
        yield _admission(space, ("yes" if secure else "no",), privacy=privacy)


def _certificate_age(space: Space) -> Iterator[Point]:
    yield _admission(space, (UNKNOWN,))
    for span in spans.ages(space.each("identity.certificates.max_age"), space.now):
        certificate = Certificate("p", span.sample, space.now)
        yield _admission(space, (span,), certificates=(certificate,))


def _certificate_left(space: Space) -> Iterator[Point]:
    yield _admission(space, (UNKNOWN,))
    for span in spans.ages(space.each("identity.certificates.min_left"), space.now, ahead=True):
        certificate = Certificate("p", space.now, span.sample)
        yield _admission(space, (span,), certificates=(certificate,))


def _payloads(space: Space) -> Iterator[Point]:
    yield _admission(space, (UNKNOWN,))
    yield _admission(space, ("none is kept",), log=LogHealth(payloads_known=True))
    for span in spans.ages(space.each("audit.retention.maximum"), space.now):
        log = LogHealth(oldest_payload=span.sample, payloads_known=True)
        yield _admission(space, (span,), log=log)


def _witnesses(space: Space) -> Iterator[Point]:
    for label, count in _known(spans.whole(space.each("audit.witnesses.quorum"))):
        yield _admission(space, (label,), log=LogHealth(witnesses=count))


def _verified(space: Space) -> Iterator[Point]:
    yield _admission(space, (UNKNOWN,))
    for span in spans.ages(space.each("audit.verify_age"), space.now):
        yield _admission(space, (span,), log=LogHealth(verified=span.sample))


def _skew(space: Space) -> Iterator[Point]:
    for label, skew in _known(spans.real(space.each("audit.clock_skew"))):
        yield _admission(space, (label,), log=LogHealth(clock_skew=skew))


def _release_asked(space: Space) -> Iterator[Point]:
    for asked, label in ((None, UNKNOWN), (False, "no"), (True, "yes")):
        yield _admission(space, (label,), release_asked=asked)


def _known(found: tuple[spans.Span, ...]) -> Iterator[tuple[Label, Any]]:
    """A fact that is not known, then each range of it."""
    yield UNKNOWN, None
    for span in found:
        yield span, span.sample


def _facet(name: str, dimensions: str, rules: str, points: Any) -> Facet:
    return Facet(name, tuple(dimensions.split(", ")), frozenset(rules.split()), points)


FACETS = (
    _facet("time", "day", " ".join(check.rule for check in IN_FORCE), _in_force),
    _facet("purpose of a run", "operator, purpose", "purposes.allow purposes.public_bodies", _purposes),
    _facet("operator", "operator", "purposes.persons", _persons),
    _facet("place of the silo", "country", "residency.silo", _own_country),
    _facet(
        "receiver in a run", "statistics asked, role, party, country", "residency.destinations residency.parties",
        _receivers,
    ),
    _facet(
        "receiver of a released model", "role, party, country", "residency.destinations residency.parties",
        _release_parties,
    ),
    _facet("release of a model", "asked for by, agreed to by", "release.approvers", _approvers),
    _facet("coordinator that keeps the model until release", "keeps it", "release.asked", _release_asked),
    _facet("app", "digest, day", "apps.allow apps.expires", _apps),
    _facet("review of an app", "digest, author, approved by", "apps.reviewers", _reviewers),
    _facet("use of an app", "digest, runs before", "apps.uses", _uses),
    _facet("column", "dataset, column", "datasets.known datasets.columns datasets.columns.deny", _columns),
    _facet("rows of a view", "dataset, rows", "datasets.rows.minimum", _rows),
    _facet("view by contract", "dataset, contract", "datasets.contract", _contracts),
    _facet("view by consent", "dataset, column", "datasets.rows.consent", _row_choice("consent")),
    _facet("view by objection", "dataset, column", "datasets.rows.opt_out", _row_choice("opt_out")),
    _facet("column without pseudonyms", "dataset, column", "datasets.columns.pseudonymize", _pseudonyms),
    _facet("rounds", "rounds", "runs.max_rounds", _rounds),
    _facet("time of the week", "local time", "runs.windows", _windows),
    _facet("other runs in progress", "runs", "runs.max_concurrent", _concurrent),
    _facet("silos in a round", "silos", "runs.minimum_silos", _silos),
    _facet("metric", "metric", "egress.metrics.allow", _metrics),
    _facet("examples behind a reply", "examples", "egress.metrics.minimum_count", _examples),
    _facet("kind of statistics", "kind", "egress.statistics.allow", _statistics),
    _facet("statistics of this silo", "shown", "egress.statistics.per_silo", _per_silo),
    _facet("cell of statistics", "rows", "egress.statistics.minimum_cell", _cells),
    _facet("size of a received model", "bytes", "ingress.max_bytes", _received_bytes),
    _facet("size of an update", "bytes", "egress.update.max_bytes", _sent_bytes),
    _facet("privacy mode", "mode", "privacy.mode", _mode),
    _facet("clip norm", "norm", "privacy.clip_norm", _private("clip_norm")),
    _facet("noise multiplier", "noise", "privacy.noise_multiplier", _private("noise_multiplier")),
    _facet("epsilon of a run", "delta, epsilon", "privacy.max_epsilon", _epsilon("epsilon", "privacy.max_epsilon")),
    _facet("epsilon spent in all", "delta, epsilon", "privacy.budget", _epsilon("spent", "privacy.budget.epsilon")),
    _facet("secure aggregation", "used", "privacy.secure_aggregation", _secure),
    _facet("age of a certificate", "age", "identity.certificates.max_age", _certificate_age),
    _facet("time left of a certificate", "left", "identity.certificates.min_left", _certificate_left),
    _facet("age of the oldest payload", "age", "audit.retention.maximum", _payloads),
    _facet("witnesses of the log", "witnesses", "audit.witnesses.quorum", _witnesses),
    _facet("time since the log was verified", "age", "audit.verify_age", _verified),
    _facet("clock skew", "seconds", "audit.clock_skew", _skew),
)  # fmt: skip
"""Every facet, in the order of the report."""
