"""A worker whose app lies about everything that it tells its gate: the gate answers, lives, and admits the next run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from federation.limits import LIMITS
from federation.run import load_run
from federation.wire import Envelope, Kind
from silo.channel import Frame, payload_of
from silo.gate.answers import metrics_of, prepared_of, steps_of
from silo.gate.ledger import Ledger
from silo.gate.normalization import moments_in
from silo.gate.worker_link import WorkerError

from .simulator import INITIAL, METRICS, RUN, SECONDS, GateBench, failed, prepared, refused, trained
from .test_gate_normalization import MOMENTS, NORMALISED
from .test_gate_statistics import ALLOWED, ask, summarised

PRIVATE = RUN + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
SILO_PRIVATE = RUN + "privacy: {mode: silo_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
HUGE, DEEP = 10**400, json.loads("[" * 400 + "]" * 400)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**53, 2**63, HUGE, -HUGE, 5e-324, 1e308, math.nan, math.inf, "", "0", "1e400"])
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\0\x1b", max_size=3), inner, max_size=3),
    max_leaves=5,
)
ON_ONE_BENCH = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
FIELDS = [*prepared().fields, "withheld", "sockets", "consent", "opt_out", "pseudonymized", "contract", "learning_rate"]


def told_wrong(read: Callable[[], object]) -> str:
    """What a reader says of an account that it does not take; empty for one that it takes."""
    try:
        read()
    except WorkerError as error:
        return str(error)
    return ""


def serves_the_next_run(bench: GateBench, text: str = RUN) -> None:
    bench.link.drop()
    bench.work()
    assert bench.admit(bench.consortium.sign(text), run_id="run-next").config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"


@pytest.mark.parametrize("run", [RUN, PRIVATE, SILO_PRIVATE])
@pytest.mark.parametrize(
    "lies",
    [
        {"examples": 0},
        {"examples": HUGE},
        {"examples": -140},
        {"examples": True},
        {"examples": 140.0},
        {"examples": LIMITS.examples + 1, "rows": LIMITS.examples + 2},
        {"rows": HUGE},
        {"examples": 190},
        {"validation": 61},
        {"values": 0},
        {"values": HUGE},
        {"view_digest": "sha256:" + "A" * 64},
        {"initial_digest": "sha256:"},
        {"shapes": ["dense"]},
        {"dropped": -1},
        {"withheld": 1.5},
        {"pseudonymized": "age"},
        {"learning_rate": math.nan},
        {"learning_rate": 0.0},
        {"contract": 7},
    ],
)
def test_an_account_that_cannot_be_fails_the_admission_and_not_the_gate(
    bench: GateBench, run: str, lies: dict[str, Any]
) -> None:
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    bench.handler = bench.make_handler()
    worker = bench.work(prepare=lambda _: prepared(**lies))
    reason = failed(bench.admit(bench.consortium.sign(run)))
    assert "the worker's account of the view cannot be" in reason
    assert len(reason) < 300
    assert reason.isprintable()
    assert worker.ended.wait(SECONDS), "a worker that tells such things is let go"
    assert "privacy.plan" not in bench.state().actions
    serves_the_next_run(bench)


@given(st.sampled_from(FIELDS), WILD)
@example("examples", 0)
@example("shapes", "\ud83d\ude00" * 10)
@ON_ONE_BENCH
def test_whatever_a_worker_tells_of_its_view_the_gate_answers(bench: GateBench, name: str, value: Any) -> None:
    bench.work(prepare=lambda _: prepared(**{name: value}))
    bench.run = f"run-{len(bench.workers)}"
    answer = bench.admit(run_id=bench.run)
    assert answer.config["status"] in {"admitted", "refused", "failed"}
    assert refused(bench.ask("unknown", Envelope())) == "default-deny", "the gate lives on"
    bench.link.drop()


@given(st.dictionaries(st.sampled_from(["metrics", "steps", "planned", "examples", "extra"]), WILD, min_size=1))
@example({"metrics": {"loss": HUGE}})
@example({"metrics": {"x" * 300: 1.0}})
@example({"steps": 6})
@ON_ONE_BENCH
def test_whatever_a_worker_tells_of_a_round_the_gate_answers(bench: GateBench, lies: dict[str, Any]) -> None:
    bench.work(
        train=lambda _: trained(INITIAL, **lies),
        evaluate=lambda _: Frame("evaluated", {"metrics": METRICS, **lies}),
    )
    bench.run = f"run-{len(bench.workers)}"
    bench.admit(run_id=bench.run)
    answer = bench.round(1)
    assert answer.config["status"] in {"ok", "refused", "failed"}
    if answer.config["status"] == "ok":
        assert answer.metrics.keys() <= METRICS.keys()
        assert all(math.isfinite(number) for number in answer.metrics.values())
        assert 1 <= answer.number("steps") <= answer.number("planned") <= LIMITS.steps
    assert bench.round(3, kind=Kind.EVALUATE).config["status"] in {"ok", "refused", "failed"}
    bench.link.drop()


@given(st.sampled_from(["summary", "tables", "dropped", "withheld", "view_digest", "consent", "contract"]), WILD)
@example("tables", [[HUGE, 0], [2, HUGE]])
@example("tables", [[True, 0], [2, 12]])
@ON_ONE_BENCH
def test_whatever_a_worker_tells_of_its_statistics_the_gate_answers(bench: GateBench, name: str, value: Any) -> None:
    if not bench.workers:
        bench.serve_policy(ALLOWED)
    bench.work(summarise=lambda _: summarised(**{name: value}))
    assert ask(bench).config["status"] in {"ok", "refused", "failed"}
    bench.link.drop()


@given(st.dictionaries(st.sampled_from([*FIELDS, "moments", "tables", "metrics", "steps", "planned"]), WILD))
def test_the_readers_raise_the_workers_error_and_no_other(lies: dict[str, Any]) -> None:
    fields = {**prepared(**MOMENTS).fields, "metrics": METRICS, "steps": 5, "planned": 5, **lies}
    run = load_run(NORMALISED).model
    for read in (
        lambda: prepared_of(fields).require_whole(),
        lambda: metrics_of(Frame("trained", fields)),
        lambda: steps_of(Frame("trained", fields)),
        lambda: moments_in(fields, run, 140),
    ):
        said = told_wrong(read)
        assert said.isprintable()
        assert len(said) < 1000


@pytest.mark.parametrize(
    "moments", [{"rows": 10**9}, {"rows": 139}, {"mean": [1e300, 0.1]}, {"square": [-1.0, 0.0]}, DEEP, None]
)
def test_moments_of_other_rows_than_it_trains_on_are_not_taken(bench: GateBench, moments: Any) -> None:
    """One silo that claims many rows would have all others scale by its means alone."""
    told = {**MOMENTS["moments"], **moments} if isinstance(moments, dict) else moments
    bench.serve_policy(ALLOWED)
    bench.work(prepare=lambda _: prepared(**{**MOMENTS, "moments": told}))
    assert failed(bench.admit(bench.consortium.sign(NORMALISED))).startswith("the worker's statistics")


def test_a_fault_of_the_gate_itself_ends_the_run_and_not_the_gate(bench: GateBench) -> None:
    bench.work()
    bench.admit()
    honest = bench.node.fetch

    def faulty(task: Any) -> Envelope:
        raise ZeroDivisionError(f"what {task.kind} said")

    bench.node.fetch = faulty  # type: ignore[method-assign]
    answer = bench.round(1)
    assert refused(answer) == "evaluation-error"
    assert "ZeroDivisionError" in str(answer.config["reason"])
    assert "what train said" not in str(answer.config)
    bench.node.fetch = honest  # type: ignore[method-assign]
    assert (bench.state().actions[-2], bench.last["rule"]) == ("run.leave", "evaluation-error")
    assert refused(bench.round(1)) == "run.unknown"
    serves_the_next_run(bench)


def test_the_initial_model_of_a_worker_is_as_large_as_it_announced(bench: GateBench) -> None:
    bench.work(initial=lambda _: Frame("initial", {}, bytes(4 * INITIAL.size + LIMITS.reply_overhead + 4)))
    bench.admit()
    assert "got a frame with payload" in failed(bench.ask(Kind.INITIAL, Envelope()))
    bench.link.drop()
    bench.work(initial=lambda _: Frame("initial", {}, payload_of(INITIAL)))
    bench.admit(run_id="run-2")
    assert bench.ask(Kind.INITIAL, Envelope()).config["status"] == "ok"
