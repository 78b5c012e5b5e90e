"""An admitted run at a gate: what its rounds let in and out, and workers that fail."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from federation.wire import Envelope, Kind, weights_digest
from silo.channel import Frame

from .simulator import (
    INITIAL,
    METRICS,
    SECONDS,
    GateBench,
    PlayedWorker,
    failed,
    prepared,
    refused,
    trained,
)

# -- rounds: what comes in


@pytest.mark.parametrize(
    ("number", "weights", "rule"),
    [
        (4, INITIAL, "ingress.round"),
        (1, INITIAL[:3], "ingress.shape"),
        (1, np.tile(INITIAL, 2), "ingress.shape"),
        (1, np.array([1, 2, math.nan, 4], dtype=np.float32), "ingress.finite"),
        (1, np.array([1, 2, math.inf, 4], dtype=np.float32), "ingress.finite"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_a_model_that_may_not_come_in_does_not_reach_the_worker(
    bench: GateBench, kind: str, number: int, weights: Any, rule: str
) -> None:
    worker = bench.work()
    bench.admit()
    assert refused(bench.round(number, weights, kind)) == rule
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["rule"]) == ("round.ingress", "deny", rule)
    assert entry["detail"]["model"] == weights_digest(weights)
    assert bench.round(1).config["status"] == "ok", "the round can still be run with a good model"
    assert worker.asked == ["prepare", "train"]


def test_a_model_other_than_its_digest_says_does_not_reach_the_worker(bench: GateBench) -> None:
    worker = bench.work()
    bench.admit()
    assert "got a model with digest" in failed(bench.round(1, digest=weights_digest(INITIAL + 1)))
    assert "digest" in failed(bench.ask(Kind.TRAIN, Envelope({"round": 1}, weights=INITIAL)))
    assert "without a model" in failed(bench.ask(Kind.TRAIN, Envelope({"round": 1, "digest": ""})))
    assert "round" in failed(bench.round(1, round="1"))
    assert "round" in failed(bench.round(1, round=True))
    assert worker.asked == ["prepare"]
    assert bench.state().actions[2:] == ["message.failed"] * 5


@pytest.mark.parametrize("number", [-1, 2**62])
def test_a_round_number_that_no_entry_holds_does_not_stop_the_gate(bench: GateBench, number: int) -> None:
    worker = bench.work()
    bench.admit()
    assert bench.round(number).config["status"] in {"refused", "failed"}
    assert bench.round(1).config["status"] == "ok"
    assert worker.asked == ["prepare", "train"]


def test_a_round_is_trained_once(bench: GateBench) -> None:
    worker = bench.work()
    bench.admit()
    assert bench.round(2).config["status"] == "ok"
    for number, rule in ((2, "round.repeated"), (1, "ingress.receipts"), (0, "ingress.receipts")):
        assert refused(bench.round(number)) == rule
    assert worker.asked == ["prepare", "train"]
    assert bench.round(3).config["status"] == "ok"


# -- rounds: what goes out


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (trained(np.array([1, math.nan, 1, 1], dtype=np.float32)), "egress.update.finite"),
        (trained(np.array([1, math.inf, 1, 1], dtype=np.float32)), "egress.update.finite"),
        (trained(INITIAL[:3]), "egress.update.shape"),
        (trained(np.tile(INITIAL, 1000)), "egress.update.shape"),
        (trained(INITIAL, metrics={**METRICS, "accuracy": 0.9}), "egress.metrics.declared"),
        (trained(INITIAL, metrics={"patient-4711": 1.0}), "egress.metrics.declared"),
        (trained(INITIAL, metrics={f"m{n}": 1.0 for n in range(2000)}), "egress.metrics.declared"),
        (trained(INITIAL, metrics={"loss": math.nan}), "egress.metrics.finite"),
        (trained(INITIAL, metrics={"loss": math.inf, "auc": -math.inf}), "egress.metrics.finite"),
    ],
)
def test_a_reply_that_may_not_leave_stays(bench: GateBench, answer: Frame, rule: str) -> None:
    bench.work(train=lambda _: answer)
    bench.admit()
    assert refused(bench.round(1)) == rule
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["rule"]) == ("round.egress", "deny", rule)
    assert bench.round(2).config["status"] == "refused", "the gate lives on"


def test_metrics_that_are_no_numbers_are_recorded_as_words(bench: GateBench) -> None:
    bench.work(train=lambda _: trained(INITIAL, metrics={"loss": math.nan, "auc": math.inf, "num_examples": 3}))
    bench.admit()
    bench.round(1)
    assert bench.payload(bench.last) == {"metrics": {"loss": "nan", "auc": "inf", "num_examples": 3.0}}


@pytest.mark.parametrize("facts", [{"examples": 19}, {"validation": 19}])
def test_a_reply_on_too_few_examples_stays(bench: GateBench, facts: dict[str, int]) -> None:
    bench.work(prepare=lambda _: prepared(**facts))
    bench.admit()
    assert refused(bench.round(1)) == "egress.metrics.minimum_count"
    assert refused(bench.round(3, kind=Kind.EVALUATE)) == "egress.metrics.minimum_count"
    assert bench.last["action"] == "evaluation.egress"


def test_an_update_above_the_bound_is_clipped_and_the_log_says_so(bench: GateBench) -> None:
    update = np.array([30, 40, 0, 0], dtype=np.float32)
    bench.work(train=lambda _: trained(INITIAL + update))
    bench.admit()
    answer = bench.round(1)
    assert answer.config["status"] == "ok"
    assert answer.weights is not None
    sent = answer.weights - INITIAL
    assert np.linalg.norm(sent) <= 10.0
    np.testing.assert_allclose(sent, [6, 8, 0, 0], rtol=1e-4)
    entry = bench.last
    assert (entry["decision"], entry["rule"]) == ("allow", "egress.update.max_norm")
    assert entry["reason"] == "the update's norm of 50 is clipped to 10"
    assert entry["detail"]["norm_micro"] == 50_000_000
    assert entry["detail"]["update"] == weights_digest(answer.weights), "the digest is that of what was sent"
    assert entry["detail"]["location"].startswith("policy.yaml:20:")


def test_an_update_of_absurd_length_is_clipped_too(bench: GateBench) -> None:
    bench.work(train=lambda _: trained(INITIAL + np.float32(1e10)))
    bench.admit()
    answer = bench.round(1)
    assert answer.config["status"] == "ok"
    assert answer.weights is not None
    assert np.linalg.norm(answer.weights.astype(np.float64) - INITIAL) <= 10.0
    assert bench.last["detail"]["norm_micro"] == -1


def test_the_metrics_of_an_evaluation_pass_the_same_rules(bench: GateBench) -> None:
    bench.work(evaluate=lambda _: Frame("evaluated", {"metrics": {"accuracy": 0.5}}))
    bench.admit()
    assert refused(bench.round(3, kind=Kind.EVALUATE)) == "egress.metrics.declared"
    assert bench.last["action"] == "evaluation.egress"


# -- a worker that fails


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Frame("error", {"message": "training raised ValueError"}), id="says so"),
        pytest.param(Frame("error", {"message": ""}), id="says so without a word"),
        pytest.param(Frame("trained", {"examples": 140, "metrics": METRICS}), id="sends no weights"),
        pytest.param(Frame("trained", {"examples": 140, "metrics": METRICS}, b"abcde"), id="sends half a number"),
        pytest.param(trained(INITIAL, metrics=None), id="sends no metrics"),
        pytest.param(trained(INITIAL, metrics=[0.5]), id="sends a list of metrics"),
        pytest.param(trained(INITIAL, metrics={"loss": "low"}), id="sends metrics in words"),
        pytest.param(trained(INITIAL, metrics={"loss": [1]}), id="sends a list for a metric"),
        pytest.param(trained(INITIAL, metrics={"loss": 10**400}), id="sends a metric beyond floats"),
        pytest.param(trained(INITIAL, metrics={"x" * 2_000_000: 1.0}), id="sends a name that no log holds"),
    ],
)
def test_a_worker_that_fails_is_a_failed_round_and_the_gate_lives_on(bench: GateBench, answer: Frame) -> None:
    bench.work(train=lambda _: answer)
    bench.admit()
    assert len(failed(bench.round(1))) <= 1000
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["detail"]) == ("message.failed", "record", {"kind": "train"})
    assert entry["run"] == "run-1"
    assert refused(bench.ask("unknown", Envelope())) == "default-deny"


@pytest.mark.parametrize("claimed", [None, -1, 1.5, 1, 10**30])
def test_the_examples_of_a_reply_are_those_of_the_view_whatever_a_worker_says(
    bench: GateBench, claimed: object
) -> None:
    bench.work(train=lambda _: trained(INITIAL, examples=claimed))
    admitted = bench.admit()
    answer = bench.round(1)
    assert answer.number("examples") == admitted.number("examples")
    assert bench.last["detail"]["examples"] == admitted.number("examples")


@pytest.mark.parametrize("number", [1, 2])
def test_a_model_is_evaluated_after_the_last_round_only(bench: GateBench, number: int) -> None:
    """Else a coordinator could try any number of crafted models on a silo's validation rows."""
    worker = bench.work()
    bench.admit()
    assert refused(bench.round(number, kind=Kind.EVALUATE)) == "run.evaluation"
    assert worker.asked == ["prepare"]


