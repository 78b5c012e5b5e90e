"""Rules of the optional sections: each refuses what it must, in its words and at its place, and is silent if absent."""

import dataclasses
import datetime as dt
import math

import pytest

from policies.engine import decide, trace
from policies.model import load_policy
from policies.request import Certificate, LogHealth, Party, Privacy
from policies.rules import EVERY, RULES

from .test_rules import DENIED as FIRST

NOW = dt.datetime(2026, 11, 20, 19, tzinfo=dt.UTC)
HUB, ME = Party("hub", "coordinator", "DE"), Party("charite", "silo", "DE")
LYON, OPS = Party("lyon", "silo", "FR"), Party("ops", "operator", "CH")
RKI = Party("rki", "operator", "DE")
PRIVACY = Privacy(
    mode="example_dp", clip_norm=1.0, noise_multiplier=0.8, epsilon=3.0, spent=8.0, delta=1e-5, secure_aggregation=True
)
LOG = LogHealth(
    witnesses=2,
    verified=NOW - dt.timedelta(days=1),
    clock_skew=0.5,
    oldest_payload=NOW - dt.timedelta(days=400),
    payloads_known=True,
)


def private(**changes: object) -> dict[str, object]:
    return {"privacy": dataclasses.replace(PRIVACY, **changes)}


def log(**changes: object) -> dict[str, object]:
    return {"log": dataclasses.replace(LOG, **changes)}


def certificate(issued: int, left: int) -> dict[str, object]:
    day = dt.timedelta(days=1)
    return {"certificates": (Certificate("ops", NOW - issued * day, NOW + left * day),)}


