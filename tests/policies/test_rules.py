"""Every rule refuses what it must, in its words and at its place, and lets the rest pass."""

import datetime as dt
import math
from string import Formatter

import pytest

from policies.decision import Check, Stage
from policies.engine import decide
from policies.model import load_policy
from policies.request import Egress, Party
from policies.rules import EVERY, RULES

HUB = Party("hub", "coordinator", "DE")
ME = Party("charite", "silo", "DE")
LONG = Egress(
    round=1,
    examples=20,
    metrics={},
    declared_metrics=(),
    values=1000,
    expected_values=1000,
    dtype="float32",
    finite=True,
    norm=12.5,
    size_bytes=4000,
)

# rule, stage, changed facts, line of the policy that must be named, words of the reason, words of the remedy
DENIED = [
    (
        "purposes.allow",
        "admission",
        {"purpose": "POA"},
        "allow: [HMB]",
        (
            "run purpose POA (population origins or ancestry research) is not allowed; "
            "the policy allows HMB (health, medical or biomedical research)"
        ),
        "add POA to purposes.allow, or submit the run for one of: HMB",
    ),
    (
        "purposes.allow",
        "admission",
        {"purpose": "GRU"},
        "allow: [HMB]",
        "GRU (general research use)",
        "add GRU",
    ),
    (
        "purposes.allow",
        "admission",
        {"purpose": "XYZ"},
        "allow: [HMB]",
        "XYZ (unknown)",
        "submit the run for one of",
    ),
    (
        "residency.silo",
        "admission",
        {"parties": (HUB, Party("charite", "silo", "AT"))},
        "silo: DE",
        "silo charite stands in AT (Austria); the policy is written for DE (Germany)",
        "correct residency.silo",
    ),
    (
        "residency.silo",
        "admission",
        {"parties": (HUB,)},
        "silo: DE",
        "silo charite is not among the run's parties",
        "manifest",
    ),
    (
        "residency.destinations",
        "admission",
        {"parties": (HUB, ME, Party("boston", "silo", "US"))},
        "model_update:",
        (
            "silo boston in US (United States) would receive model updates; "
            "the policy allows EU (European Union), EEA (European Economic Area), CH (Switzerland)"
        ),
        "add US to residency.destinations.model_update.countries, or run without boston",
    ),
    (
        "residency.destinations",
        "admission",
        {"parties": (Party("hub", "coordinator", "US"), ME)},
        "model_update:",
        "coordinator hub in US (United States) would receive model updates",
        "add US",
    ),
    (
        "residency.destinations",
        "admission",
        {"parties": (HUB, ME, Party("ops", "operator", "CN"))},
        "metrics: {countries",
        "operator ops in CN (China) would receive metrics",
        "residency.destinations.metrics.countries",
    ),
    (
        "residency.destinations",
        "admission",
        {"parties": (HUB, ME, Party("x", "silo", "EU"))},
        "model_update:",
        "silo x in EU",
        "run without x",
    ),
    (
        "default-deny",
        "admission",
        {"parties": (HUB, ME, Party("w", "witness", "DE"))},
        "destinations:",
        "no rule of the policy allows party w in the role witness",
        "coordinator, silo, operator",
    ),
    (
        "default-deny",
        "admission",
        {"parties": (ME,)},
        "destinations:",
        "whose coordinator is not among the parties",
        "name the coordinator",
    ),
    (
        "apps.allow",
        "admission",
        {"app_digest": "sha256:" + "3" * 64},
        "  allow:\n    - digest",
        "app sha256:333333333333... is not approved; the policy approves sha256:111111111111..., sha256:2",
        "add its digest to apps.allow",
    ),
    (
        "apps.expires",
        "admission",
        {"app_digest": "sha256:" + "2" * 64},
        "expires: 2026-11-10",
        "the approval of app sha256:222222222222... was valid until 2026-11-10, and today is 2026-11-20",
        "set a later expires",
    ),
    (
        "datasets.known",
        "admission",
        {"dataset": "lung"},
        "datasets:",
        "dataset lung is not in the policy; it has heart",
        "one of: heart",
    ),
    (
        "datasets.known",
        "view",
        {"dataset": "lung"},
        "datasets:",
        "dataset lung is not in the policy",
        "add lung",
    ),
    (
        "datasets.columns",
        "admission",
        {"columns": ("age", "name", "ssn")},
        "columns:",
        "columns name, ssn of dataset heart may not be read; the policy allows age, sex, cp",
        "datasets.heart.columns.allow",
    ),
    ("datasets.columns", "admission", {"columns": ()}, "columns:", "an empty list of columns", "name only"),
    (
        "datasets.columns",
        "view",
        {"columns": ("ssn",)},
        "columns:",
        "column ssn of dataset heart",
        "name only",
    ),
    ("datasets.columns", "view", {"columns": ()}, "columns:", "an empty list of columns", "name only"),
    (
        "datasets.rows.minimum",
        "view",
        {"rows": 49},
        "minimum: 50",
        "the view of dataset heart has 49 rows; the policy needs at least 50",
        "lower datasets.heart.rows.minimum",
    ),
    (
        "runs.max_rounds",
        "admission",
        {"rounds": 201},
        "max_rounds:",
        "the run plans 201 rounds; the policy allows 1 to 200",
        "plan at most 200 rounds",
    ),
    ("runs.max_rounds", "admission", {"rounds": 0}, "max_rounds:", "the run plans 0 rounds", "plan at most"),
    (
        "runs.max_rounds",
        "ingress",
        {"round": 201, "rounds_planned": 300},
        "max_rounds:",
        "got round 201; the policy allows 1 to 200",
        "raise runs.max_rounds",
    ),
    ("runs.max_rounds", "egress", {"round": 201}, "max_rounds:", "got round 201", "raise runs.max_rounds"),
    (
        "ingress.round",
        "ingress",
        {"round": 51},
        "apiVersion",
        "got round 51, expected a round of the plan, 1 to 50",
        "more rounds",
    ),
    ("ingress.round", "ingress", {"round": 0}, "apiVersion", "got round 0", "more rounds"),
    (
        "ingress.dtype",
        "ingress",
        {"dtype": "float64"},
        "apiVersion",
        "type float64, expected float32",
        "float32",
    ),
    ("ingress.shape", "ingress", {"values": 999}, "apiVersion", "has 999 values, expected 1000", "declares"),
    ("ingress.shape", "ingress", {"values": 0, "expected_values": 0}, "apiVersion", "0 values", "declares"),
    (
        "ingress.finite",
        "ingress",
        {"finite": False},
        "apiVersion",
        "infinite or not a number",
        "finite model",
    ),
    (
        "ingress.max_bytes",
        "ingress",
        {"size_bytes": (64 << 20) + 1},
        "max_bytes:",
        "the received model has 67108865 bytes; the policy allows at most 64 MiB",
        "raise egress.update.max_bytes",
    ),
    ("ingress.max_bytes", "ingress", {"size_bytes": -1}, "max_bytes:", "-1 bytes", "smaller"),
    (
        "egress.metrics.declared",
        "egress",
        {"declared_metrics": ("auc",)},
        "  metrics:\n    allow: [loss",
        "metric loss not declared by the run, which declared auc",
        "declare it in the run",
    ),
    (
        "egress.metrics.allow",
        "egress",
        {"metrics": {"leak": 1.0}, "declared_metrics": ("leak",)},
        "allow: [loss",
        "metric leak may not leave; the policy allows loss, auc, num_examples",
        "add it to egress.metrics.allow",
    ),
    (
        "egress.metrics.allow",
        "admission",
        {"metrics": ("loss", "leak", "drip")},
        "allow: [loss",
        "metrics leak, drip may not leave",
        "remove it from the run",
    ),
    (
        "egress.metrics.finite",
        "egress",
        {"metrics": {"loss": math.nan, "auc": math.inf}},
        "  metrics:\n    allow: [loss",
        "metrics loss, auc infinite or not a number",
        "correct the app's metrics",
    ),
    (
        "egress.metrics.range",
        "egress",
        {"beyond_range": ("auc (0 to 1)",)},
        "  metrics:\n    allow: [loss",
        "metric auc (0 to 1) beyond the range of such a metric",
        "correct the app's metrics",
    ),
    (
        "egress.metrics.minimum_count",
        "egress",
        {"examples": 19},
        "minimum_count:",
        "the reply rests on 19 examples; the policy needs at least 20",
        "lower egress.metrics.minimum_count",
    ),
    (
        "egress.update.shape",
        "egress",
        {"values": 1001},
        "  update:\n",
        "1001 values, expected 1000",
        "declares",
    ),
    ("egress.update.shape", "egress", {"norm": None}, "  update:\n", "some facts missing", "all its facts"),
    (
        "egress.update.dtype",
        "egress",
        {"dtype": "int8"},
        "  update:\n",
        "type int8, expected float32",
        "float32",
    ),
    (
        "egress.update.finite",
        "egress",
        {"finite": False},
        "  update:\n",
        "infinite or not a number",
        "learning rate",
    ),
    (
        "egress.update.max_bytes",
        "egress",
        {"size_bytes": 65 << 20},
        "max_bytes:",
        "the update has 65 MiB; the policy allows at most 64 MiB",
        "raise egress.update.max_bytes",
    ),
    (
        "egress.update.max_norm",
        "egress",
        {"norm": math.nan},
        "max_norm:",
        "the update's norm is nan, expected a number from 0",
        "correct the app's update",
    ),
    ("egress.update.max_norm", "egress", {"norm": math.inf}, "max_norm:", "norm is inf", "correct"),
    ("egress.update.max_norm", "egress", {"norm": -1.0}, "max_norm:", "norm is -1", "correct"),
]


