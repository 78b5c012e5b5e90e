"""Laws over random policies of the whole language and random requests: no tightening allows more, no error passes."""

import copy
import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.engine import decide, trace
from policies.errors import DocumentError, PolicyError, Problem
from policies.floor import load_floor, looser_than
from policies.model import load_policy
from policies.request import Admission, Certificate, Egress, LogHealth, Party, Privacy, Release, View
from policies.rules import RULES

NOW = dt.datetime(2026, 11, 20, 19, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
DIGESTS = [f"sha256:{digit * 64}" for digit in "12"]
CONTRACT = "sha256:" + "c" * 64
NAMES = ["anna", "bela", "chen", "ops", "hub", "lyon"]
COLUMNS = ["age", "sex", "pid"]
METRICS = ["loss", "auc"]
PURPOSES = ["ehds-53-1-a", "ehds-53-1-e", "ehds-53-1-e-ii", "ehds-53-1-f"]
PLACES = ["DE", "FR", "CH", "US", "EU"]
DATES = ["2026-11-19", "2026-11-20", "2027-01-01"]


def some(values: list[str], least: int = 0) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True, min_size=least)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


HEALTH = {"retention": {"maximum": "P30D"}, "witnesses": {"quorum": 1}, "verify_age": "P7D", "clock_skew": 2.0}
reference = st.fixed_dictionaries({"ref": st.just("r"), "expires": st.sampled_from(DATES)})
destination = st.fixed_dictionaries(
    {"countries": some(PLACES), "basis": st.just("other:b"), "parties": maybe(some(NAMES, 1))}
)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


