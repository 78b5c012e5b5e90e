"""`concordat policy lint`: each lint is found at its place, and nothing in a policy without fault."""

import datetime as dt
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.cli import app
from policies.lint.checks import lint
from policies.lint.finding import LINTS
from policies.model import load_policy

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
PAGE = (Path(__file__).parents[2] / "docs" / "policy-lints.md").read_text(encoding="utf-8")
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def _found(text: str, now: dt.datetime = NOW, soon: int = 30):
    return lint(load_policy(text, "policy.yaml"), now, soon)


@pytest.fixture
def clean(full) -> str:
    """The full policy with what it is right to complain about mended."""
    return full.text.replace("sha256:" + "1" * 64, "sha256:" + "1f" * 32)


def test_a_policy_without_fault_has_no_finding(clean: str) -> None:
    assert [str(one) for one in _found(clean)] == []


@pytest.mark.parametrize(
    ("lint_id", "old", "new", "at"),
    [
        ("refuses-all", "effective: 2026-11-01", "effective: 2027-11-01", "effective: 2027"),
        ("refuses-all", "allow: [ehds-53-1-e, ehds-53-1-a]", "allow: []", "allow: []"),
        ("dataset-unusable", "deny: [name, date]", "deny: [medical_record]", None),
        ("column-denied", "deny: [name, date]", "deny: [medical_record]", "allow: [age"),
        ("ended", "2027-02-28", "2026-11-19", "2026-11-19"),
        ("ended", "2027-01-31", "2026-11-19", "2026-11-19"),
        ("ends-soon", "2027-04-30", "2026-12-20", "2026-12-20"),
        ("placeholder", "sha256:" + "1f" * 32, "sha256:" + "0" * 64, "sha256"),
        ("reserved-purpose", "  public_bodies: [rki]\n", "", "ehds-53-1-a"),
        ("purpose-contained", "ehds-53-1-a]", "ehds-53-1-a, ehds-53-1-e-ii]", "ehds-53-1-e-ii"),
        ("column-unknown", "pid: medical_record}", "pid: medical_record, zip: geography}", "zip: geography"),
        ("window-contained", "Berlin\"]", "Berlin\", \"Tue 19:00-23:00 Europe/Berlin\"]", "Tue 19:00"),
        ("person-unnamed", "persons: [ops, rki]", "persons: [ops]", "public_bodies"),
        ("epsilon-beyond-budget", "max_epsilon: 3.0", "max_epsilon: 9.0", "max_epsilon"),
        ("rows-below-count", "minimum: 50", "minimum: 19", "minimum: 19"),
        ("one-person", "minimum: 2}", "minimum: 1}", "minimum: 1}"),
        ("one-person", "reviewers: 2", "reviewers: 1", "reviewers: 1"),
        ("small-count", "minimum_count: 20", "minimum_count: 9", "minimum_count"),
        ("place-contained", "model_update: {countries: [EU, CH]", "model_update: {countries: [EU, DE, CH]", "EU, DE"),
        ("approval-without-end", "expires: 2027-01-31, ", "", "sha256"),
        ("not-yet", "effective: 2026-11-01", "effective: 2026-11-21", "effective"),
    ],
)  # fmt: skip
def test_each_lint_is_found_at_its_place(clean: str, lint_id: str, old: str, new: str, at: str | None) -> None:
    assert old in clean
    text = clean.replace(old, new)
    if lint_id == "dataset-unusable":
        text = text.replace("allow: [age, sex, cp, pid]", "allow: [pid]").replace(
            "age: none, sex: none, cp: none, ", ""
        )
        at = "columns:"
    found = [one for one in _found(text) if one.lint.id == lint_id]
    assert found
    assert at is None or any(at in text.splitlines()[one.position[0] - 1] for one in found)


def test_what_laws_ask_for_can_only_be_missing_without_a_law(example) -> None:
    found = {one.lint.id for one in _found(example.text)}
    assert {"no-law", "no-maximum-retention"} <= found


def test_soon_is_counted_in_days(clean: str) -> None:
    assert not _found(clean, soon=71)
    assert [one.lint.id for one in _found(clean, soon=72)] == ["ends-soon"]


def test_a_document_ends_after_its_last_day(clean: str) -> None:
    day = dt.datetime(2027, 1, 31, 23, 59, tzinfo=dt.UTC)
    assert "ended" not in {one.lint.id for one in _found(clean, day)}
    assert "ended" in {one.lint.id for one in _found(clean, day + dt.timedelta(minutes=1))}


def test_every_lint_is_documented_with_its_severity_and_no_other() -> None:
    assert dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", PAGE, re.M)) == {
        lint_id: one.severity for lint_id, one in LINTS.items()
    }


def test_the_command_fails_on_errors_and_with_strict_on_warnings(tmp_path: Path, clean: str) -> None:
    path = tmp_path / "policy.yaml"
    arguments = ["lint", str(path), "--at", "2026-11-20T12:00:00Z"]
    path.write_text(clean.replace("minimum_count: 20", "minimum_count: 9"))
    assert runner.invoke(app, arguments).exit_code == 0
    assert runner.invoke(app, [*arguments, "--strict"]).exit_code == 1
    path.write_text(clean.replace("2027-02-28", "2026-11-19"))
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["lint"] == "ended"


def test_the_command_names_the_problems_of_a_policy_that_is_not_valid(tmp_path: Path, clean: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(clean.replace("max_rounds", "max_round"))
    result = runner.invoke(app, ["lint", str(path)])
    assert result.exit_code == 1
    assert 'did you mean "max_rounds"?' in result.stderr
