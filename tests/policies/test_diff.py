"""What `concordat policy diff` says of changes made by hand, and the command."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policies.cli import app
from policies.diff import spans
from policies.diff.compare import CLIPPING, compare
from policies.diff.groups import lines, plain
from policies.engine import decide
from policies.model import load_policy
from policies.request import (
    Party,
)
from policies.stages.places import RECEIVED

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
WINDOWS = ["Mon-Fri 18:00-06:00 Europe/Berlin", "Sat,Sun 00:00-24:00 America/New_York", "Wed 01:30-02:30 Europe/Berlin"]


def _changed(example, **replacements: str):
    text = example.text
    for old, new in replacements.values():
        assert old in text
        text = text.replace(old, new)
    return load_policy(text)


def _boxes(example, old: str, new: str, facet: str) -> dict[str, list[dict[str, list[str]]]]:
    found = plain(compare(load_policy(example.text), _changed(example, change=(old, new)), NOW))
    return {
        direction: [entry["facts"] for entry in found[f"newly_{direction}"] if entry["facet"] == facet]
        for direction in ("allowed", "denied")
    }


@pytest.mark.parametrize(
    ("old", "new", "facet", "allowed", "denied"),
    [
        ("[HMB]", "[GRU]", "purpose of a run", [{"operator": ["any"], "purpose": ["GRU", "POA"]}], []),
        ("max_rounds: 200", "max_rounds: 150", "rounds", [], [{"rounds": ["151 to 200"]}]),
        ("minimum: 50", "minimum: 40", "rows of a view", [{"dataset": ["heart"], "rows": ["40 to 49"]}], []),
        ("minimum_count: 20", "minimum_count: 21", "examples behind a reply", [], [{"examples": ["20"]}]),
        (
            "[age, sex, cp]",
            "[age, sex, chol]",
            "column",
            [{"dataset": ["heart"], "column": ["chol"]}],
            [{"dataset": ["heart"], "column": ["cp"]}],
        ),
        ("  heart:\n", "  lung:\n", "column", [{"dataset": ["lung"], "column": ["age", "sex", "cp"]}],
         [{"dataset": ["heart"], "column": ["age", "sex", "cp"]}]),
        ("2027-06-30", "2027-06-28", "time", [], [{"day": ["2027-06-29 to 2027-06-30"]}]),
        ("2026-11-10", "2026-11-12", "app",
         [{"digest": ["sha256:" + "2" * 64], "day": ["2026-11-11 to 2026-11-12"]}], []),
        ("[loss, auc,", "[loss,", "metric", [], [{"metric": ["auc"]}]),
        ("max_norm: 10.0", "max_norm: 20.0", CLIPPING, [{"norm": ["above 10 to 20"]}], []),
        ("  max_rounds: 200", "  max_rounds: 200\n  max_concurrent: 2", "other runs in progress", [],
         [{"runs": ["unknown", "up to -1", "from 2"]}]),
        ("silo: DE", "silo: FR", "place of the silo", [{"country": ["FR"]}], [{"country": ["DE"]}]),
    ],
)  # fmt: skip
def test_a_change_is_reported_as_what_it_allows_and_denies(example, old, new, facet, allowed, denied) -> None:
    assert _boxes(example, old, new, facet) == {"allowed": allowed, "denied": denied}


THRESHOLDS = [
    ("uses: 3", "uses: 5", "use of an app", "allowed", {"runs before": ["3 to 4"]}),
    ("reviewers: 2", "reviewers: 3", "review of an app", "denied", {"approved by": [
        "anna and bela", "anna and chen", "bela and chen"]}),
    ("minimum_silos: 2", "minimum_silos: 4", "silos in a round", "denied", {"silos": ["2 to 3"]}),
    ("max_concurrent: 1", "max_concurrent: 3", "other runs in progress", "allowed", {"runs": ["1 to 2"]}),
    ("clip_norm: 1.0", "clip_norm: 2.0", "clip norm", "allowed", {"norm": ["above 1 to 2"]}),
    ("noise_multiplier: 0.8", "noise_multiplier: 1.2", "noise multiplier", "denied",
     {"noise": ["0.8 to below 1.2"]}),
    ("max_epsilon: 3.0", "max_epsilon: 4.0", "epsilon of a run", "allowed", {"epsilon": ["above 3 to 4"]}),
    ("{epsilon: 8.0", "{epsilon: 6.0", "epsilon spent in all", "denied", {"epsilon": ["above 6 to 8"]}),
    ("delta: 1e-5", "delta: 1e-4", "epsilon spent in all", "allowed", {"delta": ["above 1e-05 to 0.0001"]}),
    ("secure_aggregation: required", "secure_aggregation: allowed", "secure aggregation", "allowed",
     {"used": ["no"]}),
    ("minimum: 2}", "minimum: 1}", "release of a model", "allowed", {}),
    ("max_age: P90D", "max_age: P100D", "age of a certificate", "allowed", {"age": ["above P90D to P100D"]}),
    ("min_left: P2D", "min_left: P4D", "time left of a certificate", "denied", {"left": ["P2D to below P4D"]}),
    ("maximum: P10Y", "maximum: P5Y", "age of the oldest payload", "denied", {"age": ["above P5Y to P10Y"]}),
    ("quorum: 2", "quorum: 3", "witnesses of the log", "denied", {"witnesses": ["2"]}),
    ("verify_age: P7D", "verify_age: P1D", "time since the log was verified", "denied",
     {"age": ["above P1D to P7D"]}),
    ("clock_skew: 5.0", "clock_skew: 4.0", "clock skew", "denied", {"seconds": ["above 4 to 5"]}),
    ("deny: [name, date]", "deny: [name, date, medical_record]", "column", "denied", {"column": ["pid"]}),
    ("consent: research_consent", "consent: broad_consent", "view by consent", "denied",
     {"column": ["research_consent"]}),
    ("contract: sha256:c", "contract: sha256:d", "view by contract", "allowed",
     {"contract": ["sha256:d" + "c" * 63]}),
    ("opt_out: ehds_opt_out", "opt_out: no_research", "view by objection", "allowed", {"column": ["no_research"]}),
    ("pseudonymize: [pid]", "pseudonymize: [pid, age]", "column without pseudonyms", "denied", {"column": ["age"]}),
    ("persons: [ops, rki]", "persons: [ops, rki, mel]", "operator", "allowed", {"operator": ["mel"]}),
    ("public_bodies: [rki]", "public_bodies: [rki, ops]", "purpose of a run", "allowed", {
        "operator": ["ops"], "purpose": ["ehds-53-1-a"]}),
    ("2027-02-15", "2027-02-14", "time", "denied", {"day": ["2027-02-15"]}),
    ("parties: [hub, lyon]", "parties: [hub, lyon, nice]", "receiver in a run", "allowed", {
        "role": ["coordinator", "silo"], "party": ["nice"]}),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "facet", "direction", "facts"), THRESHOLDS)
def test_a_changed_threshold_of_any_section_is_reported_to_the_value(full, old, new, facet, direction, facts) -> None:
    assert full.text.count(old) == 1, old
    found = plain(compare(load_policy(full.text), load_policy(full.text.replace(old, new)), NOW))
    own = [entry for entry in found[f"newly_{direction}"] if entry["facet"] == facet]
    assert any(entry["facts"] | facts == entry["facts"] for entry in own), (own, found)
    assert not found[f"newly_{'denied' if direction == 'allowed' else 'allowed'}"] or facet.startswith("view by")


def _variants(full) -> list[tuple[object, dt.datetime]]:
    """Requests that the full policy allows, or that one fact keeps from it: at, below and above each threshold."""
    admission, egress, certificate = full.admission, full.egress, full.admission.certificates[0]
    privacy, log, now = admission.privacy, admission.log, full.now

    def days(count: float) -> dt.datetime:
        return now - dt.timedelta(days=count)

    facts = [
        *({"uses": uses} for uses in (2, 3, 4)),
        *({"reviewers": names} for names in (("anna", "chen"), ("anna", "bela", "chen"))),
        *({"quorum": quorum} for quorum in (2, 3)),
        *({"running": running} for running in (0, 1, 2)),
        *({"privacy": dataclasses.replace(privacy, clip_norm=norm)} for norm in (1.0, 1.5)),
        *({"privacy": dataclasses.replace(privacy, noise_multiplier=noise)} for noise in (0.8, 1.0, 1.2)),
        *({"privacy": dataclasses.replace(privacy, epsilon=epsilon)} for epsilon in (3.0, 3.5)),
        *({"privacy": dataclasses.replace(privacy, spent=spent)} for spent in (6.0, 7.0, 8.0)),
        {"privacy": dataclasses.replace(privacy, delta=1e-4)},
        {"privacy": dataclasses.replace(privacy, secure_aggregation=False)},
        *({"log": dataclasses.replace(log, witnesses=count)} for count in (2, 3)),
        *({"log": dataclasses.replace(log, verified=days(age))} for age in (0.5, 3)),
        *({"log": dataclasses.replace(log, clock_skew=skew)} for skew in (4.0, 4.5)),
        {"log": dataclasses.replace(log, oldest_payload=days(6 * 365))},
        {"certificates": (dataclasses.replace(certificate, issued=days(95)),)},
        {"certificates": (dataclasses.replace(certificate, expires=days(-3)),)},
        {"columns": ("pid",)},
        {"purpose": "ehds-53-1-a"},
        {"parties": (*admission.parties[:3], Party("mel", "operator", "CH"))},
        {"parties": (*admission.parties, Party("nice", "silo", "FR"))},
    ]
    requests = [dataclasses.replace(admission, **changed) for changed in facts]
    requests += [
        full.view,
        dataclasses.replace(full.view, opt_out="no_research"),
        dataclasses.replace(full.view, contract="sha256:d" + "c" * 63),
        full.ingress,
        egress,
        dataclasses.replace(full.release, party=Party("ops", "operator", "CH"), approvals=("dora",)),
    ]
    return [(request, now) for request in requests] + [(full.view, dt.datetime(2027, 2, 15, 12, tzinfo=dt.UTC))]


@pytest.mark.parametrize(("old", "new"), [row[:2] for row in THRESHOLDS])
def test_a_request_that_a_change_lets_through_or_keeps_back_is_in_the_difference(full, old, new) -> None:
    """Whole decisions, all rules together: each change turns one, and the turn is reported under the rule's facet."""
    policies = load_policy(full.text), load_policy(full.text.replace(old, new))
    difference = compare(*policies, full.now)
    turned = 0
    for request, now in _variants(full):
        decisions = [decide(policy, request, now) for policy in policies]
        if decisions[0].allowed != decisions[1].allowed:
            turned += 1
            direction, refusal = ("allowed", decisions[0]) if decisions[1].allowed else ("denied", decisions[1])
            reported = [change for change in difference.changes if change.direction == direction]
            assert refusal.rule in {change.refusal.rule for change in reported if change.refusal}, request
    assert turned