# rule, stage, changed facts, words of the policy's line that must be named, words of the reason
DENIED = [
    ("purposes.persons", "admission", {"parties": (HUB, ME, LYON, Party("eve", "operator", "DE"))}, "persons:", "eve"),
    ("purposes.persons", "admission", {"parties": (HUB, ME, LYON)}, "persons:", "operator unknown"),
    ("purposes.public_bodies", "admission", {"purpose": "ehds-53-1-a"}, "public_bodies:", "operator ops is not one"),
    (
        "residency.parties",
        "admission",
        {"parties": (HUB, ME, Party("nice", "silo", "FR"), OPS)},
        "model_update:",
        "nice",
    ),
    ("default-deny", "admission", {"statistics": True}, "destinations:", "failed on the class of artifact, statistics"),
    ("apps.reviewers", "admission", {"reviewers": ("anna",)}, "- {digest", "has 1 valid approval (anna)"),
    ("apps.reviewers", "admission", {"reviewers": ("anna", "anna", "zoe")}, "- {digest", "1 valid approval"),
    ("apps.reviewers", "admission", {"authors": ("fritz", "anna")}, "- {digest", "(chen), whose author is fritz, anna"),
    ("apps.reviewers", "admission", {"authors": ()}, "- {digest", "whose author is not known"),
    ("apps.uses", "admission", {"uses": 3}, "- {digest", "was admitted for 3 runs; its approval is for 3 runs"),
    ("apps.uses", "admission", {"uses": None}, "- {digest", "an unknown number of runs"),
    ("datasets.contract", "view", {"contract": None}, "contract:", "no contract, expected sha256:cccccccccccc"),
    ("datasets.contract", "view", {"contract": "sha256:" + "d" * 64}, "contract:", "by contract sha256:dddddddddddd"),
    ("datasets.columns.pseudonymize", "view", {"pseudonymized": ()}, "pseudonymize:", "column pid of dataset heart"),
    ("datasets.rows.consent", "view", {"consent": None}, "rows:", "built by no column, expected the consent in column"),
    ("datasets.rows.consent", "view", {"consent": "other"}, "rows:", "built by column other"),
    ("datasets.rows.opt_out", "view", {"opt_out": None}, "rows:", "expected the objections in column ehds_opt_out"),
    ("runs.max_concurrent", "admission", {"running": 1}, "runs:", "1 other run is in progress; the policy allows 1"),
    ("runs.max_concurrent", "admission", {"running": None}, "runs:", "not known"),
    ("runs.minimum_silos", "admission", {"quorum": 1}, "runs:", "needs 1 silo; the policy needs 2"),
    ("runs.minimum_silos", "admission", {"quorum": 5, "parties": (HUB, ME, OPS)}, "runs:", "needs 1 silo"),
    ("runs.minimum_silos", "admission", {"quorum": None}, "runs:", "quorum is not known"),
    ("privacy.mode", "admission", {"privacy": None}, "mode:", "the run does not say"),
    ("privacy.mode", "admission", private(mode="none"), "mode:", "trains with mode none"),
    ("privacy.mode", "egress", {"privacy": None}, "mode:", "the run does not say"),
    ("privacy.clip_norm", "admission", private(clip_norm=1.5), "clip_norm:", "a clip norm of 1.5"),
    ("privacy.clip_norm", "admission", private(clip_norm=None), "clip_norm:", "says nothing of a clip norm"),
    ("privacy.clip_norm", "admission", private(clip_norm=math.nan), "clip_norm:", "nan"),
    ("privacy.noise_multiplier", "admission", private(noise_multiplier=0.5), "noise_multiplier:", "of 0.5"),
    ("privacy.noise_multiplier", "admission", private(noise_multiplier=math.inf), "noise_multiplier:", "inf"),
    ("privacy.max_epsilon", "admission", private(epsilon=3.1), "max_epsilon:", "an epsilon of 3.1 at delta 1e-05"),
    ("privacy.max_epsilon", "admission", private(epsilon=math.nan), "max_epsilon:", "nan"),
    ("privacy.max_epsilon", "admission", private(epsilon=None), "max_epsilon:", "says nothing of an epsilon"),
    ("privacy.budget", "admission", private(spent=8.1), "budget:", "epsilon 8.1 at delta 1e-05 would be spent"),
    ("privacy.budget", "admission", private(spent=None), "budget:", "what would be spent is not known"),
    ("privacy.budget", "egress", private(spent=8.1), "budget:", "epsilon 8 at delta 1e-05 in P1Y"),
    ("privacy.budget", "egress", private(delta=1e-4), "budget:", "at delta 0.0001"),
    ("privacy.secure_aggregation", "admission", private(secure_aggregation=False), "secure_aggregation:", "shows"),
    ("privacy.secure_aggregation", "egress", private(secure_aggregation=False), "secure_aggregation:", "shows"),
    ("identity.certificates.max_age", "admission", certificate(91, 9), "identity:", "of ops was issued on 2026-08-21"),
    ("identity.certificates.max_age", "admission", certificate(-1, 9), "identity:", "issued on 2026-11-21"),
    ("identity.certificates.max_age", "admission", {"certificates": ()}, "identity:", "a day not known"),
    ("identity.certificates.min_left", "admission", certificate(1, 1), "identity:", "of ops ends on 2026-11-21"),
    ("audit.retention.maximum", "admission", {"log": None}, "retention:", "not known how old"),
    ("audit.retention.maximum", "admission", log(payloads_known=False), "retention:", "not known how old"),
    (
        "audit.retention.maximum",
        "admission",
        log(oldest_payload=NOW - dt.timedelta(days=3660)),
        "retention:",
        "keeps a payload of 2016-11-12; the policy keeps payloads for at most P10Y",
    ),
    ("audit.witnesses.quorum", "admission", log(witnesses=1), "witnesses:", "1 member cosigned the log"),
    ("audit.witnesses.quorum", "admission", log(witnesses=None), "witnesses:", "not known who cosigned"),
    ("audit.verify_age", "admission", log(verified=NOW - dt.timedelta(days=8)), "verify_age:", "on 2026-11-12"),
    ("audit.verify_age", "admission", log(verified=NOW + dt.timedelta(days=1)), "verify_age:", "on 2026-11-21"),
    ("audit.verify_age", "admission", log(verified=None), "verify_age:", "not known when"),
    ("audit.clock_skew", "admission", log(clock_skew=-6.0), "clock_skew:", "off by 6 seconds"),
    ("audit.clock_skew", "admission", log(clock_skew=math.nan), "clock_skew:", "nan"),
    ("audit.clock_skew", "admission", log(clock_skew=None), "clock_skew:", "not known"),
    ("release.asked", "admission", {"release_asked": None}, "release:", "the coordinator does not say"),
    ("release.asked", "admission", {"release_asked": False}, "release:", "needs 2 of dora, emil, lyon"),
    ("release.approvers", "release", {"approvals": ("dora", "lyon")}, "release:", "1 approver (dora) agreed"),
    ("release.approvers", "release", {"approvals": ("dora", "dora", "zoe")}, "release:", "1 approver"),
    ("residency.destinations", "release", {"party": Party("boston", "silo", "US")}, "final_model:", "the final model"),
    ("default-deny", "release", {"party": Party("x", "witness", "DE")}, "destinations:", "in the role witness"),
]


