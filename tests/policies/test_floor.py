"""The federation's floor: a silo may be stricter than it, never looser, and is told where it is."""

import pytest
from typer.testing import CliRunner

from policies.cli import app
from policies.errors import DocumentError
from policies.floor import FederationPolicy, load_floor, looser_than
from policies.model import load_policy

FLOOR = """\
apiVersion: concordat/v1
kind: FederationPolicy
metadata: {name: heart-consortium, version: 2, owner: board@heart.example, effective: 2026-01-01}
applies: [gdpr]
destinations: {model_update: [EU, CH], metrics: [EU, CH], final_model: [EU, CH], statistics: [EU]}
purposes: {vocabulary: ehds, allow: [ehds-53-1-e, ehds-53-1-a]}
metrics: [loss, auc, accuracy, num_examples]
limits:
  rows_minimum: 50
  reviewers: 2
  max_rounds: 200
  minimum_silos: 2
  minimum_count: 20
  max_norm: 10.0
  max_bytes: 64MiB
privacy:
  mode: example_dp
  clip_norm: 1.0
  noise_multiplier: 0.8
  max_epsilon: 3.0
  budget: {epsilon: 8.0, delta: 1.0e-5, per: dataset, window: P1Y}
  secure_aggregation: required
identity: {certificates: {max_age: P90D, min_left: P2D}}
audit:
  retention: {minimum: P1Y, maximum: P10Y}
  witnesses: {quorum: 2}
  verify_age: P7D
  clock_skew: 5.0
"""


def looser(text: str, floor: str = FLOOR) -> list[str]:
    return [str(problem) for problem in looser_than(load_policy(text, "policy.yaml"), load_floor(floor).model)]


def test_a_policy_at_the_floor_is_not_looser(full) -> None:
    assert looser(full.text) == []


def test_a_floor_that_says_nothing_leaves_everything_to_the_silos(example, full) -> None:
    nothing = FLOOR[: FLOOR.index("applies")]
    assert looser(example.text, nothing) == []
    assert looser(full.text, nothing) == []


# what is changed in a policy at the floor, the field that is named, what was found, what is allowed
LOOSER = [
    (("applies: [gdpr, ehds, sgb-v-393, dora]", "applies: [ehds]"), "applies", "ehds", "also gdpr"),
    (
        ("model_update: {countries: [EU, CH]", "model_update: {countries: [EU, CH, NO]"),
        "residency.destinations.model_update.countries",
        "NO (Norway)",
        "countries within EU (European Union), CH (Switzerland)",
    ),
    (
        ("final_model: {countries: [EU, CH]", "final_model: {countries: [EEA, CH]"),
        "residency.destinations.final_model.countries",
        "IS (Iceland), LI (Liechtenstein), NO (Norway)",
        "countries within",
    ),
    (
        ("vocabulary: ehds\n  allow: [ehds-53-1-e, ehds-53-1-a]", "vocabulary: duo\n  allow: [HMB]"),
        "purposes.vocabulary",
        "duo",
        "ehds",
    ),
    (("ehds-53-1-a]", "ehds-53-1-f]"), "purposes.allow.1", "ehds-53-1-f", "a purpose within ehds-53-1-e"),
    (("[loss, auc, num_examples]", "[loss, age]"), "egress.metrics.allow.1", "age", "one of loss, auc"),
    (("minimum: 50", "minimum: 49"), "datasets.heart.rows.minimum", "49", "at least 50"),
    (("reviewers: 2,", "reviewers: 1,"), "apps.allow.0.reviewers", "1", "at least 2"),
    ((", reviewers: 2,", ","), "apps.allow.0.reviewers", "nothing", "at least 2"),
    (("max_rounds: 200", "max_rounds: 201"), "runs.max_rounds", "201", "at most 200"),
    ((", minimum_silos: 2", ""), "runs.minimum_silos", "nothing", "at least 2"),
    (("minimum_count: 20", "minimum_count: 19"), "egress.metrics.minimum_count", "19", "at least 20"),
    (("max_norm: 10.0", "max_norm: 11.0"), "egress.update.max_norm", "11", "at most 10"),
    (("max_bytes: 64MiB", "max_bytes: 65MiB"), "egress.update.max_bytes", "65 MiB", "at most 64 MiB"),
    (("clip_norm: 1.0", "clip_norm: 2.0"), "privacy.clip_norm", "2", "at most 1"),
    (("  clip_norm: 1.0\n", ""), "privacy.clip_norm", "nothing", "at most 1"),
    (("noise_multiplier: 0.8", "noise_multiplier: 0.7"), "privacy.noise_multiplier", "0.7", "at least 0.8"),
    (("max_epsilon: 3.0", "max_epsilon: 4.0"), "privacy.max_epsilon", "4", "at most 3"),
    (("epsilon: 8.0", "epsilon: 9.0"), "privacy.budget.epsilon", "9", "at most 8"),
    (("delta: 1e-5", "delta: 1e-4"), "privacy.budget.delta", "0.0001", "at most 1e-05"),
    (("window: P1Y", "window: P6M"), "privacy.budget.window", "P6M", "at least P1Y"),
    (
        ("secure_aggregation: required", "secure_aggregation: allowed"),
        "privacy.secure_aggregation",
        "allowed",
        "required",
    ),
    (("max_age: P90D", "max_age: P91D"), "identity.certificates.max_age", "P91D", "at most P90D"),
    (("min_left: P2D", "min_left: P1D"), "identity.certificates.min_left", "P1D", "at least P2D"),
    (("minimum: P1Y", "minimum: P11M"), "audit.retention.minimum", "P11M", "at least P1Y"),
    (("maximum: P10Y", "maximum: P11Y"), "audit.retention.maximum", "P11Y", "at most P10Y"),
    (("quorum: 2", "quorum: 1"), "audit.witnesses.quorum", "1", "at least 2"),
    (("verify_age: P7D", "verify_age: P8D"), "audit.verify_age", "P8D", "at most P7D"),
    (("clock_skew: 5.0", "clock_skew: 6.0"), "audit.clock_skew", "6", "at most 5"),
]


