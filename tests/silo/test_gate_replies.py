"""A silo releases one reply for a round: sent again for the same question, never another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.wire import Envelope, Kind, Weights
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import Ledger, read_ledger
from silo.gate.replies import KEPT, Question, Replies, RepliesError

from .simulator import INITIAL, RUN, GateBench, PlayedWorker, trained

PRIVATE = RUN + "privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.2}\n"
OTHER = INITIAL + np.float32(0.25)


@pytest.fixture
def kept(bench: GateBench) -> GateBench:
    """A bench whose gate keeps its replies and its ledger."""
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    restart(bench)
    return bench


def restart(bench: GateBench) -> None:
    """Start the gate anew: what it knows is what lies on disk."""
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))


class FullDisk(Replies):
    """Keeps nothing."""

    def keep(self, question: Question, reply: Envelope, residual: Weights | None = None) -> None:
        raise RepliesError("no space left on the device")


def noisy(bench: GateBench) -> PlayedWorker:
    """A worker that gives another update each time, as private training does."""
    draw = np.random.default_rng(len(bench.workers))
    return bench.work(train=lambda frame: trained(frame.weights() + draw.normal(size=4).astype(np.float32)))


@pytest.mark.parametrize("restarted", [False, True])
def test_the_same_question_is_answered_with_the_same_bytes_and_without_training(
    kept: GateBench, *, restarted: bool
) -> None:
    noisy(kept)
    kept.admit()
    first = kept.round(1)
    if restarted:
        restart(kept)
        noisy(kept)
    assert kept.admit(flower_run=8).config["status"] == "admitted"
    worker = kept.workers[-1]
    asked = worker.asked.count("train")
    question = Envelope({"round": 1, "digest": kept.state().entries[2]["detail"]["model"]}, weights=INITIAL)
    second = kept.ask(Kind.TRAIN, question, 8)
    assert (second.config, second.metrics) == (first.config, first.metrics)
    assert second.weights is not None
    assert first.weights is not None
    assert second.weights.tobytes() == first.weights.tobytes()
    assert worker.asked.count("train") == asked
    assert kept.last["action"] == "reply.again"
    assert kept.history.uses.total() == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_second_model_for_a_round_is_refused(kept: GateBench, *, restarted: bool) -> None:
    noisy(kept)
    kept.admit()
    kept.round(1)
    if restarted:
        restart(kept)
        noisy(kept)
        kept.admit()
    answer = kept.round(1, OTHER)
    assert (answer.config["status"], answer.config["rule"], answer.weights) == ("refused", "ingress.receipts", None)
    assert kept.round(2, OTHER).config["status"] == "ok"


def test_a_run_of_another_text_is_a_new_one_and_needs_an_id_of_its_own(kept: GateBench) -> None:
    noisy(kept)
    kept.admit()
    kept.round(1)
    restart(kept)
    noisy(kept)
    other = kept.consortium.sign(RUN.replace("mu: 0.1", "mu: 0.2"))
    assert kept.admit(other).config["rule"] == "run.label"
    assert kept.admit(other, run_id="run-2").config["status"] == "admitted"
    assert kept.history.uses.total() == 2
    assert not list((kept.directory / "replies").iterdir())


def test_a_policy_that_came_later_is_asked_before_a_reply_goes_again(kept: GateBench) -> None:
    noisy(kept)
    kept.admit()
    kept.round(1)
    kept.policy_path.write_text(kept.policy_path.read_text().replace("version: 1", "version: 2").replace("HMB", "POA"))
    assert kept.round(1).config["status"] == "refused"


def test_a_private_round_that_is_asked_for_again_is_debited_once(kept: GateBench) -> None:
    signed = kept.consortium.sign(PRIVATE)
    noisy(kept)
    assert kept.admit(signed).config["status"] == "admitted"
    kept.round(1)
    restart(kept)
    noisy(kept)
    kept.admit(signed)
    assert kept.round(1).config["status"] == "ok"
    assert [entry.debit.round for entry in read_ledger(kept.directory / "ledger.jsonl")] == [1]


def test_a_debit_pays_for_a_round_that_was_not_released_but_for_none_of_another_admission(kept: GateBench) -> None:
    """The gate ends between debit and release; the entry of the release is what says that something left."""
    signed = kept.consortium.sign(PRIVATE)
    noisy(kept)
    assert kept.ledger is not None
    kept.handler = kept.make_handler(replies=FullDisk(kept.directory / "replies"))
    kept.admit(signed)
    assert kept.round(1).config["status"] == "failed"
    assert [entry.debit.round for entry in kept.ledger.entries] == [1]
    restart(kept)
    noisy(kept)
    kept.admit(signed)
    assert kept.round(1).config["status"] == "ok"
    assert [entry.debit.round for entry in kept.ledger.entries] == [1]
    restart(kept)
    noisy(kept)
    kept.admit(kept.consortium.sign(PRIVATE.replace("mu: 0.1", "mu: 0.2")), run_id="run-2")
    assert kept.round(1).config["status"] == "ok"
    assert [entry.debit.round for entry in kept.ledger.entries] == [1, 1]


def test_an_evaluation_is_answered_again_after_the_run_was_left(kept: GateBench) -> None:
    noisy(kept)
    kept.admit()
    first = kept.round(3, kind=Kind.EVALUATE)
    noisy(kept)
    assert kept.admit().config["status"] == "admitted"
    assert kept.round(3, kind=Kind.EVALUATE).metrics == first.metrics
    assert "evaluate" not in kept.workers[-1].asked
    noisy(kept)
    assert kept.round(3, OTHER, Kind.EVALUATE).config["rule"] in {"ingress.receipts", "run.unknown"}


def question(number: int) -> Question:
    return Question("sha256:1", "train", number, "sha256:2")


def test_kept_replies_are_private_few_and_whole(tmp_path: Path) -> None:
    replies = Replies(tmp_path / "replies")
    for number in range(1, 9):
        replies.keep(question(number), Envelope({"status": "ok"}, {"loss": 0.5}, INITIAL))
    files = sorted((tmp_path / "replies").iterdir())
    assert len(files) == KEPT
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "replies").stat().st_mode & 0o777 == 0o700
    assert replies.find(question(8)) is not None
    assert replies.find(Question("sha256:1", "train", 8, "sha256:3")) is None
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    assert replies.find(question(8)) is None
