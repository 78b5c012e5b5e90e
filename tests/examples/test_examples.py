"""Each example is what it says: a run, an app and policies that admit it."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from demo.scenarios import EXAMPLES, SCENARIOS
from federation.limits import LIMITS
from federation.operator import build_app
from federation.run import METRICS, Run, app_digest, load_run
from policies.decision import Decision
from policies.document import Document
from policies.engine import decide
from policies.model import SiloPolicy, load_policy
from policies.request import Admission, Egress, Ingress, LogHealth, Party, Privacy, View
from policies.testing.suite import run_paths

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SILOS = [(name, silo) for name, scenario in SCENARIOS.items() for silo in scenario.silos]


@cache
def _app(name: str) -> bytes:
    return build_app(EXAMPLES / name / "app")


def _run(name: str) -> Run:
    path = EXAMPLES / name / "run.yaml"
    return load_run(path.read_text(), source=str(path)).model


def _policy(name: str, silo: str) -> Document[SiloPolicy]:
    """The policy as it stands after the reviewers have put the app's digest in."""
    text = (EXAMPLES / name / "policies" / f"{silo}.yaml").read_text()
    filled, count = re.subn(r"sha256:0{64}", app_digest(_app(name)), text)
    assert count == 1, "one place for the digest of the approved app"
    return load_policy(filled, source=f"{silo}.yaml")


def _admission(name: str, silo: str) -> Admission:
    scenario, run = SCENARIOS[name], _run(name)
    parties = (
        Party("coordinator", "coordinator", scenario.coordinator_country),
        Party("operator", "operator", scenario.coordinator_country),
        *(Party(member, "silo", country) for member, country in scenario.silos.items()),
    )
    return Admission(
        purpose=run.purpose,
        dataset=run.dataset,
        columns=run.columns,
        app_digest=app_digest(_app(name)),
        rounds=run.strategy.rounds,
        metrics=run.metrics,
        parties=parties,
        silo=silo,
        quorum=len(scenario.silos),
        privacy=_privacy(run),
        log=LogHealth(verified=NOW, payloads_known=True),
    )


def _privacy(run: Run) -> Privacy | None:
    """What the gate would say of the run with an empty ledger."""
    if run.privacy is None:
        return Privacy(mode="none")
    epsilon, delta = run.privacy.epsilon, run.privacy.delta
    return Privacy(
        mode=run.privacy.mode,
        clip_norm=run.privacy.clip_norm,
        noise_multiplier=1.0,
        epsilon=epsilon,
        spent=epsilon,
        delta=delta,
    )


def _decide(name: str, silo: str, request: object) -> Decision:
    return decide(_policy(name, silo), request, NOW)


