"""A private run at the gate: planned, debited before it is released, stopped when its plan is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.wire import Envelope
from silo.channel import Frame
from silo.gate.accounting import Mechanism
from silo.gate.ledger import Ledger, LedgerError, read_ledger

from .simulator import INITIAL, RUN, GateBench, PlayedWorker, trained

PRIVATE = RUN + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
ROUND = {"sampling_rate": 32 / 140, "noise_multiplier": 1.2, "steps": 5, "clip_norm": 1.5}


@pytest.fixture
def ledger(bench: GateBench) -> Path:
    """Give the bench's handler a ledger."""
    path = bench.directory / "ledger.jsonl"
    bench.ledger = Ledger(path)
    bench.handler = bench.make_handler()
    return path


def admit(bench: GateBench, run: str = PRIVATE, **changes: str) -> Envelope:
    return bench.admit(bench.consortium.sign(run), **changes)


def restarted(bench: GateBench) -> PlayedWorker:
    """A gate that was started anew, and a fresh worker."""
    bench.handler = bench.make_handler()
    return bench.work()


def test_without_a_ledger_no_private_run_is_admitted(bench: GateBench):
    bench.work()
    answer = admit(bench)
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "privacy.ledger")


def test_the_plan_is_in_the_log_before_any_training(bench: GateBench, ledger: Path):
    bench.work()
    assert admit(bench).config["status"] == "admitted"
    entry = bench.last
    assert entry["action"] == "privacy.plan"
    assert entry["detail"]["steps"] == 15
    assert entry["detail"]["sampling_rate"] == "0.228571"
    assert 4 < float(entry["detail"]["epsilon"]) < 15


def test_the_worker_is_told_what_will_be_debited(bench: GateBench, ledger: Path):
    worker = bench.work()
    admit(bench)
    assert bench.round(1).config["status"] == "ok"
    assert worker.frames[-1].fields == {"round": 1, "privacy": ROUND}


def test_a_round_is_debited_on_disk_before_it_is_decided_on(bench: GateBench, ledger: Path):
    seen = []

    def train(_: Frame) -> Frame:
        seen.append(len(read_ledger(ledger)))
        return trained(INITIAL, steps=2)

    bench.work(train=train)
    admit(bench)
    bench.round(1)
    bench.round(2)
    assert seen == [0, 1]
    entries = read_ledger(ledger)
    assert [(entry.debit.round, entry.debit.run, entry.debit.dataset) for entry in entries] == [
        (1, "run-1", "heart"),
        (2, "run-1", "heart"),
    ]
    assert entries[0].debit.mechanism == Mechanism(32 / 140, 1.2, 5), "the plan's, whatever the worker says it did"
    actions = [(entry["action"], entry["detail"].get("digest")) for entry in bench.state().entries[-4:]]
    assert actions == [
        ("round.egress", None),
        ("round.ingress", None),
        ("privacy.debit", entries[1].digest),
        ("round.egress", None),
    ]


def test_a_reply_that_egress_refuses_is_debited_all_the_same(bench: GateBench, ledger: Path):
    bench.work(train=lambda _: trained(INITIAL * float("nan")))
    admit(bench)
    assert bench.round(1).config["status"] == "refused"
    assert len(read_ledger(ledger)) == 1


def test_work_that_fails_releases_nothing_and_is_not_debited(bench: GateBench, ledger: Path):
    bench.work(train=lambda _: Frame("error", {"message": "no"}))
    admit(bench)
    assert bench.round(1).config["status"] == "failed"
    assert read_ledger(ledger) == ()


def test_what_cannot_be_debited_does_not_leave(bench: GateBench, ledger: Path, monkeypatch: pytest.MonkeyPatch):
    bench.work()
    admit(bench)
    bench.ledger.close()
    bench.ledger = Ledger(ledger)
    bench.ledger._broken = "the disk is full"
    bench.handler._parts.ledger = bench.ledger
    answer = bench.round(1)
    assert (answer.config["rule"], answer.weights) == ("privacy.ledger", None)
    with pytest.raises(LedgerError):
        bench.ledger.debit(None)  # type: ignore[arg-type]


def test_a_run_that_has_spent_its_plan_stops_even_when_it_is_admitted_anew(bench: GateBench, ledger: Path):
    bench.work()
    admit(bench)
    for number in (1, 2, 3):
        assert bench.round(number).config["status"] == "ok"
    worker = restarted(bench)
    assert admit(bench).config["status"] == "admitted"
    asked = len(worker.frames)
    answer = bench.round(1)
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "round.repeated")
    assert len(worker.frames) == asked
    assert len(read_ledger(ledger)) == 3


def test_another_run_of_the_same_data_goes_on_in_the_same_ledger(bench: GateBench, ledger: Path):
    bench.work()
    admit(bench)
    bench.round(1)
    restarted(bench)
    assert admit(bench, run_id="run-2").config["status"] == "admitted"
    bench.round(1)
    assert [(entry.number, entry.debit.run) for entry in read_ledger(ledger)] == [(1, "run-1"), (2, "run-2")]


def test_a_privacy_that_cannot_be_had_is_refused(bench: GateBench, ledger: Path):
    bench.work()
    run = RUN.replace("rounds: 3", "rounds: 3, local: {steps: 1000000}") + (
        "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, epsilon: 1}\n"
    )
    answer = admit(bench, run)
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "privacy.plan")
    assert "3000000 private steps" in str(answer.config["reason"])


@pytest.mark.parametrize(
    ("steps", "planned"), [(0, 5), (6, 5), (True, 5), (2.0, 5), (None, 5), (1, None), (1, 2**40), ("1", 5)]
)
def test_a_worker_that_miscounts_its_steps_has_failed(bench: GateBench, steps: object, planned: object):
    bench.work(train=lambda _: trained(INITIAL, steps=steps, planned=planned))
    bench.admit()
    answer = bench.round(1)
    assert answer.config["status"] == "failed"
    assert "steps, expected at least one" in str(answer.config["reason"])


@pytest.mark.parametrize("mu", [None, -0.1, 1001.0, float("nan"), "1", 1])
def test_a_mu_that_is_none_does_not_reach_the_worker(bench: GateBench, mu: object):
    worker = bench.work()
    bench.admit(bench.consortium.sign(RUN.replace("mu: 0.1", "mu: 0.1, adaptive: {}")))
    asked = len(worker.frames)
    answer = bench.round(1, **({} if mu is None else {"mu": mu}))
    assert answer.config["status"] == "failed"
    assert len(worker.frames) == asked
    assert bench.round(2, mu=0.75).config["status"] == "ok"
    assert worker.frames[-1].fields == {"round": 2, "mu": 0.75}
