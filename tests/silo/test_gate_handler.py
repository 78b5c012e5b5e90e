"""A gate's handler between a coordinator and a worker that are played: what it decides, records and passes on.

The audit log, the policy, the signed run, the manifest and the socket are real.
"""

from __future__ import annotations

import math
import shutil
import threading
from typing import Any

import numpy as np
import pytest

from audit.errors import AuditTampered, AuditWriteError
from federation.errors import UnreachableError
from federation.run import app_digest
from federation.wire import Envelope, Kind, weights_digest
from silo.channel import Frame, payload_of
from silo.constraint import Constraint

from .simulator import (
    APP,
    FINAL,
    INITIAL,
    METRICS,
    RUN,
    SECONDS,
    SILO,
    Consortium,
    GateBench,
    LogState,
    PlayedWorker,
    failed,
    last_before,
    prepared,
    refused,
    trained,
)

# -- a full life


def test_a_full_life_is_recorded_in_order_and_every_decision_before_its_act(bench: GateBench) -> None:
    worker = bench.work()

    answer = bench.admit()
    assert answer.config == {
        "status": "admitted",
        "examples": 140,
        "shapes": '[{"name": "dense", "shape": [4]}]',
        "initial_digest": weights_digest(INITIAL),
        "policy": bench.handler.policy.digest,
    }
    assert bench.node.fetched_apps == [app_digest(APP).removeprefix("sha256:")]
    assert bench.last["action"] == "view.build"

    answer = bench.ask(Kind.INITIAL, Envelope())
    assert answer.config == {"status": "ok", "digest": weights_digest(INITIAL)}
    np.testing.assert_array_equal(answer.weights, INITIAL)
    assert bench.last["action"] == "initial.release"

    model = INITIAL
    for number in (1, 2):
        answer = bench.round(number, model)
        policy = bench.handler.policy.digest
        assert answer.config == {"status": "ok", "examples": 140, "steps": 5, "planned": 5, "policy": policy}
        assert answer.metrics == METRICS
        assert (bench.last["action"], bench.last["decision"]) == ("round.egress", "allow")
        assert answer.weights is not None
        model = answer.weights
    np.testing.assert_array_equal(model, INITIAL + 2)

    answer = bench.round(3, FINAL, Kind.EVALUATE)
    assert (answer.config, answer.metrics, answer.weights) == ({"status": "ok"}, METRICS, None)
    assert worker.ended.wait(SECONDS), "the worker of a finished run is let go"
    assert worker.asked == ["prepare", "initial", "train", "train", "evaluate"]

    state = bench.state()
    assert [(e["action"], e["decision"], e["rule"], e["round"]) for e in state.entries] == [
        ("run.admit", "allow", "admission.allow", None),
        ("view.build", "allow", "view.allow", None),
        ("initial.release", "allow", "ingress.allow", None),
        ("round.ingress", "allow", "ingress.allow", 1),
        ("round.egress", "allow", "egress.allow", 1),
        ("round.ingress", "allow", "ingress.allow", 2),
        ("round.egress", "allow", "egress.allow", 2),
        ("round.ingress", "allow", "ingress.allow", 3),
        ("evaluation.egress", "allow", "egress.allow", 3),
        ("run.leave", "record", None, None),
    ]
    for entry in state.entries:
        assert (entry["actor"], entry["run"], entry["resource"], entry["policy"]) == (
            f"spiffe://heart.example/silo/{SILO}",
            "run-1",
            "run/run-1",
            bench.policy.digest,
        )

    # When the worker was asked, the decision that lets it be asked was signed and on disk.
    assert [(op, seen.actions[-1], seen.entries[-1]["round"]) for op, seen in bench.seen_by_worker] == [
        ("prepare", "run.admit", None),
        ("initial", "view.build", None),
        ("train", "round.ingress", 1),
        ("train", "round.ingress", 2),
        ("evaluate", "round.ingress", 3),
    ]
    assert [entry["detail"]["model"] for entry in last_before(bench, "train")] == [
        weights_digest(INITIAL),
        weights_digest(INITIAL + 1),
    ]


