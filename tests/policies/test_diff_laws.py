"""What `concordat policy diff` says is what the engine decides, for any two policies and any request."""

import dataclasses
import datetime as dt
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.diff.compare import CLIPPING, Difference, compare
from policies.diff.facets import FACETS, INDEPENDENT
from policies.diff.groups import groups
from policies.diff.points import STAGES, accepted_coordinator
from policies.diff.space import Space
from policies.engine import trace
from policies.model import load_policy
from policies.request import (
    Admission,
    Certificate,
    Egress,
    Ingress,
    LogHealth,
    Party,
    Privacy,
    Release,
    View,
)

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
DESTINATIONS = "residency.destinations"
PLACES = ["DE", "FR", "US", "CH", "EU", "EEA"]
PURPOSES = ["GRU", "HMB", "POA", "DS:MONDO:0005267"]
COLUMNS = ["age", "sex", "ssn"]
NAMES = ["anna", "ben", "hub"]
DIGESTS = [f"sha256:{digit * 64}" for digit in "12"]
DATES = ["2026-11-10", "2026-11-20", "2026-12-31"]
WINDOWS = ["Mon-Fri 18:00-06:00 Europe/Berlin", "Sat,Sun 00:00-24:00 America/New_York", "Wed 01:30-02:30 Europe/Berlin"]