@pytest.mark.parametrize(("rule", "stage", "changes", "at", "reason", "remedy"), DENIED)
def test_a_rule_refuses(example, rule, stage, changes, at, reason, remedy) -> None:
    decision = example.decide(example.vary(stage, **changes))
    assert (decision.effect, decision.rule) == ("deny", rule)
    assert not decision.allowed
    assert reason in decision.reason
    assert remedy in decision.remedy
    assert decision.clip_norm is None
    before = example.text[: example.text.index(at) + len(at) - len(at.lstrip())]
    assert decision.location.startswith(f"policy.yaml:{before.count(chr(10)) + 1}:")


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("admission", {}),
        ("admission", {"purpose": "DS:MONDO:0005267"}),
        ("admission", {"silo": None}),
        ("admission", {"parties": (HUB, ME, Party("ops", "operator", "NO"))}),
        ("admission", {"parties": (HUB, ME, Party("bern", "silo", "CH"), Party("oslo", "silo", "NO"))}),
        ("admission", {"rounds": 200}),
        ("admission", {"rounds": 1, "metrics": ()}),
        ("admission", {"columns": ("age", "sex", "cp")}),
        ("view", {}),
        ("view", {"rows": 51, "columns": ("sex",)}),
        ("ingress", {}),
        ("ingress", {"round": 50}),
        ("ingress", {"round": 200, "rounds_planned": 200}),
        ("ingress", {"size_bytes": 64 << 20}),
        ("egress", {}),
        ("egress", {"round": 200}),
        ("egress", {"norm": 0.0, "size_bytes": 64 << 20}),
        ("egress", {"metrics": {}}),
        ("egress", {"metrics": {"num_examples": 20}}),
    ],
)
def test_what_every_rule_lets_pass_is_allowed(example, stage, changes) -> None:
    decision = example.decide(example.vary(stage, **changes))
    assert (decision.effect, decision.rule) == ("allow", f"{stage}.allow")
    assert decision.allowed
    assert decision.location == "policy.yaml:1:1"
    assert decision.remedy is None
    assert decision.clip_norm is None


