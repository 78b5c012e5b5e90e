"""Each decision of a run gets the right facts: a fact that decides is changed, and the rule that guards it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from federation.errors import ManifestError, WireError
from federation.identity import Peer, Role
from federation.run import Run, SignedRun, app_digest, load_run
from federation.submission import submission_of
from policies.decision import Decision
from policies.model import load_policy
from silo.gate.session import (
    Prepared,
    Session,
    decide_admission,
    decide_egress,
    decide_ingress,
    decide_view,
    parties_of,
)

from .simulator import APP, INITIAL, POLICY, RUN, SILO, Consortium

NOW = datetime(2026, 11, 20, tzinfo=UTC)
OPERATOR = Peer("heart.example", Role.OPERATOR, "operator", b"")
POLICY_DOCUMENT = load_policy(POLICY, source="policy.yaml")
METRICS = {"loss": 0.5, "auc": 0.75}
BOTH = ("hospital-b", SILO)
SUBMISSION = submission_of(("sha256:" + "1" * 64, app_digest(APP)), OPERATOR, BOTH, now=NOW)
SIGNED = SignedRun(RUN, SUBMISSION, b"", b"")


def _run(**changes: Any) -> Run:
    return load_run(RUN).model.model_copy(update=changes)


def _session(**changes: Any) -> Session:
    facts: dict[str, Any] = {
        "rows": 200,
        "examples": 140,
        "validation": 60,
        "view_digest": "",
        "shapes": "",
        "values": 4,
        "initial_digest": "",
    }
    return Session("run-1", 7, _run(), OPERATOR, SIGNED, APP, Prepared(**{**facts, **changes}))


# -- parties


def _parties(consortium: Consortium, silos: tuple[str, ...] = BOTH) -> list[tuple[str, str, str]]:
    parties = parties_of(consortium.manifest.federation, silos, OPERATOR)
    return [(party.name, party.role, party.country) for party in parties]


def test_the_parties_of_a_run_are_everyone_who_takes_part(consortium: Consortium) -> None:
    assert _parties(consortium) == [
        ("coordinator", "coordinator", "DE"),
        ("operator", "operator", "DE"),
        ("hospital-b", "silo", "FR"),
        ("hospital-a", "silo", "DE"),
    ]
    assert ("hospital-b", "silo", "FR") not in _parties(consortium, silos=(SILO,))
    assert len(_parties(consortium, silos=(SILO,))) == 3


@pytest.mark.parametrize(
    ("name", "problem"), [("nobody", "not a member"), ("hospital-b", "is a silo in the manifest, expected an operator")]
)
def test_a_run_of_someone_who_is_no_operator_has_no_parties(consortium: Consortium, name: str, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem):
        parties_of(consortium.manifest.federation, BOTH, replace(OPERATOR, name=name))


def test_a_federation_without_a_coordinator_has_no_parties(consortium: Consortium) -> None:
    with pytest.raises(ManifestError, match="0 coordinators"):
        parties_of(consortium.editions[0].federation.model_copy(update={
            "members": tuple(m for m in consortium.manifest.federation.members if m.role is not Role.COORDINATOR)
        }), BOTH, OPERATOR)  # fmt: skip


# -- admission


def _admission(consortium: Consortium, run: Run | None = None, **changes: Any) -> Decision:
    facts: dict[str, Any] = {"app_digest": app_digest(APP), "silo": SILO, "now": NOW, **changes}
    run = run or _run()
    parties = facts.pop("parties", None) or parties_of(consortium.manifest.federation, BOTH, OPERATOR)
    return decide_admission(POLICY_DOCUMENT, run, parties=parties, **facts)


def test_the_run_is_admitted(consortium: Consortium) -> None:
    decision = _admission(consortium)
    assert (decision.effect, decision.rule) == ("allow", "admission.allow")


@pytest.mark.parametrize(
    ("run", "rule"),
    [
        ({"purpose": "POA"}, "purposes.allow"),
        ({"dataset": "lung"}, "datasets.known"),
        ({"features": ("age", "address")}, "datasets.columns"),
        ({"label": _run().label.model_copy(update={"column": "address"})}, "datasets.columns"),
        ({"strategy": _run().strategy.model_copy(update={"rounds": 11})}, "runs.max_rounds"),
        ({"metrics": ("loss", "accuracy")}, "egress.metrics.allow"),
    ],
)
def test_a_fact_of_the_run_that_the_policy_does_not_allow(
    consortium: Consortium, run: dict[str, Any], rule: str
) -> None:
    decision = _admission(consortium, _run(**run))
    assert (decision.effect, decision.rule) == ("deny", rule)


def test_other_facts_of_admission(consortium: Consortium) -> None:
    parties = parties_of(consortium.manifest.federation, BOTH, OPERATOR)
    abroad = tuple(replace(party, country="US") if party.role == "coordinator" else party for party in parties)
    without = parties_of(consortium.manifest.federation, ("hospital-b",), OPERATOR)
    for changes, rule in (
        ({"parties": without}, "residency.silo"),
        ({"app_digest": app_digest(b"another")}, "apps.allow"),
        ({"parties": abroad}, "residency.destinations"),
        ({"silo": "hospital-b"}, "residency.silo"),
        ({"now": datetime(2019, 12, 31, tzinfo=UTC)}, "policy.effective"),
        ({"now": datetime(2026, 11, 20)}, "evaluation-error"),  # noqa: DTZ001  a time without a zone decides nothing
    ):
        decision = _admission(consortium, **changes)
        assert (decision.effect, decision.rule) == ("deny", rule), changes


# -- view


@pytest.mark.parametrize(
    ("run", "rows", "rule"),
    [
        ({}, 50, "view.allow"),
        ({}, 49, "datasets.rows.minimum"),
        ({"features": ("age", "address")}, 50, "datasets.columns"),
        ({"dataset": "lung"}, 50, "datasets.known"),
    ],
)
def test_a_view(run: dict[str, Any], rows: int, rule: str) -> None:
    decision = decide_view(POLICY_DOCUMENT, _run(**run), Prepared(rows, 1, 1, "", "", 4, ""), NOW)
    assert decision.rule == rule
    assert decision.allowed == (rule == "view.allow")


# -- ingress

WILD = np.array([1, np.nan, 1, 1], dtype=np.float32)


@pytest.mark.parametrize(
    ("session", "number", "weights", "rule"),
    [
        ({}, 1, INITIAL, "ingress.allow"),
        ({}, 3, INITIAL, "ingress.allow"),
        ({}, 0, INITIAL, "ingress.round"),
        ({}, 4, INITIAL, "ingress.round"),
        ({}, 1, INITIAL[:3], "ingress.shape"),
        ({}, 1, INITIAL[:0], "ingress.shape"),
        ({"values": 5}, 1, INITIAL, "ingress.shape"),
        ({}, 1, WILD, "ingress.finite"),
        ({}, 1, INITIAL.astype(np.float64), "ingress.dtype"),
        ({"values": 262145}, 1, np.zeros(262145, dtype=np.float32), "ingress.max_bytes"),
        ({"values": 262144}, 1, np.zeros(262144, dtype=np.float32), "ingress.allow"),
    ],
)
def test_ingress(session: dict[str, Any], number: int, weights: Any, rule: str) -> None:
    decision = decide_ingress(POLICY_DOCUMENT, _session(**session), number, weights, NOW)
    assert decision.rule == rule
    assert decision.allowed == (rule == "ingress.allow")


def test_no_model_is_expected_before_the_worker_has_made_one() -> None:
    session = replace(_session(), prepared=None)
    assert decide_ingress(POLICY_DOCUMENT, session, 1, INITIAL, NOW).rule == "ingress.shape"
    decision, _ = decide_egress(POLICY_DOCUMENT, session, 1, METRICS, (INITIAL, INITIAL), NOW)
    assert decision.rule == "egress.metrics.minimum_count"


# -- egress


def _egress(
    session: Mapping[str, Any], number: int, metrics: Mapping[str, float], after: Any
) -> tuple[Decision, float]:
    return decide_egress(POLICY_DOCUMENT, _session(**session), number, metrics, (after, INITIAL), NOW)


@pytest.mark.parametrize(
    ("session", "number", "metrics", "after", "rule"),
    [
        ({}, 1, METRICS, INITIAL, "egress.allow"),
        ({}, 10, METRICS, INITIAL, "egress.allow"),
        ({}, 11, METRICS, INITIAL, "runs.max_rounds"),
        ({}, 1, {"loss": 1.0, "accuracy": 0.5}, INITIAL, "egress.metrics.declared"),
        ({}, 1, {"loss": float("nan")}, INITIAL, "egress.metrics.finite"),
        ({"examples": 19}, 1, METRICS, INITIAL, "egress.metrics.minimum_count"),
        ({"validation": 19}, 1, METRICS, INITIAL, "egress.metrics.minimum_count"),
        ({"examples": 20, "validation": 20}, 1, METRICS, INITIAL, "egress.allow"),
        ({}, 1, METRICS, INITIAL[:3], "egress.update.shape"),
        ({}, 1, METRICS, np.tile(INITIAL, 2), "egress.update.shape"),
        ({}, 1, METRICS, WILD, "egress.update.finite"),
        ({}, 1, METRICS, INITIAL.astype(np.float64), "egress.update.dtype"),
    ],
)
def test_egress(session: Any, number: int, metrics: Any, after: Any, rule: str) -> None:
    decision, _ = _egress(session, number, metrics, after)
    assert decision.rule == rule
    assert decision.allowed == (rule == "egress.allow")


def test_an_update_larger_than_the_policy_allows_stays() -> None:
    weights = np.zeros(262145, dtype=np.float32)
    decision, _ = decide_egress(POLICY_DOCUMENT, _session(values=262145), 1, METRICS, (weights, weights), NOW)
    assert decision.rule == "egress.update.max_bytes"


def test_the_norm_is_that_of_the_update_and_asks_for_clipping_above_the_bound() -> None:
    decision, norm = _egress({}, 1, METRICS, INITIAL + np.array([6, 8, 0, 0], dtype=np.float32))
    assert (norm, decision.rule, decision.clip_norm) == (10.0, "egress.allow", None)
    decision, norm = _egress({}, 1, METRICS, INITIAL + np.array([9, 12, 0, 0], dtype=np.float32))
    assert (norm, decision.effect, decision.rule, decision.clip_norm) == (15.0, "allow", "egress.update.max_norm", 10.0)


def test_an_evaluation_has_metrics_alone() -> None:
    decision, norm = decide_egress(POLICY_DOCUMENT, _session(), 3, METRICS, None, NOW)
    assert (decision.rule, norm) == ("egress.allow", 0.0)
    assert "no update" in decision.reason
    decision, _ = decide_egress(POLICY_DOCUMENT, _session(validation=19), 3, METRICS, None, NOW)
    assert decision.rule == "egress.metrics.minimum_count"
    decision, _ = decide_egress(POLICY_DOCUMENT, _session(), 3, {"age": 80.0}, None, NOW)
    assert decision.rule == "egress.metrics.declared"


# -- rounds


def test_rounds_only_advance() -> None:
    session = _session()
    session.advance(2)
    session.advance(5)
    for number in (5, 4, 2, 0, -1):
        with pytest.raises(WireError, match=f"got round {number}, expected one after 5"):
            session.advance(number)
    session.advance(6)
