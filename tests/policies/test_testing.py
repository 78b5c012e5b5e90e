"""`concordat policy test`: cases in YAML are decided as the engine decides, and what is not covered is named."""

import contextlib
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from policies.cli import app
from policies.errors import DocumentError
from policies.facts import STAGES, MissingFactsError, build, merged
from policies.model import load_policy
from policies.testing.model import load_request, load_test
from policies.testing.runner import path_of, run, run_file
from policies.tree import Node

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})

TEST = """\
apiVersion: concordat/v1
kind: PolicyTest
policy: policy.yaml
now: 2026-11-20T12:00:00Z
requests:
  usual:
    admission:
      purpose: HMB
      dataset: heart
      columns: [age, sex]
      app_digest: sha256:1111111111111111111111111111111111111111111111111111111111111111
      rounds: 50
      metrics: [loss]
      parties: [{name: hub, role: coordinator, country: DE}, {name: charite, role: silo, country: DE}]
      silo: charite
    view: {dataset: heart, columns: [age], rows: 50}
cases:
  - name: a usual run is admitted
    from: usual
    admission: {}
    expect: allow
    rule: admission.allow
  - name: ancestry is refused
    from: usual
    admission: {purpose: POA}
    expect: deny
    rule: purposes.allow
    at: purposes.allow
"""


def test_of_many_failed_cases_the_first_tell_what_every_rule_said(folder: Path):
    wrong = "".join(
        f"  - {{name: case {n}, from: usual, admission: {{purpose: POA}}, expect: allow}}\n" for n in range(8)
    )
    (folder / "policy.test.yaml").write_text(TEST + wrong)
    done = runner.invoke(app, ["test", str(folder)])
    assert done.exit_code == 1
    assert done.output.count("expected allow, got deny by purposes.allow") == 8
    assert done.output.count("remedy:") == 8
    assert done.output.count("refused  purposes.allow") == 5
    assert "shown of the first 5 failed cases" in done.output


@pytest.fixture
def folder(tmp_path: Path, example) -> Path:
    (tmp_path / "policy.yaml").write_text(example.text)
    (tmp_path / "policy.test.yaml").write_text(TEST)
    return tmp_path


def _case(folder: Path, text: str) -> None:
    (folder / "policy.test.yaml").write_text(TEST + text)