def test_what_an_admission_binds_is_in_its_entry(bench: GateBench, consortium: Consortium) -> None:
    signed = consortium.sign()
    bench.work()
    bench.admit(signed)
    admit, view = bench.state().entries
    assert admit["detail"] == {
        "run_digest": signed.digest,
        "not_after": signed.submission.not_after.isoformat(),
        "app": app_digest(APP),
        "purpose": "HMB",
        "dataset": "heart",
        "operator": "spiffe://heart.example/operator/operator",
        "manifest": consortium.manifest.document.digest,
        "parties": "coordinator:DE,operator:DE,hospital-b:FR,hospital-a:DE",
        "location": "policy.yaml:1:1",
    }
    assert view["detail"] == {
        "dataset": "heart",
        "columns": "age,sex,sick",
        "rows": 200,
        "dropped_rows": 3,
        "withheld_rows": 0,
        "constraint": Constraint(("age", "sex", "sick")).digest,
        "view": "sha256:" + "a" * 64,
        "sockets": "not told",
        "location": "policy.yaml:1:1",
    }


def test_what_leaves_is_in_its_entry_and_the_metrics_beside_it(bench: GateBench) -> None:
    worker = bench.work(train=lambda _: trained(INITIAL + np.array([3, 4, 0, 0], dtype=np.float32)))
    bench.admit()
    answer = bench.round(1)
    entry = bench.last
    assert answer.weights is not None
    assert entry["detail"] == {
        "update": weights_digest(answer.weights),
        "norm_micro": 5_000_000,
        "bytes": 16,
        "examples": 140,
        "steps": 5,
        "steps_planned": 5,
        "location": "policy.yaml:1:1",
    }
    assert bench.payload(entry) == {"metrics": METRICS}
    np.testing.assert_array_equal(worker.frames[-1].weights(), INITIAL)
    assert worker.frames[-1].fields == {"round": 1}


def test_the_worker_gets_the_signed_run_and_the_approved_app(bench: GateBench) -> None:
    worker = bench.work()
    bench.admit()
    assert worker.frames[0].fields == {"run": RUN, "view": Constraint(("age", "sex", "sick")).fields()}
    assert bytes(worker.frames[0].payload) == APP


# -- admission refused


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("purpose: HMB", "purpose: POA", "purposes.allow"),
        ("dataset: heart", "dataset: lung", "datasets.known"),
        ("[age, sex]", "[age, address]", "datasets.columns"),
        ("rounds: 3", "rounds: 11", "runs.max_rounds"),
        ("metrics: [loss", "metrics: [accuracy, loss", "egress.metrics.allow"),
    ],
)
def test_a_run_that_the_policy_does_not_allow_is_refused(bench: GateBench, old: str, new: str, rule: str) -> None:
    worker = bench.work()
    answer = bench.admit(bench.consortium.sign(RUN.replace(old, new)))
    assert refused(answer) == rule
    assert str(answer.config["location"]).startswith("policy.yaml:")
    assert answer.config["reason"]
    assert answer.config["remedy"]
    assert (worker.asked, bench.node.fetched_apps) == ([], [])
    (entry,) = bench.state().entries
    assert (entry["action"], entry["decision"], entry["rule"], entry["run"]) == ("run.admit", "deny", rule, "run-1")
    assert entry["reason"] == answer.config["reason"]


def test_an_app_that_was_not_approved_is_not_even_fetched(bench: GateBench) -> None:
    worker = bench.work()
    assert refused(bench.admit(bench.consortium.sign(app=b"another app"))) == "apps.allow"
    assert (worker.asked, bench.node.fetched_apps) == ([], [])


def _tampered(bench: GateBench, foreign: Consortium) -> dict[str, dict[str, Any]]:
    """Questions that differ from a good one in what a signature protects, by name."""
    good, consortium = bench.consortium.sign(), bench.consortium
    other, older = foreign.sign(), consortium.editions[-2]
    return {
        "an operator of another federation": other.fields(),
        "a foreign signature under the operator's certificate": {"signature": other.fields()["signature"]},
        "a silo that signs as if it were an operator": consortium.sign(member="hospital-b").fields(),
        "a run changed after signing": {"run": RUN.replace("rounds: 3", "rounds: 4")},
        "an approved app under another's signature": {
            **consortium.sign(app=b"another").fields(),
            "submission": good.submission.dump(),
        },
        "an older manifest": {"manifest": older.document.text, "manifest_signature": older.signature},
        "a foreign manifest": {
            "manifest": foreign.manifest.document.text,
            "manifest_signature": foreign.manifest.signature,
        },
        "a changed manifest": {
            "manifest": consortium.manifest.document.text.replace("country: FR", "country: DE", 1),
        },
        "no certificate": {"operator": "-----BEGIN NOTHING-----"},
    }