def _some(values: list[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True, min_size=least)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def _present(value: Any) -> Any:
    """A mapping without what is None, all the way down."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(item) for item in value] if isinstance(value, list) else value


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy with any of the sections, as plain values."""
    reference = _maybe(st.builds(lambda date: {"ref": "r", "expires": date}, st.sampled_from(DATES)))
    destination = st.fixed_dictionaries(
        {"countries": _some(PLACES), "basis": st.just("gdpr-art-9-2-j"), "parties": _maybe(_some(NAMES, 1))}
    )
    durations = _maybe(st.sampled_from(["P1D", "P30D", "P1M", "P1Y"]))
    small = st.integers(1, 4)
    reviewers = draw(_maybe(_some(NAMES, 1)))
    approvers = draw(_maybe(_some(NAMES, 1)))
    dp = draw(st.booleans())
    budget = draw(_maybe(st.sampled_from([1.0, 2.0]))) if dp else None
    return _present(
        {
            "apiVersion": "concordat/v1",
            "kind": "SiloPolicy",
            "metadata": {"name": "p", "version": 1, "owner": "o", "effective": draw(st.sampled_from(DATES))},
            "residency": {
                "silo": draw(st.sampled_from(["DE", "FR"])),
                "destinations": {
                    "model_update": draw(destination),
                    "metrics": draw(destination),
                    "final_model": draw(_maybe(destination)),
                    "statistics": draw(_maybe(destination)),
                },
            },
            "purposes": {
                "vocabulary": "duo",
                "allow": draw(_some(PURPOSES)),
                "legal_basis": ["gdpr-art-6-1-e"],
                "persons": draw(_maybe(_some(NAMES, 1))),
                "permit": draw(reference),
                "dpia": draw(reference),
            },
            "datasets": {
                name: {
                    "columns": {"allow": columns, "pseudonymize": draw(_some(columns)) if columns else []}
                    | (
                        {
                            "deny": ["social_security"],
                            "classes": dict.fromkeys(columns, "none") | {"ssn": "social_security"},
                        }
                        if draw(st.booleans())
                        else {}
                    ),
                    "rows": {"minimum": draw(small), "consent": draw(_maybe(st.sampled_from(COLUMNS)))},
                }
                for name in draw(_some(["heart", "lung"]))
                for columns in [draw(_some(COLUMNS))]
            },
            "apps": {
                "approvals": "required",
                "reviewers": reviewers,
                "allow": [
                    {
                        "digest": digest,
                        "expires": draw(_maybe(st.sampled_from(DATES))),
                        "uses": draw(_maybe(small)),
                        "reviewers": draw(_maybe(st.integers(1, len(reviewers)))) if reviewers else None,
                    }
                    for digest in draw(_some(DIGESTS))
                ],
            },
            "runs": {
                "max_rounds": draw(small),
                "windows": draw(_maybe(_some(WINDOWS, 1))),
                "max_concurrent": draw(_maybe(small)),
                "minimum_silos": draw(_maybe(small)),
            },
            "egress": {
                "metrics": {"allow": draw(_some(["loss", "auc"])), "minimum_count": draw(small)},
                "update": {"max_norm": draw(st.sampled_from([1.0, 2.0])), "max_bytes": draw(small)},
            },
            "privacy": draw(
                _maybe(
                    st.fixed_dictionaries(
                        {
                            "mode": st.sampled_from(["example_dp", "silo_dp"]) if dp else st.just("none"),
                            "clip_norm": _maybe(st.sampled_from([1.0, 2.0])) if dp else st.none(),
                            "max_epsilon": _maybe(st.sampled_from([1.0, 2.0])) if budget else st.none(),
                            "budget": st.just(
                                {"epsilon": budget, "delta": 1e-5, "per": "dataset", "window": "P1Y"}
                                if budget
                                else None
                            ),
                            "secure_aggregation": st.sampled_from(["required", "allowed"]),
                        }
                    )
                )
            ),
            "release": {"approvers": approvers, "minimum": draw(st.integers(1, len(approvers)))} if approvers else None,
            "identity": draw(
                _maybe(
                    st.fixed_dictionaries(
                        {"certificates": st.fixed_dictionaries({"max_age": durations, "min_left": durations})}
                    )
                )
            ),
            "audit": draw(
                _maybe(
                    st.fixed_dictionaries(
                        {
                            "retention": st.fixed_dictionaries({"maximum": durations}),
                            "witnesses": _maybe(st.builds(lambda n: {"quorum": n}, small)),
                            "verify_age": durations,
                            "clock_skew": _maybe(st.sampled_from([0.5, 1.0])),
                        }
                    )
                )
            ),
        }
    )


countries = st.sampled_from(["DE", "FR", "US", "CH", "NO", "CN"])
counts = st.integers(0, 5)
moments = st.integers(0, 400 * 86400).map(
    lambda seconds: dt.datetime(2026, 11, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
)
reals = _maybe(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0]))
people = _some([*NAMES, "carl"]).map(tuple)
parties = st.builds(Party, st.sampled_from([*NAMES, "x"]), st.sampled_from(["silo", "operator"]), countries)
privacy = _maybe(
    st.builds(
        Privacy,
        mode=st.sampled_from(["none", "example_dp", "silo_dp"]),
        clip_norm=reals,
        epsilon=reals,
        spent=reals,
        delta=_maybe(st.sampled_from([0.0, 1e-6, 1e-5, 1e-4])),
        secure_aggregation=st.booleans(),
    )
)
admissions = st.builds(
    Admission,
    purpose=st.sampled_from([*PURPOSES, "NRES", "nonsense"]),
    dataset=st.sampled_from(["heart", "lung", "skin"]),
    columns=_some([*COLUMNS, "zip"], 1).map(tuple),
    app_digest=st.sampled_from([*DIGESTS, "sha256:" + "9" * 64]),
    rounds=counts,
    metrics=_some(["loss", "auc", "f1"]).map(tuple),
    parties=st.lists(parties, max_size=3).flatmap(
        lambda others: st.builds(
            lambda name, country: (Party(name, "coordinator", country), *others), st.sampled_from(NAMES), countries
        )
    ),
    statistics=st.booleans(),
    quorum=_maybe(counts),
    authors=people,
    reviewers=people,
    uses=_maybe(counts),
    running=_maybe(counts),
    certificates=st.lists(st.builds(Certificate, st.just("p"), moments, moments), max_size=1).map(tuple),
    privacy=privacy,
    log=_maybe(
        st.builds(
            LogHealth,
            witnesses=_maybe(counts),
            verified=_maybe(moments),
            clock_skew=reals,
            oldest_payload=_maybe(moments),
            payloads_known=st.booleans(),
        )
    ),
    release_asked=_maybe(st.booleans()),
)
views = st.builds(
    View,
    st.sampled_from(["heart", "lung"]),
    _some(COLUMNS, 1).map(tuple),
    counts,
    consent=_maybe(st.sampled_from(COLUMNS)),
    pseudonymized=_some(COLUMNS).map(tuple),
)
ingresses = st.builds(
    Ingress,
    counts,
    st.just(4),
    st.just(1),
    st.just(1),
    st.just("float32"),
    finite=st.just(value=True),
    size_bytes=counts,
)
egresses = st.builds(
    Egress,
    round=counts,
    examples=counts,
    metrics=st.dictionaries(st.sampled_from(["loss", "auc", "f1"]), st.floats(0, 1)),
    declared_metrics=st.just(("loss", "auc", "f1")),
    values=st.just(1),
    expected_values=st.just(1),
    dtype=st.just("float32"),
    finite=st.just(value=True),
    norm=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
    size_bytes=counts,
    privacy=privacy,
)
releases = st.builds(Release, party=parties, approvals=people)
requests = admissions | views | ingresses | egresses | releases


def _load(values: dict[str, Any]):
    return load_policy(json.dumps(values))


def _answer(policy, facet, request, now) -> str:
    """What the engine's trace of a request says of a facet's rules."""
    steps = [
        step
        for step in trace(policy, request, now)
        if (step.rule if step.rule != "default-deny" else DESTINATIONS) in facet.rules
    ]
    outcomes = {step.outcome for step in steps}
    return "refused" if "refused" in outcomes else "unasked" if "unasked" in outcomes or not outcomes else "allowed"