def test_every_example_has_a_scenario() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/run.yaml")} == set(SCENARIOS)


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_run_is_a_run(name: str) -> None:
    run = _run(name)
    assert run.strategy.name == "fedprox"
    assert run.strategy.mu > 0
    assert run.label.column not in run.features
    assert len(set(run.features)) == len(run.features)
    assert set(run.metrics) >= set(METRICS)
    assert (EXAMPLES / name / run.app.path).is_dir()


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_app_builds_to_the_same_bytes_from_a_copy(name: str, tmp_path: Path) -> None:
    app = _app(name)
    assert len(app) < LIMITS.app
    copy = tmp_path / "copy-of-app"
    shutil.copytree(EXAMPLES / name / "app", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.iterdir()):
        os.utime(path, (10**9, 10**9))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    assert build_app(copy) == app, "the digest that a policy approves has to be found again"
    with zipfile.ZipFile(io.BytesIO(app)) as archive:
        names = archive.namelist()
        module = _run(name).app.model.partition(":")[0]
        assert f"{module}.py" in names
        assert archive.read(f"{module}.py") == (EXAMPLES / name / "app" / f"{module}.py").read_bytes()
    assert not [entry for entry in names if "__pycache__" in entry or entry.endswith((".csv", ".yaml"))]


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_the_app_names_the_features_that_the_run_has(name: str) -> None:
    source = (EXAMPLES / name / "app" / "model.py").read_text()
    found = re.search(r"^FEATURES = (\d+)$", source, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == len(_run(name).features)


@pytest.mark.parametrize(("name", "silo"), SILOS)
def test_the_policy_admits_the_run(name: str, silo: str) -> None:
    decision = _decide(name, silo, _admission(name, silo))
    assert decision.rule == "admission.allow", decision.reason
    policy = _policy(name, silo).model
    assert policy.residency.silo == SCENARIOS[name].silos[silo]


@pytest.mark.parametrize(("name", "silo"), SILOS)
def test_the_policy_admits_nothing_before_the_reviewers_approved(name: str, silo: str) -> None:
    policy = load_policy(EXAMPLES / name / "policies" / f"{silo}.yaml")
    decision = decide(policy, _admission(name, silo), NOW)
    assert (decision.effect, decision.rule) == ("deny", "apps.allow")


@pytest.mark.parametrize(("name", "silo"), SILOS)
def test_the_policy_refuses_the_purpose_that_the_demonstration_has_refused(name: str, silo: str) -> None:
    other = replace(_admission(name, silo), purpose=SCENARIOS[name].refused_purpose)
    assert _decide(name, silo, other).rule == "purposes.allow"


@pytest.mark.parametrize(("name", "silo"), SILOS)
def test_the_policy_allows_neither_another_column_nor_a_party_elsewhere(name: str, silo: str) -> None:
    admission = _admission(name, silo)
    wider = replace(admission, columns=(*admission.columns, "patient_id"))
    assert _decide(name, silo, wider).rule == "datasets.columns"
    elsewhere = replace(admission, parties=(*admission.parties, Party("tokyo", "silo", "JP")))
    assert _decide(name, silo, elsewhere).rule == "residency.destinations"


@pytest.mark.parametrize(("name", "silo"), SILOS)
def test_the_policy_lets_the_whole_run_through(name: str, silo: str) -> None:
    run, policy = _run(name), _policy(name, silo).model
    minimum = policy.datasets[run.dataset].rows.minimum
    values = 10_000
    size = 4 * values
    metrics = dict.fromkeys(run.metrics, 0.5)
    for number in (1, run.strategy.rounds):
        ingress = Ingress(number, run.strategy.rounds, values, values, "float32", finite=True, size_bytes=size)
        egress = Egress(
            round=number,
            examples=policy.egress.metrics.minimum_count,
            metrics=metrics,
            declared_metrics=run.metrics,
            values=values,
            expected_values=values,
            dtype="float32",
            finite=True,
            norm=1.0,
            size_bytes=size,
            privacy=_privacy(run),
        )
        for request, rule in (
            (View(run.dataset, run.columns, minimum), "view.allow"),
            (View(run.dataset, run.columns, minimum - 1), "datasets.rows.minimum"),
            (ingress, "ingress.allow"),
            (egress, "egress.allow"),
            (replace(egress, examples=egress.examples - 1), "egress.metrics.minimum_count"),
        ):
            assert _decide(name, silo, request).rule == rule


def test_the_banks_read_nothing_that_may_not_decide_on_credit() -> None:
    withheld = {"id", "sex", "education", "marriage", "age"}
    for silo in SCENARIOS["credit"].silos:
        assert not withheld & set(_policy("credit", silo).model.datasets["cards"].columns.readable)


@pytest.mark.parametrize("silo", list(SCENARIOS["credit"].silos))
def test_the_banks_admit_no_run_without_privacy(silo: str) -> None:
    admission = _admission("credit", silo)
    assert _decide("credit", silo, replace(admission, privacy=Privacy(mode="none"))).rule == "privacy.mode"


def test_the_banks_policies_pass_the_tests_beside_them() -> None:
    suite = run_paths([EXAMPLES / "credit" / "policies"], require_tests=True)
    assert {file.name for file in suite.files} == {f"{silo}.test.yaml" for silo in SCENARIOS["credit"].silos}
    assert suite.passed, [outcome for one in suite.tested for outcome in one.outcomes if not outcome.passed]


def test_every_file_is_shipped() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.suffix in {".yaml", ".toml", ".py", ".md"}, Path(path).name
