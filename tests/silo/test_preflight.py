"""`concordat run preflight` says of a run what the gate would, and what only the gate can know stays open."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation.errors import ManifestError, UsageError
from silo.governance.cli import run as run_app
from silo.governance.preflight import Stage, preflight
from tests.silo.simulator import APP, POLICY, RUN

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MANIFEST = """\
apiVersion: concordat/v1
kind: Federation
metadata: {name: heart.example, version: 3}
members:
  - {name: coordinator, role: coordinator, country: DE}
  - {name: hospital-a, role: silo, country: DE}
  - {name: hospital-b, role: silo, country: FR}
  - {name: operator, role: operator, country: DE}
"""
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    (tmp_path / "app.fab").write_bytes(APP)
    return tmp_path


def _stages(desk: Path, manifest: bool = True, silo: str | None = "hospital-a") -> dict[str, Stage]:
    stages = preflight(
        desk / "run.yaml",
        desk / "policy.yaml",
        NOW,
        desk / "manifest.yaml" if manifest else None,
        silo,
        app=desk / "app.fab",
    )
    return {stage.name: stage for stage in stages}


def _outcomes(stage: Stage) -> dict[str, str]:
    return {step.rule: stage.outcome(step) for step in stage.steps}


def test_a_run_that_the_gate_admits_is_refused_by_nothing(desk: Path) -> None:
    stages = _stages(desk)
    assert not any(stage.refused for stage in stages.values())
    assert _outcomes(stages["admission"])["residency.destinations"] == "passed"
    assert list(stages) == ["admission", "view", "ingress", "egress"]


def test_what_only_the_silo_knows_is_open_and_neither_passed_nor_refused(desk: Path) -> None:
    stages = _stages(desk)
    assert _outcomes(stages["view"])["datasets.rows.minimum"] == "open"
    assert _outcomes(stages["ingress"])["ingress.max_bytes"] == "open"
    assert _outcomes(stages["egress"])["egress.metrics.minimum_count"] == "open"


@pytest.mark.parametrize(
    ("old", "new", "rule", "stages"),
    [
        ("allow: [HMB]", "allow: [POA]", "purposes.allow", {"admission"}),
        ("allow: [age, sex, sick]", "allow: [age, sick]", "datasets.columns", {"admission", "view"}),
        ("max_rounds: 10", "max_rounds: 2", "runs.max_rounds", {"admission", "ingress", "egress"}),
        ("allow: [loss, auc, num_examples]", "allow: [loss]", "egress.metrics.allow", {"admission", "egress"}),
        ("silo: DE", "silo: FR", "residency.silo", {"admission"}),
        ("countries: [EU]", "countries: [FR]", "residency.destinations", {"admission"}),
        (
            "effective: 2020-01-01",
            "effective: 2027-01-01",
            "policy.effective",
            {"admission", "view", "ingress", "egress"},
        ),
    ],
)
def test_a_rule_that_refuses_is_named_at_each_stage_that_asks_it(desk: Path, old, new, rule, stages) -> None:
    assert old in POLICY
    (desk / "policy.yaml").write_text(POLICY.replace(old, new))
    found = {name for name, stage in _stages(desk).items() if rule in {step.rule for step in stage.refused}}
    assert found == stages


@pytest.mark.parametrize(
    ("run", "policy", "refused"),
    [
        ("", "{mode: none, secure_aggregation: required}", ["privacy.secure_aggregation"]),
        ("secure_aggregation: {threshold: 2}\n", "{mode: none, secure_aggregation: required}", []),
        ("", "{mode: example_dp}", ["privacy.mode"]),
        ("privacy: {mode: example_dp, clip_norm: 2.0, delta: 1e-5, epsilon: 3.0}\n", "{mode: example_dp}", []),
    ],
)
def test_what_the_run_does_for_privacy_is_known_from_it(desk: Path, run: str, policy: str, refused: list[str]) -> None:
    (desk / "run.yaml").write_text(RUN + run)
    (desk / "policy.yaml").write_text(POLICY + f"privacy: {policy}\n")
    assert [step.rule for step in _stages(desk)["admission"].refused] == refused


def test_without_a_manifest_the_rules_on_parties_are_open(desk: Path) -> None:
    admission = _stages(desk, manifest=False, silo=None)["admission"]
    assert not admission.refused
    assert "open" in (_outcomes(admission)["residency.silo"], _outcomes(admission).get("default-deny"))


def test_another_app_is_not_the_approved_one(desk: Path) -> None:
    (desk / "app.fab").write_bytes(APP + b" ")
    assert [step.rule for step in _stages(desk)["admission"].refused] == ["apps.allow"]


def test_a_silo_that_the_manifest_does_not_have_is_a_mistake(desk: Path) -> None:
    with pytest.raises(ManifestError):
        _stages(desk, silo="hospital-z")
    with pytest.raises(ManifestError, match="expected a silo"):
        _stages(desk, silo="operator")
    with pytest.raises(UsageError, match="without a manifest"):
        _stages(desk, manifest=False)


def test_the_command_prints_the_trace_and_fails_where_a_rule_refuses(desk: Path) -> None:
    arguments = ["preflight", str(desk / "run.yaml"), "--policy", str(desk / "policy.yaml")]
    arguments += ["--manifest", str(desk / "manifest.yaml"), "--silo", "hospital-a", "--app", str(desk / "app.fab")]
    assert runner.invoke(run_app, arguments).exit_code == 0
    (desk / "policy.yaml").write_text(POLICY.replace("allow: [HMB]", "allow: [POA]"))
    result = runner.invoke(run_app, arguments)
    assert result.exit_code == 3
    assert "admission: refused by purposes.allow" in result.stdout.splitlines()
    stages = json.loads(runner.invoke(run_app, [*arguments, "--json"]).stdout)
    assert [stage["refused"] for stage in stages] == [True, False, False, False]