@pytest.mark.parametrize(("rule", "stage", "changes", "at", "reason"), DENIED)
def test_a_rule_refuses(full, rule, stage, changes, at, reason) -> None:
    decision = full.decide(full.vary(stage, **changes))
    assert (decision.effect, decision.rule) == ("deny", rule), decision
    assert reason in decision.reason
    assert decision.remedy
    assert decision.location.startswith(f"policy.yaml:{full.line(at)}:"), decision.location


@pytest.mark.parametrize("stage", EVERY)
def test_what_every_section_lets_pass_is_allowed(full, stage: str) -> None:
    decision = full.decide(getattr(full, stage))
    assert (decision.effect, decision.rule) == ("allow", f"{stage}.allow"), decision


@pytest.mark.parametrize(
    ("rule", "last"),
    [
        ("purposes.permit", "2027-06-30"),
        ("purposes.ethics", "2027-05-31"),
        ("purposes.dpia", "2027-04-30"),
        ("purposes.agreement", "2027-03-31"),
        ("attestations", "2027-02-28"),
        ("inventory.validated", "2027-02-15"),
    ],
)
@pytest.mark.parametrize("stage", EVERY)
def test_a_document_holds_through_its_last_day_at_every_stage(full, rule: str, last: str, stage: str) -> None:
    day = dt.date.fromisoformat(last)
    # Documents that end before the one under test are given its own day.
    text = full.text
    for earlier in ("2027-02-15", "2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31", "2027-06-30"):
        text = text.replace(earlier, "2028-01-01") if earlier != last else text
    request = full.view if stage == "admission" else getattr(full, stage)
    end = dt.datetime(day.year, day.month, day.day, 23, 59, tzinfo=dt.UTC)
    assert full.decide(request, text, end).allowed
    late = full.decide(getattr(full, stage), text, end + dt.timedelta(minutes=1))
    assert (late.effect, late.rule) == ("deny", rule)
    assert f"was {'due' if 'inventory' in rule else 'valid'} until {last}" in late.reason
    assert late.location.startswith(f"policy.yaml:{full.line(last)}:")


def test_a_denied_class_is_not_read_even_where_it_is_allowed(full) -> None:
    text = full.text.replace("pid: medical_record", "pid: name")
    for request in (full.admission, full.view):
        decision = full.decide(request, text)
        assert decision.rule == "datasets.columns.deny"
        assert "column pid of dataset heart is name (names)" in decision.reason


def test_a_public_body_may_use_what_is_reserved_to_it(full) -> None:
    request = full.vary("admission", purpose="ehds-53-1-a", parties=(HUB, ME, LYON, RKI))
    assert full.decide(request).allowed


def test_outside_the_window_no_run_is_admitted(full) -> None:
    decision = full.decide(full.admission, now=dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC))
    assert decision.rule == "runs.windows"
    assert decision.reason == "it is Fri 13:00 Europe/Berlin; the policy allows Mon-Fri 18:00-06:00 Europe/Berlin"


def test_without_statistics_in_the_policy_none_leave_and_with_them_they_go_where_they_may(full) -> None:
    asking = full.vary("admission", statistics=True)
    given = full.text.replace(
        "    final_model:", "    statistics: {countries: [DE, CH], basis: gdpr-art-9-2-j}\n    final_model:"
    )
    assert full.decide(asking, given).rule == "default-deny"
    given = given.replace("egress:\n", "egress:\n  statistics: {allow: [mean], minimum_cell: 10}\n", 1)
    assert full.decide(asking, given).allowed
    abroad = given.replace("statistics: {countries: [DE, CH]", "statistics: {countries: [DE]")
    decision = full.decide(asking, abroad)
    assert decision.rule == "residency.destinations"
    assert "operator ops in CH (Switzerland) would receive statistics of the data" in decision.reason


def test_a_final_model_goes_where_updates_may_unless_the_policy_says_otherwise(example) -> None:
    request = example.vary("admission", parties=(HUB, ME, Party("ops", "operator", "US")))
    refused = example.decide(request)
    assert refused.rule == "residency.destinations"
    assert "operator ops in US (United States) would receive the final model; the policy allows EU" in refused.reason
    assert "add US to residency.destinations.model_update.countries" in refused.remedy
    text = example.text.replace(
        "metrics: {countries", "final_model: {countries: [US], basis: gdpr-art-49}\n    metrics: {countries", 1
    )
    text = text.replace("countries: [US]", "countries: [DE, US]")
    assert example.decide(request, text).allowed


def test_a_column_may_be_readable_as_a_pseudonym_alone(full) -> None:
    text = full.text.replace("allow: [age, sex, cp, pid]", "allow: [age, sex, cp]")
    assert full.decide(full.admission, text).allowed
    assert full.decide(full.view, text).allowed
    assert full.decide(full.vary("view", pseudonymized=()), text).rule == "datasets.columns.pseudonymize"


