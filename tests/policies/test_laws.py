"""Laws of the engine: a wider policy allows no less, a fact outside the policy is refused, nothing raises."""

import dataclasses
import datetime as dt
import json

from hypothesis import given
from hypothesis import strategies as st

from policies.engine import Decision, decide
from policies.model import load_policy
from policies.request import Admission, Egress, Ingress, LogHealth, Party, Privacy, Release, View
from policies.vocabulary import blocs, country_codes

NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
COUNTRIES = ["DE", "FR", "US", "CH", "NO", "CN"]
PLACES = [*COUNTRIES, "EU", "EEA", "EFTA"]
PURPOSES = ["NRES", "GRU", "HMB", "POA", "DS:MONDO:0005267", "DS:MONDO:0000001"]
COLUMNS = ["age", "sex", "cp", "chol"]
METRICS = ["loss", "auc", "accuracy"]
DIGESTS = [f"sha256:{digit * 64}" for digit in "123"]


def _some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True)


@st.composite
def policies(draw: st.DrawFn) -> dict:
    """A policy as plain values; JSON is YAML."""
    return {
        "apiVersion": "concordat/v1",
        "kind": "SiloPolicy",
        "metadata": {"name": "p", "version": 1, "owner": "o", "effective": "2026-01-01"},
        "residency": {
            "silo": "DE",
            "destinations": {
                "model_update": {"countries": draw(_some(PLACES)), "basis": "other:b"},
                "metrics": {"countries": draw(_some(PLACES)), "basis": "other:b"},
            },
        },
        "purposes": {"vocabulary": "duo", "allow": draw(_some(PURPOSES)), "legal_basis": ["other:b"]},
        "datasets": {"heart": {"columns": {"allow": draw(_some(COLUMNS))}, "rows": {"minimum": 50}}},
        "apps": {"approvals": "required", "allow": [{"digest": d} for d in draw(_some(DIGESTS))]},
        "runs": {"max_rounds": 100},
        "egress": {
            "metrics": {"allow": draw(_some(METRICS)), "minimum_count": 20},
            "update": {"max_norm": 10.0, "max_bytes": "1MiB"},
        },
    }


def _tuple(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3).map(tuple)


admissions = st.builds(
    Admission,
    purpose=st.sampled_from(PURPOSES),
    dataset=st.just("heart"),
    columns=_tuple(COLUMNS),
    app_digest=st.sampled_from(DIGESTS),
    rounds=st.integers(1, 100),
    metrics=_tuple(METRICS),
    parties=st.lists(
        st.builds(
            Party,
            st.just("p"),
            st.sampled_from(["coordinator", "silo", "operator"]),
            st.sampled_from(COUNTRIES),
        ),
        max_size=3,
    ).map(lambda parties: (Party("hub", "coordinator", "DE"), *parties)),
)
views = st.builds(View, st.just("heart"), _tuple(COLUMNS), st.integers(0, 100))
egresses = st.builds(
    Egress,
    round=st.integers(1, 100),
    examples=st.integers(0, 100),
    metrics=st.dictionaries(st.sampled_from(METRICS), st.floats(0, 1)),
    declared_metrics=st.just(tuple(METRICS)),
)


def _decide(policy: dict, request: object) -> Decision:
    return decide(load_policy(json.dumps(policy)), request, NOW)


def _widened(policy: dict, draw: st.DrawFn) -> dict:
    wider = json.loads(json.dumps(policy))
    destinations = wider["residency"]["destinations"]
    lists = [
        (destinations["model_update"]["countries"], PLACES),
        (destinations["metrics"]["countries"], PLACES),
        (wider["purposes"]["allow"], PURPOSES),
        (wider["datasets"]["heart"]["columns"]["allow"], COLUMNS),
        (wider["egress"]["metrics"]["allow"], METRICS),
    ]
    for present, known in lists:
        absent = [value for value in known if value not in present]
        if absent:
            present.insert(draw(st.integers(0, len(present))), draw(st.sampled_from(absent)))
    apps = wider["apps"]["allow"]
    absent = [digest for digest in DIGESTS if {"digest": digest} not in apps]
    if absent:
        apps.append({"digest": draw(st.sampled_from(absent))})
    return wider


