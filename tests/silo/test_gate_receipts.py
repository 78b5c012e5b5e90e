"""One model for all silos: a gate whose coordinator shows it what the others signed, or does not, or lies about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from audit import keys as log_keys
from audit.note import parse_vkey
from federation.receipts import RECEIPTS, Shown, beginning, element, extended, sign_receipt, verify_receipt
from federation.wire import Envelope, Kind, weights_digest
from silo.gate.history import history_of, read_entries

from .simulator import INITIAL, RUN, SILO, GateBench, refused, trained

OTHER = np.array([1, 2, 3, 4], dtype=np.float32)
PEER = "hospital-b"
SECOND = "sha256:" + "2" * 64
FIRST = element("round.begin", 1, weights_digest(INITIAL), {})


@pytest.fixture
def taking_part(bench: GateBench) -> GateBench:
    """A gate that took the model of round 1 with the others."""
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"
    return bench


def signed_by(bench: GateBench, name: str, step: int, links: tuple[str, ...]) -> str:
    """The receipt of a member who took a run's models."""
    history = beginning(bench.run, bench.signed.digest)
    for link in links:
        history = extended(history, link)
    return sign_receipt(log_keys.load_key(bench.consortium.homes[name].log_key), step, history)


def lie(bench: GateBench, shown: Shown, number: int = 2, kind: str = Kind.TRAIN) -> Envelope:
    """Ask with the entry that fits what is shown in the coordinator's log."""
    honest, bench.shown = bench.shown, lambda _: shown  # type: ignore[method-assign, misc, assignment]
    try:
        return bench.round(number, OTHER, kind)
    finally:
        bench.shown = honest  # type: ignore[method-assign]


def stayed_away(bench: GateBench, answer: Envelope, reason: str) -> None:
    """The model was refused and recorded, the worker did not get it, and an honest round goes on."""
    assert refused(answer) == "ingress.receipts"
    assert reason in str(answer.config["reason"])
    entry = bench.last
    assert (entry["action"], entry["decision"], entry["rule"]) == ("message.refused", "deny", "ingress.receipts")
    assert bench.workers[0].asked == ["prepare", "train"]
    assert bench.round(2, OTHER).config["status"] == "ok"


def test_each_reply_carries_a_receipt_for_what_is_in_the_log(taking_part: GateBench) -> None:
    bench, key = taking_part, parse_vkey(taking_part.log.vkey)
    history = extended(beginning("run-1", bench.signed.digest), FIRST)
    verify_receipt(key, 1, history, bench.receipt)
    first, ingress = bench.receipt, bench.state().entries
    taken = [entry["detail"] for entry in ingress if entry["action"] == "round.ingress"]
    assert [(detail["step"], detail["history"]) for detail in taken] == [(1, history)]
    bench.round(2, OTHER)
    assert bench.round(3, kind=Kind.EVALUATE).config["status"] == "ok"
    history = extended(history, element("round.begin", 2, weights_digest(OTHER), {}))
    history = extended(history, bench.shown(4).links[2])
    verify_receipt(
        key, 4, extended(history, element("evaluation.begin", 3, weights_digest(INITIAL), {})), bench.receipt
    )
    assert bench.receipt != first
    assert all(RECEIPTS not in entry["detail"] for entry in bench.state().entries)


def test_a_split_is_refused_with_the_next_model(taking_part: GateBench) -> None:
    """The others took another model in round 1: their receipts are true, and for another history."""
    other = element("round.begin", 1, weights_digest(OTHER), {})
    start = beginning("run-1", taking_part.signed.digest)
    shown = Shown(0, start, (other,), {PEER: signed_by(taking_part, PEER, 1, (other,))})
    stayed_away(taking_part, lie(taking_part, shown), "took another model in step 1")


def test_receipts_for_another_model_than_the_history_that_is_shown_are_refused(taking_part: GateBench) -> None:
    other = element("round.begin", 1, weights_digest(OTHER), {})
    shown = replace(taking_part.shown(2), receipts={PEER: signed_by(taking_part, PEER, 1, (other,))})
    stayed_away(taking_part, lie(taking_part, shown), "hospital-b did not sign")


def forged(bench: GateBench) -> Mapping[str, str]:
    return {PEER: bench.receipt}


def absent(_: GateBench) -> Mapping[str, str]:
    return {}


def own_alone(bench: GateBench) -> Mapping[str, str]:
    return {SILO: bench.receipt}


def strangers(bench: GateBench) -> Mapping[str, str]:
    return {**bench.shown(2).receipts, "coordinator": signed_by(bench, "coordinator", 1, (FIRST,))}