@pytest.mark.parametrize(("change", "field", "found", "allowed"), LOOSER)
def test_a_looser_policy_is_named_at_its_place(full, change, field: str, found: str, allowed: str) -> None:
    old, new = change
    assert old in full.text, old
    # Laws that have floors of their own are left out, so that the federation's is the one that speaks.
    text = full.text.replace(old, new, 1)
    text = text if field == "applies" else text.replace("[gdpr, ehds, sgb-v-393, dora]", "[gdpr]")
    (problem,) = looser(text)
    assert f"got {found}" in problem
    assert f" as {field}, expected {allowed}" in problem
    assert "the federation's floor heart-consortium version 2" in problem


def test_without_a_section_that_the_floor_has_a_policy_is_looser(example) -> None:
    found = "\n".join(looser(example.text))
    for field in ("privacy.mode", "identity.certificates.max_age", "audit.witnesses.quorum", "audit.verify_age"):
        assert f"got nothing as {field}" in found


def test_a_final_model_of_which_the_silo_says_nothing_goes_where_its_updates_go(example) -> None:
    floor = FLOOR[: FLOOR.index("applies")] + "destinations: {final_model: [DE]}\n"
    (problem,) = looser(example.text, floor)
    assert " as residency.destinations.final_model.countries, expected countries within DE (Germany)" in problem


def test_a_floor_is_closed_like_a_policy() -> None:
    with pytest.raises(DocumentError, match='did you mean "max_rounds"'):
        load_floor(FLOOR.replace("max_rounds", "max_round"))
    with pytest.raises(DocumentError, match="expected FederationPolicy"):
        load_floor(FLOOR.replace("kind: FederationPolicy", "kind: SiloPolicy"))
    assert load_floor(FLOOR).model.kind == "FederationPolicy"


def test_every_field_of_the_floor_has_a_case_in_which_it_is_not_met() -> None:
    fields = set(FederationPolicy.model_fields) - {"api_version", "kind", "metadata"}
    named = {case[1].split(".")[0] for case in LOOSER}
    stands_for = {"destinations": "residency", "metrics": "egress", "limits": "runs"}
    assert {stands_for.get(field, field) for field in fields} <= named


def test_validate_holds_a_policy_against_the_floor(full, tmp_path) -> None:
    policy, floor = tmp_path / "policy.yaml", tmp_path / "floor.yaml"
    floor.write_text(FLOOR)
    policy.write_text(full.text)
    result = CliRunner().invoke(app, ["validate", str(policy), "--floor", str(floor)])
    assert (result.exit_code, ": ok, " in result.output) == (0, True)
    policy.write_text(full.text.replace("max_rounds: 200", "max_rounds: 201"))
    result = CliRunner().invoke(app, ["validate", str(policy), "--floor", str(floor)])
    assert result.exit_code == 1
    assert f"{policy}:{full.line('runs:')}" in result.output
    assert "got 201 as runs.max_rounds, expected at most 200" in result.output
    floor.write_text("kind: FederationPolicy")
    result = CliRunner().invoke(app, ["validate", str(policy), "--floor", str(floor)])
    assert result.exit_code == 1
    assert f"{floor}:1:1" in result.output


def test_a_floors_mode_is_the_silos_mode(full) -> None:
    """Neither kind of privacy stands in for the other: they are of different things."""
    (found,) = looser(full.text, FLOOR.replace("mode: example_dp", "mode: silo_dp"))
    assert "got example_dp as privacy.mode, expected silo_dp" in found