@given(policies(), admissions | views | egresses, st.data())
def test_a_wider_policy_never_turns_an_allow_into_a_deny(policy, request, data) -> None:
    before = _decide(policy, request)
    after = _decide(_widened(policy, data.draw), request)
    assert after.allowed or not before.allowed


@given(policies(), admissions)
def test_an_admission_is_allowed_exactly_when_each_fact_is(policy, request) -> None:
    """Against a second, direct statement of what the policy means."""
    within = {
        "NRES": {"NRES", "GRU", "HMB", "POA", "DS:MONDO:0005267", "DS:MONDO:0000001"},
        "GRU": {"GRU", "HMB", "POA", "DS:MONDO:0005267", "DS:MONDO:0000001"},
        "HMB": {"HMB", "DS:MONDO:0005267", "DS:MONDO:0000001"},
    }
    places = {"EU": {"DE", "FR"}, "EEA": {"DE", "FR", "NO"}, "EFTA": {"CH", "NO"}}
    destinations = policy["residency"]["destinations"]
    update, metrics = (
        set().union(*(places.get(code, {code}) for code in destinations[field]["countries"]))
        for field in ("model_update", "metrics")
    )
    expected = (
        any(request.purpose in within.get(code, {code}) for code in policy["purposes"]["allow"])
        and all(party.country in update for party in request.parties)
        and all(party.country in metrics for party in request.parties if party.role != "silo")
        and {"digest": request.app_digest} in policy["apps"]["allow"]
        and set(request.columns) <= set(policy["datasets"]["heart"]["columns"]["allow"])
        and set(request.metrics) <= set(policy["egress"]["metrics"]["allow"])
    )
    assert _decide(policy, request).allowed == expected


