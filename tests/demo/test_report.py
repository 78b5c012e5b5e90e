"""What the demonstration prints and the page it leaves."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from demo.outcome import Outcome, Spent, cell, comparison_table, rows_of
from demo.report import write_report
from demo.scenarios import SCENARIOS

from .conftest import Site

HOSTILE = """<script>alert(1)</script><img src=x onerror=alert(2)>"'&{braces}"""
SILOS = ("hospital-a", "hospital-b")


def _metrics(step: int) -> dict[str, float]:
    return {"loss": 0.7 - 0.1 * step, "auc": 0.5 + 0.1 * step}


def _outcome(directory: Path, silos: tuple[str, ...] = SILOS, text: str = "plain") -> Outcome:
    base = {
        "rows": 246,
        "train": 172,
        "validation": 74,
        "positive": 0.516,
        "own": {"loss": 0.25, "auc": 0.9},
        "pooled": {"loss": 0.1},
    }
    return Outcome(
        run_id=f"run-{text}",
        rounds=[
            {"round": n, "seconds": seconds, "silos": {silo: _metrics(n) for silo in silos}}
            for n, seconds in ((1, 0.5), (2, 9.0), (3, 0.25))
        ],
        final={"silos": {silo: _metrics(4) for silo in silos}},
        refusals=[{"silo": silo, "rule": text, "reason": text, "location": text} for silo in silos],
        baselines=dict.fromkeys(silos, base),
        logs=[{"member": text, "size": 12, "root": text, "path": str(directory / "hospital-a" / "audit")}],
        seconds=12.0,
    )


class _Page(HTMLParser):
    """The elements of a page, its texts, and every attribute that would load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.active: list[tuple[str, str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.active += [(tag, name, value) for name, value in attrs if name.startswith("on") or name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _page(site: Site, tmp_path: Path, outcome: Outcome, **scenario: Any) -> tuple[_Page, str]:
    chosen = replace(SCENARIOS["breast_cancer"], **scenario)
    path = write_report(tmp_path / "report.html", chosen, site.founded, outcome)
    text = path.read_text(encoding="utf-8")
    return _Page(text), text


def test_the_page_has_tables_charts_and_nothing_from_outside(site: Site, tmp_path: Path) -> None:
    page, text = _page(site, tmp_path, _outcome(site.founded.directory))
    assert page.elements.count("svg") == 2
    assert page.elements.count("polyline") == 2 * len(SILOS)
    assert page.elements.count("table") == 4
    assert page.active == []
    assert not {"script", "img", "link", "iframe", "object"} & set(page.elements)
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_says_what_happened(site: Site, tmp_path: Path) -> None:
    page, _ = _page(site, tmp_path, _outcome(site.founded.directory))
    text = " ".join(page.texts)
    assert "3 rounds, median 0.50 s a round" in text
    for shown in ("hospital-a", "246", "52%", "0.900 (0.250)", "- (0.100)", "breast-cancer.example"):
        assert shown in text
    assert "hospital-a/audit" in page.texts, "a path within the demonstration's directory"
    for member in site.founded.manifest.federation.members:
        assert member.name in page.texts


def test_hostile_text_stays_text(site: Site, tmp_path: Path) -> None:
    outcome = _outcome(site.founded.directory, silos=(HOSTILE, "b"), text=HOSTILE)
    page, _ = _page(site, tmp_path, outcome, title=HOSTILE, provenance=HOSTILE)
    plain, _ = _page(site, tmp_path, _outcome(site.founded.directory, silos=("a", "b")))
    assert page.elements == plain.elements, "not one element more"
    assert page.active == []
    # Each place that shows it, shows it whole: the parser has turned the escapes back.
    assert page.texts.count(HOSTILE) >= 9
    assert any(HOSTILE in text and text.startswith("Concordat: ") for text in page.texts)


def test_a_demonstration_without_rounds_has_a_page_too(site: Site, tmp_path: Path) -> None:
    outcome = replace(_outcome(site.founded.directory), rounds=[], final={"silos": {}}, baselines={}, refusals=[])
    page, _ = _page(site, tmp_path, outcome)
    assert "svg" not in page.elements
    assert "0 rounds, median - s a round" in " ".join(page.texts)


def test_a_silo_that_was_dropped_once_keeps_its_line(site: Site, tmp_path: Path) -> None:
    outcome = _outcome(site.founded.directory)
    del outcome.rounds[1]["silos"]["hospital-b"]
    page, _ = _page(site, tmp_path, outcome)
    assert page.elements.count("polyline") == 4


def test_constant_metrics_are_charted(site: Site, tmp_path: Path) -> None:
    outcome = _outcome(site.founded.directory)
    for model in (*outcome.rounds, outcome.final):
        model["silos"] = {"hospital-a": {"loss": 0.5, "auc": 0.5}}
    page, text = _page(site, tmp_path, outcome)
    assert page.elements.count("polyline") == 2
    assert not re.search(r'="[^"]*(nan|inf)', text)


# -- the table in the terminal


def test_rows_put_the_three_models_side_by_side(tmp_path: Path) -> None:
    outcome = _outcome(tmp_path)
    del outcome.final["silos"]["hospital-b"]
    rows = rows_of(outcome)
    assert [row["silo"] for row in rows] == ["hospital-a", "hospital-b"]
    assert rows[0]["federated"] == _metrics(4)
    assert rows[1]["federated"] == {}
    assert rows[1]["own"] == {"loss": 0.25, "auc": 0.9}


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"auc": 0.9876, "loss": 0.1234}, "0.988 (0.123)"),
        ({"auc": 1.0}, "1.000"),
        ({"loss": 2.0}, "- (2.000)"),
        ({}, "-"),
    ],
)
def test_a_cell(metrics: dict[str, float], shown: str) -> None:
    assert cell(metrics) == shown


def test_the_table_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    comparison_table(_outcome(tmp_path))
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if "hospital-a" in line)
    for shown in ("246", "52%", "0.900 (0.300)", "0.900 (0.250)", "- (0.100)"):
        assert shown in line
    assert "what the institutions may not do" in out


def test_a_private_run_shows_what_each_silo_spent_and_what_was_refused_then(site: Site) -> None:
    directory = site.founded.directory
    outcome = _outcome(directory)
    public = write_report(directory / "report.html", SCENARIOS["breast_cancer"], site.founded, outcome).read_text()
    assert "privacy budget" not in public
    outcome.spent = {"hospital-a": Spent(2.9981, 3.5, 1e-5)}
    outcome.over_budget = [
        {"silo": HOSTILE, "rule": "privacy.budget", "reason": "4.36 would be spent", "location": "policy.yaml:53:3"}
    ]
    outcome.passport = directory / "coordinator" / "runs" / "r" / "passport.json"
    text = write_report(directory / "report.html", SCENARIOS["breast_cancer"], site.founded, outcome).read_text()
    page = _Page(text)
    for shown in ("2.998", "3.5", "privacy.budget", "4.36 would be spent", "coordinator/runs/r/passport.json"):
        assert shown in page.texts
    assert page.active == []
