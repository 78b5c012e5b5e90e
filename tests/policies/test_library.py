"""The starter policies are valid, tested rule by rule, and have no fault but the digest to be filled in."""

import datetime as dt
from pathlib import Path

import pytest
from typer.testing import CliRunner

from policies.cli import app
from policies.library import FOLDER, POLICY, TEST, UnknownStarterError, starter, starters
from policies.lint.checks import lint
from policies.model import load_policy
from policies.testing.suite import run_paths

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})

LAWS = {
    "de-university-hospital": {"gdpr", "ehds", "sgb-v-393"},
    "fr-hospital": {"gdpr", "ehds"},
    "us-academic-medical-center": {"hipaa"},
    "us-bank": {"glba", "sr-26-2"},
    "eu-bank": {"gdpr", "dora", "mifid2"},
    "no-hospital": {"gdpr"},
}


def test_every_starter_passes_its_tests_and_every_rule_it_uses_has_one() -> None:
    suite = run_paths([FOLDER], require_tests=True)
    assert not suite.problems
    assert [o.location for one in suite.tested for o in one.outcomes if not o.passed] == []
    assert {one.policy.source: one.missing for one in suite.coverages if not one.complete} == {}
    assert len(suite.coverages) == len(starters())


def test_each_starter_has_its_laws() -> None:
    for name, laws in LAWS.items():
        assert laws <= set(load_policy(FOLDER / name / POLICY).model.applies), name
    assert set(LAWS) == set(starters())


@pytest.mark.parametrize("name", sorted(LAWS))
def test_the_only_finding_in_a_starter_is_the_digest_to_be_filled_in(name: str) -> None:
    assert [one.lint.id for one in lint(load_policy(FOLDER / name / POLICY), NOW, 30)] == ["placeholder"]


@pytest.mark.parametrize("name", sorted(LAWS))
def test_a_starter_says_that_it_is_no_legal_advice(name: str) -> None:
    assert "not legal advice" in starter(name)[0]


def test_new_copies_a_starter_that_passes_where_it_lies(tmp_path: Path) -> None:
    result = runner.invoke(app, ["new", "--from", "no-hospital", "--into", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    assert run_paths([tmp_path / "mine"], require_tests=True).passed


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / TEST).write_text("mine")
    result = runner.invoke(app, ["new", "--from", "no-hospital", "--into", str(tmp_path)])
    assert result.exit_code == 1
    assert (tmp_path / TEST).read_text() == "mine"
    assert not (tmp_path / POLICY).exists()


def test_new_lists_the_starters() -> None:
    result = runner.invoke(app, ["new"])
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(starters())


def test_an_unknown_starter_is_named_with_the_one_that_was_probably_meant() -> None:
    with pytest.raises(UnknownStarterError, match=r'did you mean "no-hospital"\?'):
        starter("no-hospitals")


@pytest.mark.parametrize("name", ["../../library/no-hospital", "/etc", ".", ""])
def test_a_path_is_no_starter(name: str) -> None:
    with pytest.raises(UnknownStarterError):
        starter(name)