statistics = st.fixed_dictionaries(
    {
        "allow": some(["mean", "variance"]),
        "minimum_cell": st.sampled_from([5, 20]),
        "per_silo": st.booleans(),
    }
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy as plain values, any section of which may be absent; JSON is YAML."""
    private = draw(st.booleans())
    privacy = {
        "mode": "example_dp",
        "clip_norm": draw(maybe(st.sampled_from([0.5, 1.0]))),
        "noise_multiplier": draw(maybe(st.sampled_from([0.5, 1.0]))),
        "budget": draw(maybe(st.just({"epsilon": 4.0, "delta": 1e-5, "per": "dataset", "window": "P1Y"}))),
        "secure_aggregation": draw(st.sampled_from(["required", "allowed"])),
    }
    reviewers = draw(some(NAMES, 1))
    return _without_none(
        {
            "apiVersion": "concordat/v1",
            "kind": "SiloPolicy",
            "metadata": {"name": "p", "version": 1, "owner": "o", "effective": draw(st.sampled_from(DATES))},
            "residency": {
                "silo": "DE",
                "destinations": {
                    "model_update": draw(destination),
                    "metrics": draw(destination),
                    "final_model": draw(maybe(destination)),
                    "statistics": draw(maybe(destination)),
                },
            },
            "purposes": {
                "vocabulary": "ehds",
                "allow": draw(some(PURPOSES)),
                "legal_basis": ["other:b"],
                "persons": draw(maybe(some(NAMES, 1))),
                "public_bodies": draw(some(NAMES)),
                "permit": draw(maybe(reference)),
                "ethics": draw(maybe(reference)),
                "dpia": draw(maybe(reference)),
                "agreement": draw(maybe(reference)),
            },
            "datasets": {
                "heart": {
                    "columns": {
                        "allow": draw(some(COLUMNS)),
                        "deny": draw(some(["name", "date"])),
                        "classes": {name: draw(st.sampled_from(["none", "name"])) for name in COLUMNS},
                    },
                    "contract": draw(maybe(st.just(CONTRACT))),
                    "rows": {
                        "minimum": draw(st.sampled_from([10, 50])),
                        "consent": draw(maybe(st.just("agreed"))),
                        "opt_out": draw(maybe(st.just("objected"))),
                    },
                }
            },
            "apps": {
                "approvals": "required",
                "reviewers": reviewers,
                "allow": [
                    {
                        "digest": digest,
                        "expires": draw(maybe(st.sampled_from(DATES))),
                        "reviewers": draw(maybe(st.integers(1, len(reviewers)))),
                        "uses": draw(maybe(st.integers(1, 3))),
                    }
                    for digest in draw(some(DIGESTS))
                ],
            },
            "runs": {
                "max_rounds": draw(st.sampled_from([1, 10])),
                "windows": draw(maybe(st.sampled_from([["Fri 18:00-24:00 UTC"], ["Mon 00:00-24:00 UTC"]]))),
                "max_concurrent": draw(maybe(st.integers(1, 2))),
                "minimum_silos": draw(maybe(st.integers(1, 3))),
            },
            "egress": {
                "metrics": {"allow": draw(some(METRICS)), "minimum_count": draw(st.sampled_from([5, 20]))},
                "update": {"max_norm": 10.0, "max_bytes": draw(st.sampled_from([100, 1000]))},
                "statistics": draw(maybe(statistics)),
            },
            "privacy": privacy if private else None,
            "release": draw(maybe(st.just({"approvers": ["anna", "bela"], "minimum": 2}))),
            "identity": draw(maybe(st.just({"certificates": {"max_age": "P30D", "min_left": "P2D"}}))),
            "audit": draw(maybe(st.just(HEALTH))),
            "attestations": draw(maybe(st.just([{"name": "c5", "ref": "r", "expires": "2026-11-20"}]))),
        }
    )


parties = st.builds(
    Party, st.sampled_from(NAMES), st.sampled_from(["silo", "operator"]), st.sampled_from(["DE", "FR", "US"])
)
private_facts = st.builds(
    Privacy,
    mode=st.sampled_from(["none", "example_dp", "silo_dp"]),
    clip_norm=maybe(st.sampled_from([0.5, 1.0, 2.0])),
    noise_multiplier=maybe(st.sampled_from([0.5, 1.0])),
    epsilon=maybe(st.just(1.0)),
    spent=maybe(st.sampled_from([1.0, 4.0, 5.0])),
    delta=maybe(st.sampled_from([1e-6, 1e-5, 1e-4])),
    secure_aggregation=st.booleans(),
)
logs = st.builds(
    LogHealth,
    witnesses=maybe(st.integers(0, 2)),
    verified=maybe(st.sampled_from([NOW - DAY, NOW - 8 * DAY])),
    clock_skew=maybe(st.sampled_from([0.0, 3.0])),
    oldest_payload=maybe(st.sampled_from([NOW - DAY, NOW - 40 * DAY])),
    payloads_known=st.booleans(),
)
certificates = st.lists(
    st.builds(
        Certificate,
        st.sampled_from(NAMES),
        st.sampled_from([NOW - DAY, NOW - 40 * DAY]),
        st.sampled_from([NOW + DAY, NOW + 9 * DAY]),
    ),
    max_size=2,
).map(tuple)
admissions = st.builds(
    Admission,
    purpose=st.sampled_from(PURPOSES),
    dataset=st.just("heart"),
    columns=some(COLUMNS, 1).map(tuple),
    app_digest=st.sampled_from(DIGESTS),
    rounds=st.sampled_from([1, 10]),
    metrics=some(METRICS).map(tuple),
    parties=st.lists(parties, max_size=3).map(lambda found: (Party("hub", "coordinator", "DE"), *found)),
    statistics=st.booleans(),
    kinds=some(["mean", "variance"]).map(tuple),
    per_silo=st.booleans(),
    code=st.booleans(),
    quorum=maybe(st.integers(1, 3)),
    authors=some(NAMES).map(tuple),
    reviewers=some(NAMES).map(tuple),
    uses=maybe(st.integers(0, 3)),
    running=maybe(st.integers(0, 2)),
    release_asked=maybe(st.booleans()),
    certificates=certificates,
    privacy=maybe(private_facts),
    log=maybe(logs),
)
views = st.builds(
    View,
    dataset=st.just("heart"),
    columns=some(COLUMNS, 1).map(tuple),
    rows=st.sampled_from([5, 10, 50]),
    consent=maybe(st.just("agreed")),
    opt_out=maybe(st.just("objected")),
    pseudonymized=some(COLUMNS).map(tuple),
    contract=maybe(st.just(CONTRACT)),
)
egresses = st.builds(
    Egress,
    round=st.sampled_from([1, 10]),
    examples=st.sampled_from([5, 20]),
    metrics=st.dictionaries(st.sampled_from(METRICS), st.floats(0, 1)),
    declared_metrics=st.just(tuple(METRICS)),
    privacy=maybe(private_facts),
    cell=maybe(st.sampled_from([4, 5, 20])),
)
releases = st.builds(Release, party=parties, approvals=some(NAMES).map(tuple))
requests = admissions | views | egresses | releases


# -- tightening

Plain = dict[str, Any]


def _at(policy: Plain, path: str) -> tuple[Any, Any]:
    *above, last = path.split(".")
    node: Any = policy
    for key in above:
        node = node[int(key) if isinstance(node, list) else key]
    return node, last


def shorten(path: str) -> Callable[[Plain, st.DataObject], None]:
    """Take an item out of a list that allows."""

    def tighten(policy: Plain, data: st.DataObject) -> None:
        node, last = _at(policy, path)
        if node.get(last):
            node[last].pop(data.draw(st.integers(0, len(node[last]) - 1)))

    return tighten


def put(path: str, *values: Any) -> Callable[[Plain, st.DataObject], None]:
    """Set what asks for more, where nothing was asked."""

    def tighten(policy: Plain, data: st.DataObject) -> None:
        node, last = _at(policy, path)
        if last not in node:
            node[last] = data.draw(st.sampled_from(values))

    return tighten


def change(path: str, by: Callable[[Any], Any]) -> Callable[[Plain, st.DataObject], None]:
    """Change a bound that is there."""

    def tighten(policy: Plain, data: st.DataObject) -> None:
        try:
            node, last = _at(policy, path)
            key = int(last) if isinstance(node, list) else last
            node[key] = by(node[key])
        except (KeyError, IndexError):
            return

    return tighten


REFERENCE = {"ref": "r", "expires": "2026-11-20"}
CERTIFICATES = {"certificates": {"max_age": "P30D", "min_left": "P2D"}}
TIGHTEN: dict[str, Callable[[Plain, st.DataObject], None]] = {
    "updates go to fewer countries": shorten("residency.destinations.model_update.countries"),
    "metrics go to fewer countries": shorten("residency.destinations.metrics.countries"),
    "updates go to named parties": put("residency.destinations.model_update.parties", ["hub"], ["lyon"]),
    "no statistics": lambda policy, data: policy["residency"]["destinations"].pop("statistics", None) and None,
    "fewer purposes": shorten("purposes.allow"),
    "a narrower purpose": change("purposes.allow.0", lambda code: "ehds-53-1-e-ii" if code == "ehds-53-1-e" else code),
    "named persons": put("purposes.persons", ["ops"]),
    "no public bodies": change("purposes.public_bodies", lambda names: []),
    "a permit": put("purposes.permit", REFERENCE),
    "an assessment": put("purposes.dpia", REFERENCE),
    "fewer columns": shorten("datasets.heart.columns.allow"),
    "a denied class": change("datasets.heart.columns.deny", lambda names: ["name", "date"]),
    "pseudonyms": lambda policy, data: policy["datasets"]["heart"]["columns"].update(
        pseudonymize=policy["datasets"]["heart"]["columns"]["allow"]
    ),
    "more rows": change("datasets.heart.rows.minimum", lambda rows: rows * 2),
    "consent": put("datasets.heart.rows.consent", "agreed", "other"),
    "a contract": put("datasets.heart.contract", CONTRACT),
    "opt-out": put("datasets.heart.rows.opt_out", "objected"),
    "fewer apps": shorten("apps.allow"),
    "an earlier end of an approval": change("apps.allow.0", lambda app: {**app, "expires": "2026-11-19"}),
    "more reviewers": change("apps.allow.0", lambda app: {**app, "reviewers": app.get("reviewers", 1)}),
    "fewer uses": change("apps.allow.0", lambda app: {**app, "uses": 1}),
    "fewer rounds": change("runs.max_rounds", lambda rounds: 1),
    "a window": put("runs.windows", ["Fri 18:00-24:00 UTC"], ["Mon 00:00-24:00 UTC"]),
    "fewer runs at once": change("runs.max_concurrent", lambda most: 1),
    "a bound on runs at once": put("runs.max_concurrent", 1, 2),
    "more silos": put("runs.minimum_silos", 2),
    "fewer metrics": shorten("egress.metrics.allow"),
    "no word on statistics": lambda policy, data: policy["egress"].pop("statistics", None) and None,
    "fewer statistics": change("egress.statistics.allow", lambda kinds: kinds[1:]),
    "larger cells": change("egress.statistics.minimum_cell", lambda rows: rows + 1),
    "merged statistics": change("egress.statistics.per_silo", lambda _: False),
    "more examples": change("egress.metrics.minimum_count", lambda count: count + 1),
    "privacy": put("privacy", {"mode": "example_dp"}),
    "less clipping allowed": change("privacy.clip_norm", lambda norm: norm / 2),
    "more noise": change("privacy.noise_multiplier", lambda noise: noise * 2),
    "a smaller budget": change("privacy.budget", lambda budget: {**budget, "epsilon": 1.0}),
    "secure aggregation": change("privacy.secure_aggregation", lambda _: "required"),
    "a release": put("release", {"approvers": ["anna", "bela"], "minimum": 1}),
    "more approvers": change("release.minimum", lambda _: 2),
    "certificates": put("identity", CERTIFICATES),
    "log health": put("audit", {"verify_age": "P7D", "witnesses": {"quorum": 1}}),
    "an attestation": put("attestations", [{"name": "c5", "ref": "r", "expires": "2026-11-19"}]),
    "a later beginning": change("metadata.effective", lambda _: "2027-01-01"),
}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(policies(), requests, st.sampled_from(sorted(TIGHTEN)), st.data())
def test_tightening_a_policy_never_allows_more(policy, request, how, data) -> None:
    tighter = copy.deepcopy(policy)
    TIGHTEN[how](tighter, data)
    before = decide(load_policy(json.dumps(policy)), request, NOW)
    after = decide(load_policy(json.dumps(tighter)), request, NOW)
    assert before.allowed or not after.allowed, (how, before, after)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(policies(), requests)
def test_a_decision_is_of_a_rule_of_its_stage_with_a_reason_and_a_place_and_a_trace_agrees(policy, request) -> None:
    document = load_policy(json.dumps(policy), "policy.yaml")
    decision = decide(document, request, NOW)
    assert type(request).__name__.lower() in RULES[decision.rule].stages
    assert decision.rule != "evaluation-error"
    assert decision.reason
    assert decision.location.startswith("policy.yaml:")
    assert decision.allowed or decision.remedy
    steps = trace(document, request, NOW)
    refusals = [step.decision for step in steps if step.outcome == "refused"]
    assert refusals[:1] == ([] if decision.allowed else [decision])
    assert (steps[-1].outcome == "passed") == decision.allowed


WRONG = st.sampled_from([None, "text", 1.5, -1, True, b"x", (), [], {}, object(), float("nan"), NOW])


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(policies(), requests, st.data())
def test_a_request_with_an_error_inside_is_never_allowed(policy, request, data) -> None:
    """A fact of another type than its own is an error; whatever comes of it, it is not an allow by mistake."""
    field = data.draw(st.sampled_from([field.name for field in dataclasses.fields(request)]))
    wrong = data.draw(WRONG)
    spoilt = dataclasses.replace(request, **{field: wrong})
    decision = decide(load_policy(json.dumps(policy)), spoilt, NOW)
    if decision.allowed:
        annotation = str(next(f.type for f in dataclasses.fields(request) if f.name == field))
        fits = {
            type(None): "None" in annotation,
            str: "str" in annotation,
            bool: "bool" in annotation,
            int: "int" in annotation or "float" in annotation,
            float: "float" in annotation,
            tuple: "tuple" in annotation,
            dict: "Mapping" in annotation,
        }
        assert fits.get(type(wrong), False), (field, wrong, decision)


# -- loaders


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "insert", "swap", "repeat"]),
        st.integers(0, 10_000),
        st.sampled_from([*"{}[]:,-#'\"\n\t &*!|>%@`?~0", "null", "NO", "1e999", "\x00", "é", "- ", ": "]),
    ),
    min_size=1,
    max_size=6,
)


def mutated(text: str, mutations: list[tuple[str, int, str]]) -> str:
    for how, place, piece in mutations:
        at = place % (len(text) + 1)
        if how == "cut":
            text = text[:at] + text[at + 1 + place % 40 :]
        elif how == "insert":
            text = text[:at] + piece + text[at:]
        elif how == "swap":
            text = text[:at] + piece + text[at + 1 :]
        else:
            text = text[:at] + text[max(0, at - 30) : at] + text[at:]
    return text


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(MUTATIONS)
def test_only_the_packages_own_error_escapes_the_loader(full, mutations) -> None:
    floor = full.text.replace("SiloPolicy", "FederationPolicy")
    for load, text in ((load_policy, full.text), (load_floor, floor)):
        problems = _problems_of(load, mutated(text, mutations))
        assert all(problem.message and problem.source for problem in problems)


def _problems_of(load: Callable[[str], object], text: str) -> tuple[Problem, ...]:
    try:
        load(text)
    except DocumentError as error:
        return error.problems
    return ()


def test_the_loaders_error_is_the_packages_own() -> None:
    assert issubclass(DocumentError, PolicyError)


OPTIONAL = [
    "release",
    "identity",
    "audit",
    "attestations",
    "privacy",
    "purposes.persons",
    "purposes.permit",
    "purposes.dpia",
    "runs.windows",
    "runs.max_concurrent",
    "runs.minimum_silos",
    "residency.destinations.model_update.parties",
    "datasets.heart.rows.consent",
    "datasets.heart.rows.opt_out",
    "datasets.heart.contract",
]
LOOSE = {
    "datasets.heart.columns.deny": [],
    "runs.max_concurrent": 2,
    "release.minimum": 1,
    "privacy.secure_aggregation": "allowed",
    "residency.destinations.statistics": {"countries": ["DE"], "basis": "other:b"},
    "egress.statistics": {"allow": ["mean"], "minimum_cell": 10, "per_silo": True},
}


@pytest.mark.parametrize("how", sorted(TIGHTEN))
@settings(max_examples=5)
@given(data=st.data())
def test_every_tightening_changes_some_policy(how: str, full, data) -> None:
    """Else the law above would hold because nothing was done."""
    whole = load_policy(full.text).root.plain()
    loose, bare = copy.deepcopy(whole), copy.deepcopy(whole)
    for path, value in LOOSE.items():
        node, last = _at(loose, path)
        node[last] = value
    loose["apps"]["allow"][0].pop("reviewers")
    for path in OPTIONAL:
        node, last = _at(bare, path)
        del node[last]
    changed = []
    for start in (whole, loose, bare):
        after = copy.deepcopy(start)
        TIGHTEN[how](after, data)
        changed.append(after != start)
    assert any(changed)


@given(policies())
def test_a_policy_is_never_looser_than_a_floor_of_its_own_numbers(policy) -> None:
    document = load_policy(json.dumps(policy))
    model = document.model
    floor = {
        "apiVersion": "concordat/v1",
        "kind": "FederationPolicy",
        "metadata": policy["metadata"],
        "destinations": {
            "model_update": list(model.residency.destinations.model_update.countries),
            "metrics": list(model.residency.destinations.metrics.countries),
        },
        "purposes": {"vocabulary": "ehds", "allow": list(model.purposes.allow)},
        "metrics": list(model.egress.metrics.allow),
        "limits": {"max_rounds": model.runs.max_rounds, "rows_minimum": model.datasets["heart"].rows.minimum},
    }
    if model.residency.destinations.final_model is not None:
        floor["destinations"]["final_model"] = list(model.residency.destinations.final_model.countries)
    for section in ("privacy", "identity", "audit"):
        if section in policy:
            floor[section] = policy[section]
    assert looser_than(document, load_floor(json.dumps(floor)).model) == []