@pytest.mark.parametrize(
    "name",
    [
        "an operator of another federation",
        "a foreign signature under the operator's certificate",
        "a silo that signs as if it were an operator",
        "a run changed after signing",
        "an approved app under another's signature",
        "an older manifest",
        "a foreign manifest",
        "a changed manifest",
        "no certificate",
    ],
)
def test_what_is_not_signed_as_it_must_be_is_refused(bench: GateBench, foreign: Consortium, name: str) -> None:
    changes = _tampered(bench, foreign)[name]
    worker = bench.work()
    assert refused(bench.admit(**changes)) == "run.signature"
    assert (worker.asked, bench.node.fetched_apps) == ([], [])
    (entry,) = bench.state().entries
    assert (entry["action"], entry["decision"], entry["rule"]) == ("message.refused", "deny", "run.signature")


def test_a_signed_run_with_an_unknown_field_is_refused(bench: GateBench) -> None:
    worker = bench.work()
    answer = bench.admit(bench.consortium.sign(RUN + "priority: high\n"))
    assert refused(answer) == "run.document"
    assert "run.yaml:11:1" in str(answer.config["reason"])
    assert worker.asked == []


@pytest.mark.parametrize("missing", ["run_id", "run", "signature", "submission", "operator", "manifest"])
def test_a_question_without_one_of_its_fields_fails(bench: GateBench, missing: str) -> None:
    worker = bench.work()
    question = bench.question()
    envelope = Envelope({name: value for name, value in question.config.items() if name != missing})
    assert missing in failed(bench.ask(Kind.ADMIT, envelope))
    assert worker.asked == []
    assert bench.last["action"] == "message.failed"


# -- the view


def test_too_few_rows_are_refused_and_the_worker_let_go(bench: GateBench) -> None:
    worker = bench.work(prepare=lambda _: prepared(rows=49))
    assert refused(bench.admit()) == "datasets.rows.minimum"
    assert worker.ended.wait(SECONDS), "a worker that holds a refused view is let go"
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["detail"]["rows"]) == ("view.build", "deny", 49)
    assert refused(bench.round(1)) == "run.unknown"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Frame("error", {"message": "the app's model builder raised KeyError"}), id="says so"),
        pytest.param(prepared(rows=None), id="says no rows"),
        pytest.param(prepared(rows="many"), id="says rows in words"),
        pytest.param(prepared(rows=math.inf), id="says infinite rows"),
        pytest.param(prepared(examples=math.nan), id="says NaN examples"),
        pytest.param(prepared(dropped=[]), id="says a list of dropped rows"),
        pytest.param(prepared(rows=2**60), id="says rows that no entry holds"),
        pytest.param(prepared(view_digest="x" * 70_000), id="says a digest that no entry holds"),
    ],
)
def test_a_worker_that_cannot_prepare_fails_the_run_and_a_fresh_one_serves_the_next(
    bench: GateBench, answer: Frame
) -> None:
    worker = bench.work(prepare=lambda _: answer)
    assert failed(bench.admit())
    assert worker.ended.wait(SECONDS), "a worker serves one run: a failed one is of no more use"
    assert bench.last["action"] == "message.failed"
    assert refused(bench.round(1)) == "run.unknown"
    fresh = bench.work()
    assert bench.admit().config["status"] == "admitted"
    assert fresh.asked == ["prepare"]


# -- runs that were not admitted


@pytest.mark.parametrize("kind", [Kind.INITIAL, Kind.TRAIN, Kind.EVALUATE])
def test_a_run_that_was_not_admitted_is_refused(bench: GateBench, kind: str) -> None:
    worker = bench.work()
    assert refused(bench.round(1, kind=kind)) == "run.unknown"
    bench.admit()
    answer = bench.ask(kind, Envelope({"round": 1, "digest": weights_digest(INITIAL)}, weights=INITIAL), flower_run=8)
    assert refused(answer) == "run.unknown"
    assert worker.asked == ["prepare"]
    assert [e["action"] for e in bench.state().entries if e["decision"] == "deny"] == ["message.refused"] * 2


@pytest.mark.parametrize("kind", ["query.delete", "query", "TRAIN", "", "x" * 5000])
def test_a_message_of_unknown_kind_is_refused(bench: GateBench, kind: str) -> None:
    worker = bench.work()
    bench.admit()
    assert refused(bench.ask(kind, Envelope())) == "default-deny"
    assert worker.asked == ["prepare"]
    entry = bench.last
    assert (entry["action"], entry["decision"]) == ("message.refused", "deny")
    assert len(entry["reason"]) < 200
    assert bench.round(1).config["status"] == "ok", "the run goes on"


