"""The command: what it prints and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.cli import app
from policies.rules import RULES

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def policy(tmp_path: Path, example) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(example.text)
    return path


def _explain(policy: Path, example, *changes: str) -> list[str]:
    return [
        "explain",
        str(policy),
        *("--purpose", "HMB", "--dataset", "heart", "--columns", "age, sex", "--app-digest", example.digest),
        *("--rounds", "50", "--metrics", "loss,auc", "--at", "2026-11-20T12:00:00Z"),
        *("--party", "hub:coordinator:DE", "--party", "charite:silo:DE", "--silo", "charite"),
        *changes,
    ]


def test_validate_prints_name_version_and_digest(policy: Path) -> None:
    result = runner.invoke(app, ["validate", str(policy)])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{policy}: ok, charite-cardiology version 3, sha256:")


def test_validate_prints_every_problem_and_checks_every_file(policy: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(policy.read_text().replace("silo: DE", "silo: UK").replace("max_norm: 10.0", "max_norm: 0"))
    result = runner.invoke(app, ["validate", str(bad), str(tmp_path / "none.yaml"), str(policy)])
    assert result.exit_code == 1
    assert f'{bad}:9:9: got "UK"' in result.stderr
    assert f"{bad}:38:15: got the number 0" in result.stderr
    assert f"{bad}: refused, 2 problems" in result.stderr
    assert "none.yaml: got No such file" in result.stderr
    assert f"{policy}: ok" in result.stdout


def test_schema_is_json(policy: Path) -> None:
    result = runner.invoke(app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "SiloPolicy"
    assert runner.invoke(app, ["schema", "--kind", "Run"]).exit_code == 2


def test_rules_lists_every_rule() -> None:
    result = runner.invoke(app, ["rules"])
    assert result.exit_code == 0
    for rule in RULES.values():
        assert rule.id in result.stdout


def test_explain_an_admission(policy: Path, example) -> None:
    result = runner.invoke(app, _explain(policy, example))
    assert result.exit_code == 0, result.output
    assert f"allowed by admission.allow at {policy}:1:1" in result.stdout
    assert "reason: run for HMB (health, medical or biomedical research)" in result.stdout
    assert "remedy" not in result.stdout


def test_explain_a_refusal(policy: Path, example) -> None:
    result = runner.invoke(app, _explain(policy, example, "--party", "boston:silo:US"))
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:4] == [
        f"refused by residency.destinations at {policy}:11:20",
        (
            "reason: silo boston in US (United States) would receive model updates; "
            "the policy allows EU (European Union), EEA (European Economic Area), CH (Switzerland)"
        ),
        "remedy: add US to residency.destinations.model_update.countries, or run without boston",
        "every rule:",
    ]
    assert f"  passed   purposes.allow                 {policy}:15:3" in result.stdout.splitlines()


@pytest.mark.parametrize("option", [("--party", "hub"), ("--at", "yesterday"), ("--at", "2026-11-20T12:00:00")])
def test_explain_refuses_what_it_cannot_read(policy: Path, example, option: tuple[str, str]) -> None:
    result = runner.invoke(app, _explain(policy, example, *option))
    assert result.exit_code == 2
    assert f"got {option[1]}, expected" in result.stderr


def test_explain_names_the_problems_of_the_policy(policy: Path, example) -> None:
    policy.write_text(example.text.replace("silo: DE", "silo: UK"))
    result = runner.invoke(app, _explain(policy, example))
    assert result.exit_code == 1
    assert f'{policy}:9:9: got "UK"' in result.stderr


def test_importing_the_command_imports_no_library_of_the_model() -> None:
    code = "import sys, policies.cli; print(sorted({'pydantic', 'ruamel.yaml', 'rich'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _request(tmp_path: Path, text: str) -> str:
    path = tmp_path / "request.yaml"
    path.write_text("apiVersion: concordat/v1\nkind: PolicyRequest\n" + text)
    return str(path)


def test_explain_a_request_of_any_stage_from_a_file(policy: Path, tmp_path: Path, example) -> None:
    request = _request(tmp_path, "now: 2026-11-20T12:00:00Z\nview: {dataset: heart, columns: [age], rows: 49}\n")
    result = runner.invoke(app, ["explain", str(policy), request])
    assert result.exit_code == 3
    line = example.line("minimum: 50")
    assert result.stdout.splitlines()[0] == f"refused by datasets.rows.minimum at {policy}:{line}:7"


def test_explain_as_json_has_every_rule_with_its_outcome(policy: Path, tmp_path: Path) -> None:
    request = _request(tmp_path, "view: {dataset: heart, columns: [age], rows: 49}\n")
    result = runner.invoke(app, ["explain", str(policy), request, "--json", "--at", "2027-07-01T00:00:00Z"])
    found = json.loads(result.stdout)
    assert (found["effect"], found["rule"]) == ("deny", "purposes.permit")
    outcomes = {step["rule"]: step["outcome"] for step in found["trace"]}
    assert outcomes["datasets.rows.minimum"] == "refused"
    assert outcomes["datasets.columns"] == "passed"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("view: {dataset: heart, columns: [age]}\n", "3:1: got no rows, expected it"),
        ("view: {dataset: heart, columns: [age], row: 3}\n", 'did you mean "rows"?'),
        ("", "expected exactly one of: admission, view"),
    ],
)
def test_explain_names_the_problems_of_the_request(policy: Path, tmp_path: Path, text: str, problem: str) -> None:
    result = runner.invoke(app, ["explain", str(policy), _request(tmp_path, text)])
    assert result.exit_code == 1
    assert problem in result.stderr


def test_explain_needs_a_request_in_one_form(policy: Path, tmp_path: Path, example) -> None:
    assert "expected a file or the options" in runner.invoke(app, ["explain", str(policy)]).stderr
    both = [*_explain(policy, example), _request(tmp_path, "")]
    assert "expected one of them" in runner.invoke(app, both).stderr


def test_validate_holds_a_policy_against_the_floor_of_the_federation(policy: Path, tmp_path: Path) -> None:
    floor = tmp_path / "floor.yaml"
    metadata = "metadata: {name: floor, version: 1, owner: o, effective: 2026-01-01}\n"
    floor.write_text(f"apiVersion: concordat/v1\nkind: FederationPolicy\n{metadata}limits: {{minimum_count: 20}}\n")
    assert runner.invoke(app, ["validate", str(policy), "--floor", str(floor)]).exit_code == 0
    floor.write_text(floor.read_text().replace("20}", "21}"))
    result = runner.invoke(app, ["validate", str(policy), "--floor", str(floor)])
    assert result.exit_code == 1
    assert f"{policy}:36:5: got 20 as egress.metrics.minimum_count, expected at least 21" in result.stderr


@pytest.mark.parametrize("kind", ["SiloPolicy", "PolicyTest", "PolicyRequest", "PolicySignature"])
def test_every_kind_has_a_closed_schema(kind: str) -> None:
    schema = json.loads(runner.invoke(app, ["schema", "--kind", kind]).stdout)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["kind"]["const"] == kind