def test_cases_decided_as_expected_pass(folder: Path) -> None:
    result = runner.invoke(app, ["test", str(folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout == "2 passed, 0 failed in 1 file\n"


def test_a_case_decided_otherwise_fails_with_decision_place_and_reason(folder: Path, example) -> None:
    _case(
        folder, "  - name: small\n    view: {rows: 49}\n    from: usual\n    expect: deny\n    rule: datasets.known\n"
    )
    result = runner.invoke(app, ["test", str(folder)])
    assert result.exit_code == 1
    assert f"{folder}/policy.test.yaml:29:5: small" in result.stderr
    assert "expected deny by datasets.known, got deny by datasets.rows.minimum" in result.stderr
    place = f"{folder}/policy.yaml:{example.line('minimum: 50')}:7"
    assert f"{place}: the view of dataset heart has 49 rows; the policy needs at least 50" in result.stderr
    assert result.stdout == "2 passed, 1 failed in 1 file\n"


def test_an_allow_that_was_expected_to_be_refused_fails(folder: Path) -> None:
    _case(folder, "  - name: x\n    view: {}\n    from: usual\n    expect: deny\n    rule: datasets.rows.minimum\n")
    assert runner.invoke(app, ["test", str(folder)]).exit_code == 1


def test_a_decision_at_another_place_fails(folder: Path) -> None:
    text = "  - {name: x, from: usual, admission: {purpose: POA}, expect: deny, rule: purposes.allow, at: runs}\n"
    _case(folder, text)
    tested = run_file(folder / "policy.test.yaml")
    assert tested.outcomes[2].differences == ("expected the place of runs (31:1), got 15:3",)


def test_a_case_has_a_time_of_its_own(folder: Path) -> None:
    _case(
        folder,
        "  - {name: x, from: usual, view: {}, now: 2027-07-01T00:00:00Z, expect: deny, rule: purposes.permit}\n",
    )
    assert run_file(folder / "policy.test.yaml").outcomes[2].passed


def test_required_tests_name_every_rule_that_decided_nothing(folder: Path) -> None:
    result = runner.invoke(app, ["test", str(folder), "--require-tests"])
    assert result.exit_code == 1
    assert "no passing case is decided by datasets.rows.minimum" in result.stderr
    assert "purposes.allow" not in result.stderr


def test_required_tests_name_a_policy_without_any(folder: Path, example) -> None:
    (folder / "other.yaml").write_text(example.text)
    result = runner.invoke(app, ["test", str(folder), "--require-tests"])
    assert f"{folder}/other.yaml: no passing case is allowed" in result.stderr


def test_a_rule_of_an_absent_field_needs_no_test(folder: Path, example) -> None:
    text = example.text.replace("  permit:\n    ref: FDZ-2026-0113\n    expires: 2027-06-30\n", "")
    (folder / "policy.yaml").write_text(text)
    result = runner.invoke(app, ["test", str(folder), "--require-tests"])
    assert "purposes.permit" not in result.stderr


def test_a_directory_without_tests_fails(tmp_path: Path) -> None:
    result = runner.invoke(app, ["test", str(tmp_path)])
    assert result.exit_code == 1
    assert "got no test in" in result.stderr


def test_junit_has_each_case_failure_and_unreadable_file(folder: Path) -> None:
    _case(folder, "  - {name: x, from: usual, view: {}, expect: deny, rule: datasets.known}\n")
    (folder / "broken.test.yaml").write_text("kind: PolicyTest")
    runner.invoke(app, ["test", str(folder), "--junit", str(folder / "out.xml")])
    root = ET.parse(folder / "out.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4", "1", "1")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("purpose: POA", "purpos: POA"), 'got the unknown field "purpos"'),
        (("rule: purposes.allow", "rule: purposes.alow"), 'did you mean "purposes.allow"?'),
        (("    rule: purposes.allow\n", ""), 'got "deny", expected a rule beside it'),
        (("from: usual\n    admission: {purpose", "from: usal\n    admission: {purpose"), 'did you mean "usual"?'),
        (("admission: {purpose: POA}", "admission: {purpose: POA}\n    view: {}"), "expected exactly one of"),
        (("name: ancestry is refused", "name: a usual run is admitted"), "expected each name once"),
        (("12:00:00Z", "12:00:00"), "expected a time with its zone"),
        (("policy: policy.yaml", "policy: /etc/policy.yaml"), "expected a path relative to this file"),
        (("at: purposes.allow", "at: purposes.alow"), "expected a field that is in"),
        (("      rounds: 50\n", ""), 'got no rounds neither here nor in "usual"'),
    ],
)
def test_a_mistake_in_a_test_is_named_at_its_place(folder: Path, change: tuple[str, str], problem: str) -> None:
    text = TEST.replace(*change)
    assert text != TEST
    (folder / "policy.test.yaml").write_text(text)
    result = runner.invoke(app, ["test", str(folder)])
    assert result.exit_code == 1
    assert problem in result.stderr
    assert f"{folder}/policy.test.yaml:" in result.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_the_yaml_form_of_a_request_is_the_request(example, stage: str) -> None:
    import dataclasses

    from policies.facts import given as given_facts

    request = getattr(example, stage)
    text = {"apiVersion": "concordat/v1", "kind": "PolicyRequest", stage: dataclasses.asdict(request)}
    document = load_request(json.dumps(text))
    assert build(stage, given_facts(getattr(document.model, stage))) == request


def test_missing_facts_are_named() -> None:
    with pytest.raises(MissingFactsError, match="columns, rows"):
        build("view", {"dataset": "heart"})


def test_later_facts_win_and_others_stay() -> None:
    assert merged({"a": 1, "b": (1,)}, {"b": (2, 3)}) == {"a": 1, "b": (2, 3)}


def test_a_key_with_dots_is_found() -> None:
    leaf = Node((3, 3), value=1)
    root = Node((1, 1), entries={"a.b": Node((2, 1), items=[leaf])}, keys={"a.b": (2, 1)})
    assert path_of(root, "a.b.0") == ("a.b", 0)
    assert path_of(root, "a.c") is None


_mutations = st.lists(st.tuples(st.integers(0, len(TEST) - 1), st.text(max_size=4), st.integers(0, 6)), max_size=4)


@given(_mutations)
def test_whatever_a_test_holds_only_the_error_of_documents_escapes(example, changes) -> None:
    text = TEST
    for at, new, size in changes:
        text = text[:at] + new + text[at + size :]
    with contextlib.suppress(DocumentError):
        run(load_test(text), load_policy(example.text, "policy.yaml"))
