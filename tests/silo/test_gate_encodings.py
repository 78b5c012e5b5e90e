"""Updates that are packed at the gate: what leaves, what is decided on, and what is made up for in the next round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.encodings import pack, packed_bytes, received, unpack
from federation.run import Updates
from federation.wire import Weights, weights_digest
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import Ledger
from silo.gate.outgoing import Leaving
from silo.gate.replies import Replies
from silo.gate.updates import update_norm

from .simulator import INITIAL, RUN, GateBench, trained

TOP = Updates(encoding="top_k", share=0.5)
EVERY = [Updates(encoding="float16"), Updates(encoding="int8"), TOP]
STEP = np.array([0.5, -0.25, 0.125, 1.0], dtype=np.float32)
TOP_RUN = RUN + "updates: {encoding: top_k, share: 0.5}\n"


def vectors(bound: float) -> Any:
    return arrays(np.float32, 7, elements=st.floats(-bound, bound, width=32))


# -- what leaves


def leaving(updates: Updates, before: Weights, after: Weights, residual: Weights | None = None) -> Leaving:
    found = Leaving(before, after, updates=updates, residual=residual)
    found.release(update_norm(found.weights, before), None)
    return found


@pytest.mark.parametrize("updates", EVERY)
@given(before=vectors(1e3), step=vectors(10))
def test_the_gate_knows_the_bits_that_the_coordinator_has_and_they_are_no_longer_than_the_update(
    updates: Updates, before: Weights, step: Weights
) -> None:
    after = before + step
    found = leaving(updates, before, after)
    assert found.packed is not None
    got = before + unpack(updates, found.packed, before.size)
    assert weights_digest(got) == weights_digest(found.weights)
    assert update_norm(got, before) <= update_norm(after, before)


def test_what_top_k_left_out_is_made_up_for() -> None:
    """Of (0.5, -0.25, 0.125, 1) half is sent: the first and the last. Later rounds add the others to their own."""
    zero = np.zeros(4, dtype=np.float32)
    first = leaving(TOP, zero, STEP)
    assert first.weights.tolist() == [0.5, 0, 0, 1.0]
    assert first.residual is not None
    assert first.residual.tolist() == [0, -0.25, 0.125, 0]
    second = leaving(TOP, zero, STEP, first.residual)
    assert second.weights.tolist() == [0.5, 0, 0, 1.0], "of two as large the first"
    third = leaving(TOP, zero, STEP, second.residual)
    assert third.weights.tolist() == [0, -0.75, 0, 1.0]
    assert third.residual is not None
    assert third.residual.tolist() == [0.5, 0, 0.375, 0]


@pytest.mark.parametrize("updates", EVERY[1:])
def test_with_feedback_the_sum_of_what_was_sent_stays_near_the_sum_of_what_was_meant(updates: Updates) -> None:
    draw = np.random.default_rng(4)
    zero = np.zeros(50, dtype=np.float32)
    meant, sent, residual = np.zeros(50), np.zeros(50), None
    for _ in range(40):
        step = draw.normal(size=50).astype(np.float32)
        found = leaving(updates, zero, step, residual)
        meant, sent, residual = meant + step, sent + found.weights, found.residual
        assert residual is not None
        np.testing.assert_allclose(meant - sent, residual, atol=1e-4)


def test_a_policys_norm_holds_for_what_is_made_up_as_well() -> None:
    zero, residual = np.zeros(4, dtype=np.float32), np.full(4, 50, dtype=np.float32)
    found = Leaving(zero, STEP, updates=TOP, residual=residual)
    norm = update_norm(found.weights, zero)
    assert norm > 100
    found.release(norm, 10.0)
    assert update_norm(found.weights, zero) <= 10.0


# -- at the gate


@pytest.fixture
def kept(bench: GateBench) -> GateBench:
    bench.ledger = Ledger(bench.directory / "ledger.jsonl")
    restart(bench)
    return bench


def restart(bench: GateBench) -> None:
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
    bench.work(train=lambda frame: trained(frame.weights() + STEP))


@pytest.mark.parametrize("updates", EVERY)
def test_a_reply_is_packed_and_the_log_names_what_it_comes_to(kept: GateBench, updates: Updates) -> None:
    share = "" if updates.share is None else f", share: {updates.share}"
    kept.admit(kept.consortium.sign(RUN + f"updates: {{encoding: {updates.encoding}{share}}}\n"))
    reply = kept.round(1)
    assert reply.weights is None
    assert reply.packed is not None
    expected = leaving(updates, INITIAL, INITIAL + STEP).packed
    assert expected is not None
    assert reply.packed.tobytes() == expected.tobytes()
    detail = kept.last["detail"]
    assert detail["update"] == weights_digest(received(updates, reply, INITIAL))
    assert detail["bytes"] == reply.array_bytes == packed_bytes(updates, 4)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_left_out_survives_a_restart(kept: GateBench, *, restarted: bool) -> None:
    signed = kept.consortium.sign(TOP_RUN)
    kept.admit(signed)
    first = kept.round(1)
    if restarted:
        restart(kept)
        kept.admit(signed)
        again = kept.round(1)
        assert again.packed is not None
        assert first.packed is not None
        assert again.packed.tobytes() == first.packed.tobytes()
    second = kept.round(2)
    expected = leaving(TOP, INITIAL, INITIAL + STEP, leaving(TOP, INITIAL, INITIAL + STEP).residual)
    assert second.packed is not None
    assert expected.packed is not None
    assert second.packed.tobytes() == expected.packed.tobytes()


def test_another_run_makes_up_for_nothing(kept: GateBench) -> None:
    kept.admit(kept.consortium.sign(TOP_RUN))
    kept.round(1)
    restart(kept)
    kept.admit(kept.consortium.sign(TOP_RUN), run_id="run-2")
    reply = kept.round(1)
    assert reply.packed is not None
    assert reply.packed.tobytes() == pack(TOP, STEP).tobytes()


def test_a_damaged_reply_is_not_sent_again_and_its_residual_not_used(kept: GateBench) -> None:
    signed = kept.consortium.sign(TOP_RUN)
    kept.admit(signed)
    kept.round(1)
    (path,) = Path(kept.directory / "replies").glob("train-*.reply")
    path.write_bytes(path.read_bytes()[:-1])
    answer = kept.round(1)
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "round.repeated")
    reply = kept.round(2)
    assert reply.packed is not None
    assert reply.packed.tobytes() == pack(TOP, STEP).tobytes()


def test_a_policys_size_is_held_against_what_is_sent(kept: GateBench) -> None:
    """Four values as float32 are 16 bytes, as float16 8: the model itself comes in as float32 all the same."""
    signed = kept.consortium.sign(RUN + "updates: {encoding: float16}\n")
    kept.admit(signed)
    kept.round(1)
    entry = kept.last
    assert (entry["action"], entry["decision"], entry["detail"]["bytes"]) == ("round.egress", "allow", 8)


def test_what_silo_privacy_noised_is_packed_after_it(kept: GateBench) -> None:
    private = "privacy: {mode: silo_dp, clip_norm: 0.001, delta: 1.0e-5, noise_multiplier: 900}\n"
    kept.admit(kept.consortium.sign(TOP_RUN + private))
    reply = kept.round(1)
    assert reply.packed is not None
    sent = unpack(TOP, reply.packed, 4)
    assert np.count_nonzero(sent) == 2
    assert np.abs(sent).max() > 0.01, "noise of deviation 0.9, not an update clipped to 0.001"