def test_a_second_evaluation_is_refused(bench: GateBench) -> None:
    bench.work()
    bench.admit()
    assert bench.round(3, kind=Kind.EVALUATE).config["status"] == "ok"
    assert refused(bench.round(3, kind=Kind.EVALUATE)) == "run.unknown"


def test_a_worker_that_died_is_replaced_within_the_run(bench: GateBench) -> None:
    lost = bench.work(train=lambda _: None)
    bench.admit()
    fresh = _when_ended(lost, bench.work)
    assert bench.round(1).config["status"] == "ok"
    assert fresh()[0].asked == ["prepare", "train"]
    assert bench.state().actions == ["run.admit", "view.build", "round.ingress", "view.build", "round.egress"]


def test_a_worker_that_dies_of_its_work_is_not_replaced_for_ever(bench: GateBench) -> None:
    first = bench.work(train=lambda _: None)
    bench.admit()

    def replace_twice() -> PlayedWorker:
        second = bench.work(train=lambda _: None)
        assert second.ended.wait(SECONDS)
        return bench.work(train=lambda _: None)

    fresh = _when_ended(first, replace_twice)
    assert "the worker went away during train" in failed(bench.round(1))
    assert fresh()[0].asked == ["prepare", "train"]


def test_the_view_of_a_worker_that_replaces_another_is_decided_on_too(bench: GateBench) -> None:
    lost = bench.work(train=lambda _: None)
    bench.admit()
    fresh = _when_ended(lost, lambda: bench.work(prepare=lambda _: prepared(rows=10)))
    assert refused(bench.round(1)) == "datasets.rows.minimum"
    assert fresh()[0].ended.wait(SECONDS)
    assert fresh()[0].asked == ["prepare"]


def _when_ended(worker: PlayedWorker, make: Callable[[], PlayedWorker]) -> Callable[[], list[PlayedWorker]]:
    """Have a fresh worker come once another has ended, as its supervisor does; gives what came."""
    came: list[PlayedWorker] = []

    def supervise() -> None:
        if worker.ended.wait(SECONDS):
            came.append(make())

    thread = threading.Thread(target=supervise)
    thread.start()

    def joined() -> list[PlayedWorker]:
        thread.join(SECONDS)
        return came

    return joined