def test_an_allow_says_what_was_allowed(example) -> None:
    assert example.decide(example.admission).reason == (
        "run for HMB (health, medical or biomedical research) on dataset heart is admitted: "
        "2 columns, 50 rounds, charite-cardiology version 3"
    )
    assert example.decide(example.view).reason == "view of dataset heart is allowed: 2 columns, 50 rows"
    assert example.decide(example.ingress).reason == "model of round 1 is allowed in: 1000 values, 4000 bytes"
    assert example.decide(example.egress).reason == (
        "reply of round 50 is allowed out: an update of 1000 values, 2 metrics, from 20 examples"
    )


def test_an_evaluation_sends_no_update(example) -> None:
    none = dict.fromkeys(("values", "expected_values", "dtype", "finite", "norm", "size_bytes"))
    decision = example.decide(example.vary("egress", **none))
    assert decision.rule == "egress.allow"
    assert "no update" in decision.reason


@pytest.mark.parametrize("fact", ["values", "expected_values", "dtype", "finite", "norm", "size_bytes"])
def test_an_update_comes_with_all_its_facts(example, fact: str) -> None:
    decision = example.decide(example.vary("egress", **{fact: None}))
    assert (decision.effect, decision.rule) == (
        "deny",
        "egress.update.shape" if fact != "finite" else decision.rule,
    )
    assert not decision.allowed