def test_epsilon_counted_at_a_smaller_delta_is_enough(full) -> None:
    assert full.decide(full.vary("admission", **private(delta=1e-6))).allowed


@pytest.mark.parametrize("stage", EVERY)
def test_a_section_that_is_absent_asks_for_no_fact(example, stage: str) -> None:
    """The small policy decides on requests that carry none of the later facts."""
    assert example.decide(getattr(example, stage)).allowed


def test_every_rule_has_a_case() -> None:
    tested = {case[0] for case in (*FIRST, *DENIED)} | {f"{stage}.allow" for stage in EVERY}
    tested |= {"policy.effective", "purposes.permit", "purposes.ethics", "purposes.dpia", "purposes.agreement"}
    tested |= {"egress.statistics.allow", "egress.statistics.per_silo", "egress.statistics.minimum_cell"}
    tested |= {"attestations", "inventory.validated", "runs.windows", "datasets.columns.deny", "evaluation-error"}
    assert tested == set(RULES)
    assert all(stage in RULES[rule].stages for rule, stage, *_ in DENIED)


# -- traces


@pytest.mark.parametrize("stage", EVERY)
def test_a_trace_of_what_is_allowed_has_every_rule_passed_or_absent(full, stage: str) -> None:
    steps = trace(load_policy(full.text, "policy.yaml"), getattr(full, stage), full.now)
    assert {step.outcome for step in steps} <= {"passed", "absent"}
    assert steps[-1].rule == f"{stage}.allow"
    asked = [step.rule for step in steps]
    assert len(asked) == len(set(asked))


def test_a_trace_goes_on_after_a_refusal_and_says_what_was_not_asked(full) -> None:
    request = full.vary("admission", dataset="lung", running=1)
    steps = {step.rule: step for step in trace(load_policy(full.text, "policy.yaml"), request, full.now)}
    assert steps["datasets.known"].outcome == "refused"
    assert steps["datasets.columns"].outcome == "unasked"
    assert steps["runs.max_concurrent"].outcome == "refused"
    assert steps["apps.uses"].outcome == "passed"
    assert steps["admission.allow"].outcome == "unasked"
    assert steps["datasets.known"].decision == full.decide(request)


@pytest.mark.parametrize(("rule", "stage", "changes", "at", "reason"), DENIED)
def test_the_first_refusal_of_a_trace_is_the_decision(full, rule, stage, changes, at, reason) -> None:
    request = full.vary(stage, **changes)
    steps = trace(load_policy(full.text, "policy.yaml"), request, full.now)
    assert next(step.decision for step in steps if step.outcome == "refused") == full.decide(request)


def test_what_cannot_be_decided_is_a_trace_of_one_refusal(full) -> None:
    (step,) = trace(load_policy(full.text), "no request", full.now)
    assert (step.rule, step.outcome) == ("evaluation-error", "refused")


# -- rules whose refusals are only recorded


def test_an_observed_rule_does_not_refuse_and_is_noted(full) -> None:
    policy = load_policy(full.text, "policy.yaml")
    request = full.vary("admission", running=1, quorum=1)
    observed = decide(policy, request, full.now, {"runs.max_concurrent", "runs.minimum_silos"})
    assert observed.allowed
    assert [decision.rule for decision in observed.observed] == ["runs.max_concurrent", "runs.minimum_silos"]
    assert [decision.effect for decision in observed.observed] == ["deny", "deny"]
    refused = decide(policy, request, full.now, {"runs.max_concurrent"})
    assert (refused.rule, [decision.rule for decision in refused.observed]) == (
        "runs.minimum_silos",
        ["runs.max_concurrent"],
    )


@pytest.mark.parametrize(
    ("rule", "stage", "changes", "at", "reason"), [case for case in DENIED if RULES[case[0]].mandatory]
)
def test_a_mandatory_rule_refuses_even_if_it_is_to_be_observed(full, rule, stage, changes, at, reason) -> None:
    decision = decide(load_policy(full.text), full.vary(stage, **changes), full.now, set(RULES))
    assert (decision.effect, decision.rule) == ("deny", rule)


def test_the_rules_that_protect_most_are_mandatory() -> None:
    mandatory = {rule.id for rule in RULES.values() if rule.mandatory}
    assert {rule for rule in RULES if rule.startswith(("residency.", "privacy.", "apps."))} <= mandatory
    assert {"evaluation-error", "default-deny", "purposes.allow"} <= mandatory
