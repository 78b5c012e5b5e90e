"""Statistics of the data: refused unless a policy speaks of them, and then as far as it does."""

import dataclasses

import pytest

from policies.floor import load_floor, looser_than
from policies.model import load_policy
from policies.request import Egress

SECTION = "  statistics: {allow: [mean, histogram], minimum_cell: 10}\n"


@pytest.fixture
def allowing(full) -> str:
    text = full.text.replace(
        "    final_model:", "    statistics: {countries: [DE, CH], basis: gdpr-art-9-2-j}\n    final_model:"
    )
    return text.replace("egress:\n", f"egress:\n{SECTION}", 1)


@pytest.mark.parametrize(
    ("change", "facts", "rule"),
    [
        (("", ""), {}, "admission.allow"),
        (("", ""), {"kinds": ("mean", "histogram")}, "admission.allow"),
        (("", ""), {"kinds": ("mean", "correlation")}, "egress.statistics.allow"),
        (("", ""), {"kinds": ("everything",)}, "egress.statistics.allow"),
        ((SECTION, ""), {}, "default-deny"),
        (("", ""), {"per_silo": True}, "egress.statistics.per_silo"),
        (("minimum_cell: 10", "minimum_cell: 10, per_silo: true"), {"per_silo": True}, "admission.allow"),
    ],
)
def test_admission_of_statistics(full, allowing, change, facts, rule) -> None:
    decision = full.decide(full.vary("admission", statistics=True, **facts), allowing.replace(*change))
    assert decision.rule == rule
    assert decision.allowed or decision.remedy


def test_a_run_without_code_is_asked_nothing_about_apps_and_models_and_no_other_run_is_spared(full, allowing) -> None:
    bare = {"app_digest": "", "authors": (), "reviewers": (), "uses": None, "release_asked": None, "code": False}
    assert full.decide(full.vary("admission", statistics=True, kinds=("mean",), **bare), allowing).allowed
    for spared in ({"statistics": False}, {"code": True}):
        asked = {"statistics": True, "kinds": ("mean",), **bare, **spared}
        assert full.decide(full.vary("admission", **asked), allowing).rule == "apps.allow"


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        (None, "egress.allow"),
        (10, "egress.allow"),
        (9, "egress.statistics.minimum_cell"),
        (0, "egress.statistics.minimum_cell"),
    ],
)
def test_the_smallest_cell_that_would_be_shown_is_decided_on(full, allowing, cell, rule) -> None:
    reply = Egress(round=1, examples=500, metrics={}, declared_metrics=(), cell=cell, privacy=full.egress.privacy)
    assert full.decide(reply, allowing).rule == rule
    if cell is not None:
        assert full.decide(reply, full.text).rule == "default-deny", "no section, no cells"


def test_a_private_statistic_has_no_gradients_to_clip(full, allowing) -> None:
    privacy = dataclasses.replace(full.admission.privacy, clip_norm=None)
    facts = {"statistics": True, "kinds": ("mean",), "privacy": privacy}
    assert full.decide(full.vary("admission", **facts, code=False), allowing).allowed
    assert full.decide(full.vary("admission", **facts), allowing).rule == "privacy.clip_norm"


def test_the_floors_minimum_count_holds_for_cells(full, allowing) -> None:
    floor = load_floor(
        "apiVersion: concordat/v1\nkind: FederationPolicy\n"
        "metadata: {name: floor, version: 1, owner: o, effective: 2026-01-01}\nlimits: {minimum_count: 11}\n"
    ).model
    (problem,) = looser_than(load_policy(allowing, "p.yaml"), floor)
    assert "egress.statistics.minimum_cell" in problem.message