@settings(max_examples=25, deadline=None)
@given(policies(), policies(), st.lists(requests, min_size=3, max_size=10), moments)
def test_whatever_a_facet_decides_differently_is_in_the_difference(first, second, asked, now) -> None:
    before, after = _load(first), _load(second)
    difference = compare(before, after, now)
    for request in asked:
        for facet in FACETS:
            if not facet.rules & {check.rule for check in STAGES[type(request)].checks}:
                continue
            answers = _answer(before, facet, request, now), _answer(after, facet, request, now)
            for answer, direction in ((("refused", "allowed"), "allowed"), (("allowed", "refused"), "denied")):
                if answers == answer:
                    reported = {change.facet for change in difference.changes if change.direction == direction}
                    assert facet.name in reported or reported & _siblings(facet), (facet.name, request)


def _siblings(facet) -> set[str]:
    """Facets with the same rules, asked about in another stage or beside other facts."""
    return {other.name for other in FACETS if other.rules & facet.rules}


@settings(max_examples=15, deadline=None)
@given(policies(), policies(), st.data())
def test_whatever_is_in_the_difference_is_decided_differently(first, second, data) -> None:
    """The engine's own trace of a reported point has a refusal by the facet's rules in one policy alone."""
    both = (_load(first), _load(second))
    difference = compare(*both, NOW)
    reported = [change for change in difference.changes if change.facet != CLIPPING]
    if not reported:
        return
    change = data.draw(st.sampled_from(reported))
    facet = next(facet for facet in FACETS if facet.name == change.facet)
    points = [point for point in facet.points(Space(both, NOW)) if point.labels == change.labels]
    refusing, allowing = both if change.direction == "allowed" else both[::-1]
    assert any(_refused(refusing, point, facet) and not _refused(allowing, point, facet) for point in points)


STATISTICS = {"egress.statistics.allow", "egress.statistics.per_silo", "egress.statistics.minimum_cell"}


def _by_default(step, facet) -> bool:
    """Whether the facet's rules refuse what the policy does not speak of: destinations, or statistics as a whole."""
    if step.rule != "default-deny":
        return False
    of_statistics = "the nearest is egress.metrics" in step.decision.reason
    return bool(facet.rules & STATISTICS) if of_statistics else "residency.destinations" in facet.rules


def _refused(policy, point, facet) -> set[str]:
    request = point.request
    if point.beside_coordinator:
        coordinator = accepted_coordinator(policy, statistics=request.statistics)
        request = dataclasses.replace(request, parties=(*coordinator, *request.parties))
    steps = trace(policy, request, point.now)
    return {
        step.rule
        for step in steps
        if step.outcome == "refused" and (step.rule in facet.rules or _by_default(step, facet))
    }


@settings(max_examples=10, deadline=None)
@given(policies())
def test_a_policy_does_not_differ_from_itself(values) -> None:
    difference = compare(_load(values), _load(values), NOW)
    assert difference.same
    assert not difference.fields


@settings(max_examples=10, deadline=None)
@given(policies(), policies())
def test_the_other_way_round_what_was_allowed_is_denied(first, second) -> None:
    forth, back = compare(_load(first), _load(second), NOW), compare(_load(second), _load(first), NOW)

    def seen(difference: Difference, direction: str) -> set[object]:
        # The ranges' numbers depend on the order in which the policies name things; their words do not.
        return {
            (group.facet, box.facts)
            for group in groups(difference)
            if group.direction == direction
            for box in group.boxes
        }

    assert {facet for facet, _ in seen(forth, "allowed")} == {facet for facet, _ in seen(back, "denied")}
    assert forth.looser == any(change.direction == "denied" for change in back.changes)


@settings(max_examples=10, deadline=None)
@given(policies(), policies())
def test_the_boxes_of_a_group_hold_exactly_the_points_that_changed(first, second) -> None:
    difference = compare(_load(first), _load(second), NOW)
    for group in groups(difference):
        every = difference.dimensions[group.facet][1]
        changed = {c.labels for c in difference.changes if (c.facet, c.direction) == (group.facet, group.direction)}
        if all(isinstance(label, str) for labels in every for label in labels):
            inside = {labels for labels in every if any(_inside(labels, box) for box in group.boxes)}
            assert inside == changed, group.facet


def _inside(labels, box) -> bool:
    return all(values == ("any",) or label in values for label, (_, values) in zip(labels, box.facts, strict=True))


def test_every_rule_that_depends_on_the_policy_is_in_a_facet() -> None:
    rules = {check.rule for stage in STAGES.values() for check in stage.checks}
    assert rules == set().union(*(facet.rules for facet in FACETS)) | INDEPENDENT


@settings(max_examples=30, deadline=None)
@given(policies(), st.booleans())
def test_the_coordinator_that_a_policy_accepts_is_accepted(values, statistics) -> None:
    policy = _load(values)
    coordinator = accepted_coordinator(policy, statistics=statistics)
    if coordinator:
        request = Admission("HMB", "heart", ("age",), DIGESTS[0], 1, (), coordinator, statistics=statistics)
        steps = {step.rule: step.outcome for step in trace(policy, request, NOW)}
        assert steps[DESTINATIONS] == "passed"
        assert steps["residency.parties"] in ("passed", "absent")