@pytest.mark.parametrize(
    ("receipts", "reason"),
    [(forged, "did not sign"), (absent, "1 silos signed"), (own_alone, "1 silos signed"), (strangers, "'coordinator'")],
)
def test_silence_and_forgery_are_refused(
    taking_part: GateBench, receipts: Callable[[GateBench], Mapping[str, str]], reason: str
) -> None:
    shown = replace(taking_part.shown(2), receipts=receipts(taking_part))
    stayed_away(taking_part, lie(taking_part, shown), reason)


def test_who_is_said_to_be_lost_stands_in_the_coordinators_log(bench: GateBench) -> None:
    """A run that may lose a silo goes on without its receipt, where the published entry names it."""
    bench.work()
    signed = bench.consortium.sign(RUN.replace("rounds: 3", "rounds: 3, quorum: 1"))
    assert bench.admit(signed).config["status"] == "admitted"
    bench.round(1)
    withheld = replace(bench.shown(2), receipts={}).dump()
    assert refused(bench.round(2, OTHER, receipts=withheld)) == "ingress.published"
    assert "names another silent" in bench.last["reason"]
    bench.lost = {PEER}
    assert bench.round(2, OTHER).config["status"] == "ok"
    assert bench.workers[0].asked == ["prepare", "train", "train"]


@pytest.mark.parametrize("text", [7, "", "{}", "[" * 100_000, '{"base":0}'])
@pytest.mark.parametrize("kind", [Kind.TRAIN, Kind.EVALUATE])
def test_damaged_receipts_are_refused(taking_part: GateBench, kind: str, text: Any) -> None:
    stayed_away(taking_part, taking_part.round(2, OTHER, kind, receipts=text), "receipts")


def test_a_split_in_the_last_round_is_refused_with_the_final_model(taking_part: GateBench) -> None:
    bench = taking_part
    bench.round(2, OTHER)
    bench.round(3)
    links = (*bench.shown(4).links[:2], element("round.begin", 3, weights_digest(OTHER), {}))
    start = beginning("run-1", bench.signed.digest)
    shown = Shown(0, start, links, {name: signed_by(bench, name, 3, links) for name in (PEER,)})
    answer = lie(bench, shown, 3, Kind.EVALUATE)
    assert refused(answer) == "ingress.receipts"
    assert "took another model in step 3" in str(answer.config["reason"])
    assert "evaluate" not in bench.workers[0].asked
    assert bench.round(3, kind=Kind.EVALUATE).config["status"] == "ok"


def test_a_gate_remembers_what_it_took_from_its_log(taking_part: GateBench) -> None:
    """Killed after the ingress: it signs no other model for that round, and refuses a history without its own."""
    bench = taking_part
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler()
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    assert bench.history.of(bench.signed.digest).taken.keys() == {1}  # type: ignore[union-attr]
    other = element("round.begin", 1, weights_digest(OTHER), {})
    start = beginning("run-1", bench.signed.digest)
    shown = Shown(0, start, (other,), {PEER: signed_by(bench, PEER, 1, (other,))})
    assert refused(lie(bench, shown)) == "ingress.receipts"
    assert bench.round(2, OTHER).config["status"] == "ok"


def test_a_round_that_failed_at_the_worker_is_not_given_another_model(bench: GateBench) -> None:
    """Nothing of the round left; yet what others were told of it would be another model than this silo signed for."""
    answers = iter([trained(INITIAL, steps=0), trained(INITIAL)])
    bench.work(train=lambda _: next(answers))
    bench.admit()
    assert bench.round(1).config["status"] == "failed"
    answer = bench.round(1, OTHER)
    assert refused(answer) == "ingress.receipts"
    assert "took another model in step 1" in str(answer.config["reason"])
    assert bench.round(1).config["status"] == "ok"


def test_a_silo_that_joins_later_is_shown_what_the_others_took(bench: GateBench) -> None:
    bench.work()
    bench.admit()
    links = (FIRST, SECOND)
    history = extended(extended(beginning("run-1", bench.signed.digest), FIRST), SECOND)
    shown = Shown(2, history, (), {name: signed_by(bench, name, 2, links) for name in (SILO, PEER)})
    assert lie(bench, replace(shown, receipts={PEER: shown.receipts[PEER]}), 3).config["rule"] == "ingress.receipts"
    assert lie(bench, shown, 3).config["status"] == "ok"


def test_a_run_that_is_left_says_up_to_where_it_was_confirmed(taking_part: GateBench) -> None:
    taking_part.work()
    assert taking_part.admit(run_id="run-2").config["status"] == "admitted"
    (left,) = [entry for entry in taking_part.state().entries if entry["action"] == "run.leave"]
    assert left["detail"] == {"unconfirmed": 1}
