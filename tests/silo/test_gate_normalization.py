"""A run that normalises by statistics of all silos: what its gate admits, lets out, and takes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.errors import ConcordatError
from federation.run import load_run
from federation.statistics.exact_sums import decoded, encoded
from federation.statistics.normalization import Normalization, normalization_digest, normalization_layout
from federation.statistics.reading import read_summary
from federation.wire import EVIDENCE, Envelope, Kind, weights_digest
from silo.channel import Frame
from silo.worker.data.view import PolicyView
from silo.worker.errors import WorkError
from silo.worker.keras_file import make
from silo.worker.normalizing import moments_of, normalised, normalised_together

from .simulator import INITIAL, RUN, GateBench, prepared
from .test_gate_statistics import ALLOWED

NORMALISED = RUN + "normalization: federated\n"
LAYOUT = normalization_layout(("age", "sex"))
BY = Normalization(np.array([50.0, 0.5]), np.array([10.0, 0.5])).text()
MOMENTS: dict[str, Any] = {
    "moments": {"rows": 140, "mean": [50.0, 0.1], "square": [14000.0, 12.6]},
    "tables": [[11, 0], [2, 14]],
}


def admitted(bench: GateBench, **changes: Any) -> None:
    bench.serve_policy(ALLOWED)
    bench.work(prepare=lambda frame: prepared(**{**MOMENTS, **changes}))
    answer = bench.admit(bench.consortium.sign(NORMALISED))
    assert answer.config["status"] == "admitted", answer.config


def test_means_and_variances_leave_as_statistics_do(bench: GateBench) -> None:
    admitted(bench)
    assert bench.workers[0].frames[0].fields["cell"] == 10
    answer = bench.ask(Kind.MOMENTS, Envelope())
    found = read_summary(str(answer.config["statistics"]), LAYOUT)
    assert (found.rows, found.mean.tolist()) == (140, [50.0, 0.1])
    assert (bench.last["action"], bench.last["decision"]) == ("statistics.egress", "allow")
    again = bench.ask(Kind.MOMENTS, Envelope())
    assert again.config == answer.config


def test_a_rare_value_hides_its_columns_mean(bench: GateBench) -> None:
    admitted(bench, tables=[[11, 0], [2, 9]])
    found = read_summary(str(bench.ask(Kind.MOMENTS, Envelope()).config["statistics"]), LAYOUT)
    assert np.isnan(found.mean).tolist() == [False, True]
    assert bench.last["detail"]["hidden_columns"] == 1


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("allow: [mean, variance, histogram]", "allow: [mean]", "egress.statistics.allow"),
        ("  statistics: {allow: [mean, variance, histogram], minimum_cell: 10}\n", "", "default-deny"),
        ("    statistics: {countries: [EU], basis: gdpr-art-9-2-j}\n", "", "default-deny"),
    ],
)
def test_a_policy_without_statistics_admits_no_such_run(bench: GateBench, old: str, new: str, rule: str) -> None:
    assert old in ALLOWED
    bench.serve_policy(ALLOWED.replace(old, new))
    bench.work()
    assert bench.admit(bench.consortium.sign(NORMALISED)).config["rule"] == rule
    assert bench.admit().config["status"] == "admitted", "other runs are as welcome as before"


def test_a_run_of_a_single_silo_needs_that_its_statistics_may_be_seen(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    bench.work()
    alone = NORMALISED.replace("rounds: 3}", "rounds: 3, quorum: 1}")
    assert bench.admit(bench.consortium.sign(alone)).config["rule"] == "egress.statistics.per_silo"


def test_a_worker_that_says_nothing_of_its_rows_is_of_no_use(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    bench.work()
    answer = bench.admit(bench.consortium.sign(NORMALISED))
    assert (answer.config["status"], "lack a field" in str(answer.config["reason"])) == ("failed", True)


def test_a_run_that_does_not_normalise_gives_no_means(bench: GateBench) -> None:
    bench.serve_policy(ALLOWED)
    bench.work()
    bench.admit()
    assert bench.ask(Kind.MOMENTS, Envelope()).config["rule"] == "run.normalization"


def test_the_worker_gets_it_with_the_model_and_no_other_comes_after(bench: GateBench) -> None:
    admitted(bench)
    assert bench.round(1, normalization=BY).config["status"] == "ok"
    assert bench.workers[0].frames[-1].fields["normalization"] == BY
    other = BY.replace("50.0", "51.0")
    assert bench.round(2, normalization=other).config["rule"] == "ingress.normalization"
    assert bench.ask(Kind.MOMENTS, Envelope()).config["rule"] == "run.normalization", "rounds have begun"
    assert bench.round(2).config["status"] == "failed", "without one the model is not trained on"
    assert bench.round(2, normalization='{"mean": [0, 0], "scale": [0, 1]}').config["status"] == "failed"
    assert bench.round(2, normalization=BY).config["status"] == "ok"
    assert bench.workers[0].asked.count("train") == 2


def test_one_that_the_coordinators_log_does_not_name_is_refused(bench: GateBench) -> None:
    """The evidence is of the model alone, or of another normalisation."""
    admitted(bench)
    for published in ({}, {"normalization": BY.replace("50.0", "49.0")}):
        plain = Envelope({"round": 1, "digest": weights_digest(INITIAL), **published}, weights=INITIAL)
        shown = bench.evidence(Kind.TRAIN, plain)
        config = {**plain.config, "normalization": BY, EVIDENCE: shown}
        answer = bench.ask(Kind.TRAIN, Envelope(config, weights=INITIAL))
        assert answer.config["rule"] == "ingress.published"
    assert "train" not in bench.workers[0].asked


# -- the worker's part


def view(ages: list[float], validation: list[float]) -> PolicyView:
    def rows(values: list[float]) -> np.ndarray:
        return np.array([[value, 1.0] for value in values], dtype=np.float32)

    labels = np.zeros((len(ages), 1), dtype=np.float32)
    return PolicyView(rows(ages), labels, rows(validation), labels[: len(validation)], 0, "sha256:" + "a" * 64)


def test_only_training_rows_are_told_of_and_both_sides_are_scaled_once() -> None:
    run, before = load_run(NORMALISED).model, view([40, 60], [100])
    told = moments_of(before, run, Frame("prepare", {"cell": 5}))
    assert told["moments"] == {"rows": 2, "mean": [50.0, 1.0], "square": [200.0, 0.0]}
    assert told["tables"] == [[2, 1], [1, 2]]
    frame = Frame("train", {"normalization": BY})
    after, digest = normalised(before, run, frame, None)
    np.testing.assert_allclose(after.train_x[:, 0], [-1, 1])
    np.testing.assert_allclose(after.validation_x[:, 0], [5])
    assert (digest, after.digest) == (normalization_digest(BY), before.digest)
    assert normalised(after, run, frame, digest)[0] is after
    with pytest.raises(WorkError, match="other values before"):
        normalised(after, run, Frame("train", {"normalization": BY.replace("50.0", "51.0")}), digest)
    with pytest.raises(WorkError, match="how small a cell"):
        moments_of(before, run, Frame("prepare", {}))


def test_simulated_silos_are_scaled_by_all_of_their_training_rows() -> None:
    run = load_run(NORMALISED).model
    found = normalised_together(run, {"a": view([1, 2, 3], [4]), "b": view([5, 9], [4])})
    together = np.concatenate([one.train_x[:, 0] for one in found.values()])
    assert together.mean() == pytest.approx(0, abs=1e-6)
    assert together.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found["a"].validation_x[:, 0], [0], atol=1e-6)
    plain = load_run(RUN).model
    views = {"a": view([1, 2], [3])}
    assert normalised_together(plain, views)["a"] is views["a"]
    assert json.loads(BY)["mean"] == [50.0, 0.5]


def test_a_simulation_of_masked_sums_scales_by_the_bits_that_a_federation_opens() -> None:
    run = load_run(
        NORMALISED.replace("rounds: 3", "rounds: 3, quorum: 2") + "secure_aggregation: {threshold: 2}\n"
    ).model
    views = {"a": view([1, 2, 3.1], [4]), "b": view([5.3, 9], [4]), "c": view([0.7, 1e6], [4])}
    parts = [moments_of(one, run, Frame("prepare", {"cell": 1}))["moments"] for one in views.values()]
    sums = [encoded(read_summary(json.dumps(part), LAYOUT)) for part in parts]
    by = Normalization.of_sum(decoded(sums[2] + sums[0] + sums[1], 2))
    for name, scaled in normalised_together(run, views).items():
        assert scaled.train_x.tobytes() == by.applied(views[name].train_x).tobytes()


def test_a_keras_file_that_would_not_scale_its_inputs_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(NORMALISED)
    with pytest.raises(ConcordatError, match=r"normalises its features.*take it as \.npz"):
        make(tmp_path, own=True)