def test_a_destination_is_reported_by_role_and_country(example) -> None:
    boxes = _boxes(
        example, "metrics: {countries: [EU, EEA, CH, US]", "metrics: {countries: [EU, EEA, CH]", "receiver in a run"
    )
    assert boxes["allowed"] == []
    # US was no place for updates, so only operators, who get metrics and the final model, could lose it: it was none.
    assert boxes["denied"] == []


def test_a_country_for_everything_is_reported_for_every_role(example) -> None:
    boxes = _boxes(
        example,
        "model_update: {countries: [EU, EEA, CH]",
        "model_update: {countries: [EU, EEA, CH, US]",
        "receiver in a run",
    )
    assert boxes["denied"] == []
    (box,) = boxes["allowed"]
    assert box["country"] == ["US"]
    assert box["role"] == ["any"] or set(box["role"]) == set(RECEIVED)


def test_windows_are_compared_by_the_minute_of_the_local_week(example) -> None:
    boxes = _boxes(
        example,
        "  max_rounds: 200",
        '  max_rounds: 200\n  windows: ["Sat-Sun 00:00-24:00 Europe/Berlin"]',
        "time of the week",
    )
    assert boxes == {"allowed": [], "denied": [{"local time": ["Mon 00:00 to Sat 00:00"]}]}