def test_a_refused_run_does_not_end_the_one_that_runs(bench: GateBench) -> None:
    worker = bench.work()
    bench.admit()
    other = bench.consortium.sign(RUN.replace("purpose: HMB", "purpose: POA"))
    assert refused(bench.admit(other, flower_run=8, run_id="run-2")) == "purposes.allow"
    assert bench.round(1).config["status"] == "ok"
    assert worker.asked == ["prepare", "train"]


def test_an_admitted_run_takes_the_place_of_the_one_before(bench: GateBench) -> None:
    first = bench.work()
    bench.admit()
    successor: list[PlayedWorker] = []

    def come_back(frame: Frame) -> Frame:
        return prepared()

    # The fresh worker connects once the first is let go, as its supervisor would have it.
    def supervise() -> None:
        first.ended.wait(SECONDS)
        successor.append(PlayedWorker(bench.socket, bench._look, prepare=come_back))

    thread = threading.Thread(target=supervise)
    thread.start()
    assert bench.admit(flower_run=8, run_id="run-2").config["status"] == "admitted"
    thread.join(SECONDS)
    bench.workers += successor
    assert (first.asked, successor[0].asked) == (["prepare"], ["prepare"])
    assert [(e["action"], e["run"]) for e in bench.state().entries] == [
        ("run.admit", "run-1"),
        ("view.build", "run-1"),
        ("run.admit", "run-2"),
        ("run.leave", "run-1"),
        ("view.build", "run-2"),
    ]
    assert refused(bench.round(1)) == "run.unknown"


# -- the initial model


def test_an_initial_model_other_than_the_admitted_one_stays(bench: GateBench) -> None:
    bench.work(initial=lambda _: Frame("initial", {}, payload_of(INITIAL + 1)))
    bench.admit()
    assert refused(bench.ask(Kind.INITIAL, Envelope())) == "initial.seeded"
    assert bench.last["action"] == "message.refused"


def test_a_wild_initial_model_stays(bench: GateBench) -> None:
    wild = np.array([1, math.nan, 1, 1], dtype=np.float32)
    bench.work(
        prepare=lambda _: prepared(initial_digest=weights_digest(wild)),
        initial=lambda _: Frame("initial", {}, payload_of(wild)),
    )
    bench.admit()
    assert refused(bench.ask(Kind.INITIAL, Envelope())) == "ingress.finite"
    assert (bench.last["action"], bench.last["decision"]) == ("initial.release", "deny")


# -- no record, no action


def _disturb(bench: GateBench) -> None:
    """Put another file in the place of the log's newest segment, as someone who hides something would."""
    (segment,) = bench.audit.glob("segments/*.jsonl")
    copy = segment.with_name("copy")
    shutil.copy(segment, copy)
    copy.replace(segment)


def test_without_a_log_no_run_is_admitted(bench: GateBench) -> None:
    worker = bench.work()
    _disturb(bench)
    with pytest.raises(AuditTampered, match="was replaced"):
        bench.admit()
    assert (worker.asked, bench.node.fetched_apps) == ([], [])
    with pytest.raises(AuditWriteError, match="refuses to append"):
        bench.admit()
    assert worker.asked == []


@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_without_a_log_no_model_reaches_the_worker(bench: GateBench, kind: str) -> None:
    worker = bench.work()
    bench.admit()
    _disturb(bench)
    with pytest.raises(AuditTampered):
        bench.round(1, kind=kind)
    assert worker.asked == ["prepare"]


@pytest.mark.parametrize(
    ("kind", "op"), [(Kind.INITIAL, "initial"), (Kind.TRAIN, "train"), (Kind.EVALUATE, "evaluate")]
)
def test_without_a_log_nothing_of_the_worker_leaves(bench: GateBench, kind: str, op: str) -> None:
    """The log is disturbed while the worker works: what it did has no record, so no reply is returned."""

    def disturbing(frame: Frame) -> Frame:
        _disturb(bench)
        return trained(INITIAL)

    worker = bench.work(**{op: disturbing})
    bench.admit()
    with pytest.raises(AuditTampered):
        bench.round(3, kind=kind)
    assert worker.asked == ["prepare", op]


def test_a_refusal_that_cannot_be_recorded_reaches_the_caller(bench: GateBench) -> None:
    _disturb(bench)
    with pytest.raises(AuditTampered):
        bench.round(1)


def test_the_coordinator_being_away_is_not_answered(bench: GateBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> Envelope:
        raise UnreachableError("the coordinator does not answer")

    monkeypatch.setattr(bench.node, "fetch", away)
    with pytest.raises(UnreachableError):
        bench.admit()
    assert bench.state() == LogState([])