def test_a_long_update_is_clipped_and_not_refused(example) -> None:
    decision = example.decide(LONG)
    assert (decision.effect, decision.rule) == ("allow", "egress.update.max_norm")
    assert decision.clip_norm == 10.0
    assert decision.reason == "the update's norm of 12.5 is clipped to 10"
    assert decision.location == f"policy.yaml:{example.line('max_norm:')}:5"
    assert "raise egress.update.max_norm" in decision.remedy


def test_a_long_update_passes_every_other_rule_first(example) -> None:
    assert example.decide(example.vary("egress", norm=12.5, examples=1)).rule == "egress.metrics.minimum_count"
    assert example.decide(example.vary("egress", norm=12.5, size_bytes=1 << 40)).rule == "egress.update.max_bytes"


@pytest.mark.parametrize("stage", EVERY)
def test_the_policy_and_its_permit_hold_at_every_stage(example, stage: str) -> None:
    request = getattr(example, stage)
    first, last = dt.datetime(2026, 11, 1, tzinfo=dt.UTC), dt.datetime(2027, 6, 30, 23, 59, tzinfo=dt.UTC)
    minute = dt.timedelta(minutes=1)
    early = example.decide(request, now=first - minute)
    assert (early.effect, early.rule) == ("deny", "policy.effective")
    assert early.reason == ("policy charite-cardiology version 3 takes effect on 2026-11-01, and today is 2026-10-31")
    assert early.location == f"policy.yaml:{example.line('effective:')}:3"
    assert example.decide(request, now=first).allowed
    assert example.decide(request, now=last).allowed
    late = example.decide(request, now=last + minute)
    assert (late.effect, late.rule) == ("deny", "purposes.permit")
    assert late.reason == "permit FDZ-2026-0113 was valid until 2027-06-30, and today is 2027-07-01"
    assert late.location == f"policy.yaml:{example.line('expires: 2027')}:5"
    without = example.text.replace("  permit:\n    ref: FDZ-2026-0113\n    expires: 2027-06-30\n", "")
    assert example.decide(request, without, last + minute).allowed


def test_dates_are_utc(example) -> None:
    east = dt.timezone(dt.timedelta(hours=5))
    assert example.decide(example.view, now=dt.datetime(2026, 11, 1, 4, tzinfo=east)).rule == "policy.effective"
    assert example.decide(example.view, now=dt.datetime(2026, 11, 1, 5, tzinfo=east)).allowed


def test_an_approval_is_valid_through_its_last_day(example) -> None:
    request = example.vary("admission", app_digest=example.ended)
    assert example.decide(request, now=dt.datetime(2026, 11, 10, 23, tzinfo=dt.UTC)).allowed
    assert example.decide(request, now=dt.datetime(2026, 11, 11, tzinfo=dt.UTC)).rule == "apps.expires"


def test_the_rules_of_an_admission_are_asked_in_order(example) -> None:
    wrong = {
        "purpose": "POA",
        "parties": (Party("hub", "coordinator", "US"), ME),
        "app_digest": "sha256:" + "3" * 64,
        "dataset": "lung",
        "columns": ("ssn",),
        "rounds": 999,
        "metrics": ("leak",),
    }
    order = []
    while wrong:
        order.append(example.decide(example.vary("admission", **wrong)).rule)
        wrong.pop(next(iter(wrong)))
    assert order == [
        "purposes.allow",
        "residency.destinations",
        "apps.allow",
        "datasets.known",
        "datasets.columns",
        "runs.max_rounds",
        "egress.metrics.allow",
    ]