def test_a_field_that_no_rule_of_a_decision_reads_is_still_named(example) -> None:
    changed = _changed(example, change=("owner: dpo@charite.example", "owner: someone"))
    difference = compare(load_policy(example.text), changed, NOW)
    assert difference.same
    assert [field.path for field in difference.fields] == ["metadata.owner"]


def test_a_policy_that_allows_nothing_is_said_to(example) -> None:
    changed = _changed(example, change=("allow: [HMB]", "allow: []"))
    difference = compare(load_policy(example.text), changed, NOW)
    assert ("purpose of a run", 1) in difference.everything
    assert "note: the second policy refuses every purpose of a run" in lines(difference)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_the_ranges_of_a_week_end_where_a_window_opens_or_closes_also_when_clocks_change(day: str) -> None:
    """Every minute of the day on which Berlin changes its clock is as its range says."""
    from policies.calendar import parse_window

    windows = [parse_window(text) for text in (*WINDOWS, "Sun 02:15-02:45 Europe/Berlin")]
    start = dt.datetime.fromisoformat(f"{day}T00:00:00+00:00") - dt.timedelta(days=1)
    found = spans.week(windows, start)
    for minute in range(3 * 1440):
        moment = start + dt.timedelta(minutes=minute)
        span = next(s for s in reversed(found) if s.sample <= moment)
        assert [w.contains(span.sample) for w in windows] == [w.contains(moment) for w in windows], moment


@given(st.lists(st.integers(-5, 5), max_size=3), st.integers(-9, 9))
def test_a_whole_number_is_as_the_sample_of_its_range(thresholds, number) -> None:
    found = [s for s in spans.whole(thresholds) if s.sample <= number] or [spans.whole(thresholds)[0]]
    for threshold in thresholds:
        assert (found[-1].sample >= threshold) == (number >= threshold)


# -- the command

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def two(tmp_path: Path, example) -> tuple[str, str]:
    (tmp_path / "a.yaml").write_text(example.text)
    (tmp_path / "b.yaml").write_text(example.text.replace("[HMB]", "[GRU]"))
    return str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")


def test_the_command_fails_where_anything_is_newly_allowed(two) -> None:
    result = runner.invoke(app, ["diff", *two])
    assert result.exit_code == 1
    assert "    purpose GRU, POA (refused before by purposes.allow)" in result.stdout.splitlines()


def test_the_command_succeeds_where_the_second_is_stricter_or_the_same(two) -> None:
    assert runner.invoke(app, ["diff", two[1], two[0]]).exit_code == 0
    assert runner.invoke(app, ["diff", two[0], two[0]]).stdout == "newly allowed: nothing\nnewly denied: nothing\n"


def test_the_command_prints_json(two) -> None:
    found = json.loads(runner.invoke(app, ["diff", *two, "--json"]).stdout)
    assert found["looser"] is True
    assert found["newly_allowed"][0]["facts"] == {"operator": ["any"], "purpose": ["GRU", "POA"]}