_names = st.text(max_size=12)
_beyond = st.integers(201) | st.integers(max_value=0)
_abroad = st.sampled_from(sorted(set(country_codes().countries) - set(blocs().blocs["EEA"].members) - {"CH", "US"}))
_outside = {
    "admission": {
        "purpose": _names.filter(lambda code: code != "HMB" and not code.startswith("DS:")),
        "dataset": _names.filter(lambda name: name != "heart"),
        "columns": _names.filter(lambda name: name not in ("age", "sex", "cp")).map(lambda name: ("age", name)),
        "app_digest": _names,
        "rounds": _beyond,
        "metrics": _names.filter(lambda n: n not in ("loss", "auc", "num_examples")).map(lambda n: ("loss", n)),
        "parties": st.builds(
            lambda role, country: (
                Party("hub", "coordinator", "DE"),
                Party("charite", "silo", "DE"),
                Party("x", role, country),
            ),
            st.sampled_from(["coordinator", "silo", "operator"]),
            _abroad,
        ),
        "silo": _names.filter(lambda name: name != "charite"),
        "statistics": st.just(value=True),
        "kinds": st.lists(_names, min_size=1).map(tuple),
        "per_silo": st.just(value=True),
        "code": st.just(value=True),
        "quorum": st.none() | st.integers(max_value=1),
        "authors": st.sampled_from([(), ("anna",), ("fritz", "chen")]),
        "reviewers": st.lists(_names | st.just("anna"), max_size=3).map(tuple),
        "uses": st.none() | st.integers(3) | st.integers(max_value=-1),
        "running": st.none() | st.integers(1) | st.integers(max_value=-1),
        "release_asked": st.sampled_from([None, False]),
        "certificates": st.just(()),
        "privacy": st.none() | st.just(Privacy(mode="none")) | st.just(Privacy(mode="example_dp")),
        "log": st.none() | st.just(LogHealth()),
    },
    "view": {
        "consent": st.none() | _names,
        "opt_out": st.none() | _names,
        "pseudonymized": st.lists(_names).map(tuple),
        "contract": st.none() | _names,
        "dataset": _names.filter(lambda name: name != "heart"),
        "columns": _names.filter(lambda name: name not in ("age", "sex", "cp")).map(lambda name: (name,)),
        "rows": st.integers(max_value=49),
    },
    "ingress": {
        "round": st.integers(51) | st.integers(max_value=0),
        "rounds_planned": st.integers(max_value=0),
        "values": st.integers().filter(lambda n: n != 1000),
        "expected_values": st.integers().filter(lambda n: n != 1000),
        "dtype": _names.filter(lambda name: name != "float32"),
        "finite": st.just(value=False),
        "size_bytes": st.integers((64 << 20) + 1) | st.integers(max_value=-1),
    },
    "egress": {
        "round": _beyond,
        "examples": st.integers(max_value=19),
        "metrics": _names.filter(lambda n: n not in ("loss", "auc", "num_examples")).map(lambda n: {n: 1.0}),
        "declared_metrics": st.sampled_from([(), ("loss",), ("auc",), ("num_examples",)]),
        "values": st.integers().filter(lambda n: n != 1000),
        "expected_values": st.integers().filter(lambda n: n != 1000),
        "dtype": _names.filter(lambda name: name != "float32"),
        "finite": st.just(value=False),
        "norm": st.sampled_from([float("nan"), float("inf"), float("-inf")]) | st.floats(max_value=-1e-9),
        "size_bytes": st.integers((64 << 20) + 1) | st.integers(max_value=-1),
        "privacy": st.none() | st.just(Privacy(mode="none")) | st.just(Privacy(mode="example_dp")),
        "cell": st.integers(),
        "beyond_range": st.sampled_from([("auc (0 to 1)",), ("loss (0 to 1)", "auc (0 to 1)")]),
    },
    "release": {
        "party": st.builds(Party, st.just("x"), st.sampled_from(["coordinator", "silo", "operator"]), _abroad),
        "approvals": st.lists(_names | st.just("dora"), max_size=3).map(tuple),
    },
}


@given(st.data())
def test_one_fact_outside_the_policy_is_a_refusal(full, data) -> None:
    stage = data.draw(st.sampled_from(sorted(_outside)))
    fact = data.draw(st.sampled_from(sorted(_outside[stage])))
    # Kinds and receivers of statistics matter where statistics are asked for, and apps where there is one.
    beside = {"statistics": True} if fact in {"kinds", "per_silo", "code"} else {}
    request = full.vary(stage, **{**beside, fact: data.draw(_outside[stage][fact])})
    decision = full.decide(request)
    assert not decision.allowed, (decision, request)
    assert decision.rule != "evaluation-error"
    assert decision.remedy


def test_every_fact_is_put_outside_the_policy(full) -> None:
    for stage, facts in _outside.items():
        assert set(facts) == {field.name for field in dataclasses.fields(getattr(full, stage))}


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(Party, inner, inner, inner)
    ),
    max_leaves=6,
)


@given(st.data())
def test_deciding_never_raises(example, data) -> None:
    kind = data.draw(st.sampled_from([None, Admission, View, Ingress, Egress, Release]))
    if kind is None:
        request = data.draw(_anything)
    else:
        original = getattr(example, kind.__name__.lower())
        changed = data.draw(
            st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(kind)]), _anything, min_size=1)
        )
        request = dataclasses.replace(original, **changed)
    now = data.draw(st.just(example.now) | st.datetimes() | _anything)
    decision = decide(load_policy(example.text), request, now)
    assert decision.effect in ("allow", "deny")
    assert decision.reason
    assert decision.location
    if not (isinstance(now, dt.datetime) and now.tzinfo):
        assert decision.rule == "evaluation-error"