def test_own_purposes_are_matched_exactly(example) -> None:
    own = example.text.replace("vocabulary: duo", "vocabulary: own").replace("[HMB]", "[fraud]")
    assert example.decide(example.vary("admission", purpose="fraud"), own).allowed
    refused = example.decide(example.vary("admission", purpose="HMB"), own)
    assert refused.reason == "run purpose HMB is not allowed; the policy allows fraud"


def test_an_empty_list_allows_nothing(example) -> None:
    text = example.text.replace("[HMB]", "[]").replace("[EU, EEA, CH]", "[]")
    decision = example.decide(example.admission, text)
    assert decision.rule == "purposes.allow"
    assert decision.reason.endswith("the policy allows nothing")
    text = example.text.replace("[EU, EEA, CH]", "[]")
    assert example.decide(example.admission, text).rule == "residency.destinations"


def test_long_or_hostile_facts_do_not_reach_the_reason_whole(example) -> None:
    decision = example.decide(example.vary("admission", dataset="x\n\x1b[2J" + "y" * 10_000))
    assert len(decision.reason) < 300
    assert decision.reason.isprintable()
    many = example.decide(example.vary("admission", columns=tuple(f"c{i}" for i in range(5000))))
    assert "and 4988 more" in many.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": "50"}, "got str for rows, expected a whole number"),
        ({"rows": True}, "got bool for rows, expected a whole number"),
        ({"rows": math.nan}, "got float for rows, expected a whole number"),
        ({"rows": None}, "got NoneType for rows"),
        ({"columns": ["age"]}, "got list for columns, expected a tuple of texts"),
        ({"columns": (1,)}, "got tuple for columns, expected a tuple of texts"),
        ({"dataset": None}, "got NoneType for dataset, expected text"),
    ],
)
def test_a_fact_of_the_wrong_type_is_a_refusal(example, changes, words) -> None:
    decision = example.decide(example.vary("view", **changes))
    assert (decision.effect, decision.rule) == ("deny", "evaluation-error")
    assert words in decision.reason
    assert decision.location == "policy.yaml:1:1"
    assert decision.remedy


def test_what_is_no_request_is_a_refusal(example) -> None:
    for request in (None, "admission", 7, object(), {"purpose": "HMB"}):
        decision = example.decide(request)
        assert (decision.effect, decision.rule) == ("deny", "evaluation-error")
        assert "expected one of: Admission, View, Ingress, Egress, Release" in decision.reason


def test_a_time_without_a_zone_is_a_refusal(example) -> None:
    naive = dt.datetime(2026, 11, 20)  # noqa: DTZ001 - what is tested
    decision = example.decide(example.view, now=naive)
    assert (decision.effect, decision.rule) == ("deny", "evaluation-error")
    assert "without a time zone" in decision.reason


def test_what_is_no_policy_is_a_refusal(example) -> None:
    decision = decide(None, example.view, example.now)
    assert (decision.effect, decision.rule, decision.location) == ("deny", "evaluation-error", "no policy")


def test_an_error_while_deciding_is_a_refusal(example, monkeypatch) -> None:
    policy = load_policy(example.text)

    def broken(context, request):
        raise ZeroDivisionError("secret detail")

    stage = Stage("view", (Check("view.allow", broken),), broken)
    monkeypatch.setitem(decide.__globals__["_STAGES"], type(example.view), stage)
    decision = decide(policy, example.view, example.now)
    assert (decision.effect, decision.rule) == ("deny", "evaluation-error")
    assert "ZeroDivisionError" in decision.reason
    assert "secret" not in decision.reason


def test_a_number_too_large_to_compare_is_a_refusal(example) -> None:
    decision = example.decide(example.vary("egress", metrics={"loss": 10**400}))
    assert (decision.effect, decision.rule) == ("deny", "evaluation-error")


def test_the_table_is_complete() -> None:
    for rule_id, rule in RULES.items():
        assert rule.id == rule_id
        assert set(rule.stages) <= set(EVERY)
        assert rule.title
        assert rule.protects.endswith(".")
        assert list(Formatter().parse(rule.message))
        assert rule.remedy or rule_id.split(".")[-1] == "allow"
    for _, stage, *_ in DENIED:
        assert stage in EVERY
    assert all(stage in RULES[rule].stages for rule, stage, *_ in DENIED)
