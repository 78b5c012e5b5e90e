"""SCAFFOLD at the gate: the control variate of what left, kept over restarts, counted where the coordinator counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.control_variates import control_change, joined
from federation.wire import Envelope, Kind, Weights, weights_digest
from silo.channel import Frame
from silo.gate.history import history_of, read_entries
from silo.gate.replies import Replies

from .simulator import INITIAL, POLICY, RUN, SILO, GateBench, PlayedWorker, failed, prepared, refused, trained

SCAFFOLD = RUN.replace("mu: 0.1, rounds: 3", "name: scaffold, rounds: 9")
RATE = 0.5
STEPS = 5
STEP = np.array([1, -2, 0.5, 0], dtype=np.float32)
CONTROL = np.array([0.25, 0, -1, 2], dtype=np.float32)


def played(bench: GateBench, **changes: Any) -> PlayedWorker:
    """A worker of plain SGD that goes by a step."""
    fields: dict[str, Any] = {"learning_rate": RATE, **changes}
    return bench.work(
        prepare=lambda _: prepared(**fields), train=lambda frame: trained(frame.weights()[:4] + STEP, steps=STEPS)
    )


def restart(bench: GateBench) -> None:
    """Start the gate anew: what it knows is what lies on disk."""
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
    played(bench)


@pytest.fixture
def controlled(bench: GateBench) -> GateBench:
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
    played(bench)
    assert admit(bench).config["learning_rate"] == RATE
    return bench


def admit(bench: GateBench) -> Envelope:
    answer = bench.admit(bench.consortium.sign(SCAFFOLD))
    assert answer.config["status"] == "admitted", answer.config
    return answer


def ask(
    bench: GateBench, number: int, folded: int = 0, control: Weights = CONTROL, model: Weights = INITIAL
) -> Envelope:
    """A round of SCAFFOLD, in which the silo's last folded round is told beside others'."""
    said = f"another:{number - 1}" if number > 1 else ""
    said += f",{SILO}:{folded}" if folded else ""
    return bench.round(number, joined(model, control), folded=said.strip(","))


def corrections(bench: GateBench) -> list[Weights]:
    """What workers were handed beside the models, in order."""
    frames = [frame for worker in bench.workers for frame in worker.frames if frame.op == "train"]
    return [frame.weights()[4:] for frame in frames]


def after(own: Weights, control: Weights = CONTROL) -> Weights:
    """A silo's control variate after one more of the played rounds."""
    return own + control_change(INITIAL, control, INITIAL + STEP, STEPS, RATE)


ZERO = np.zeros(4, dtype=np.float32)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_silo_goes_on_from_the_control_variate_of_its_last_folded_round(
    controlled: GateBench, *, restarted: bool
) -> None:
    """Round 2 came too late and is not counted; round 3 is. What it is: c_i - c + (x - y) / (K eta)."""
    for number, folded in ((1, 0), (2, 1), (3, 1), (4, 3)):
        answer = ask(controlled, number, folded)
        assert answer.config["status"] == "ok", answer.config
        assert answer.weights is not None
        assert answer.weights.tolist() == (INITIAL + STEP).tolist()  # as large as the model: no second vector leaves
        if restarted:
            restart(controlled)
            admit(controlled)
    one = after(ZERO)
    three = after(one)
    np.testing.assert_allclose(one, -CONTROL - STEP / (STEPS * RATE), rtol=1e-6)
    expected = [CONTROL, CONTROL - one, CONTROL - one, CONTROL - three]
    assert [found.tobytes() for found in corrections(controlled)] == [one.tobytes() for one in expected]


def test_a_clipped_update_is_what_the_control_variate_is_made_of(bench: GateBench) -> None:
    clipped = POLICY.replace("max_norm: 10.0", "max_norm: 1.0")
    assert clipped != POLICY
    bench.serve_policy(clipped, replies=Replies(bench.directory / "replies"))
    played(bench)
    admit(bench)
    left = ask(bench, 1).weights
    assert left is not None
    assert np.linalg.norm(left - INITIAL) <= 1
    ask(bench, 2, 1)
    own = control_change(INITIAL, CONTROL, left, STEPS, RATE)
    assert corrections(bench)[1].tobytes() == (CONTROL - own).tobytes()


def test_the_same_question_has_the_same_reply_and_another_control_variate_is_another_question(
    controlled: GateBench,
) -> None:
    first = ask(controlled, 1)
    restart(controlled)
    admit(controlled)
    assert first.weights is not None
    again = ask(controlled, 1)
    assert again.weights is not None
    assert again.weights.tobytes() == first.weights.tobytes()
    assert len(corrections(controlled)) == 1
    assert refused(ask(controlled, 1, control=CONTROL + np.float32(1))) == "ingress.receipts"
    ask(controlled, 2, 1)
    assert refused(ask(controlled, 2, 0)) == "ingress.receipts"


def test_a_gate_that_ended_before_its_reply_was_recorded_goes_on_with_the_same_bits(controlled: GateBench) -> None:
    ask(controlled, 1)
    ask(controlled, 2, 1)
    restart(controlled)
    controlled.history.admissions.by_label["run-1"].last_round = 1  # as if the entry of round 2 had not been written
    admit(controlled)
    assert ask(controlled, 2, 1).config["status"] == "ok"
    ask(controlled, 3, 2)
    _, second, again, third = corrections(controlled)
    assert second.tobytes() == again.tobytes()
    assert third.tobytes() == (CONTROL - after(after(ZERO))).tobytes()


def test_a_coordinator_that_goes_back_a_round_finds_what_it_counted_then(controlled: GateBench) -> None:
    """Folded in round 1, then not before round 6; the checkpoint of round 6 is damaged, so it is asked for again."""
    for number in range(1, 7):
        ask(controlled, number, min(number - 1, 1))
    ask(controlled, 7, 6)
    assert ask(controlled, 6, 1).config["status"] == "ok"
    assert refused(ask(controlled, 7, 1)) == "ingress.receipts"  # this silo signed that it goes on from round 6
    assert ask(controlled, 8, 1).config["status"] == "ok"
    assert corrections(controlled)[-1].tobytes() == (CONTROL - after(ZERO)).tobytes()


def test_what_is_kept_is_private_and_little(controlled: GateBench) -> None:
    for number in range(1, 10):
        ask(controlled, number, min(number - 1, 2))
    files = sorted((controlled.directory / "replies").glob("control-*"))
    assert [int(path.stem.removeprefix("control-")) for path in files] == [1, 2, 7, 8, 9]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [Path.unlink, damaged], ids=["lost", "damaged"])
def test_a_silo_without_the_control_variate_that_is_counted_takes_no_part(controlled: GateBench, harm: Any) -> None:
    ask(controlled, 1)
    ask(controlled, 2, 1)
    harm(controlled.directory / "replies" / "control-00000002.f32")
    assert refused(ask(controlled, 3, 2)) == "control.state"
    assert len(corrections(controlled)) == 2
    assert ask(controlled, 4, 1).config["status"] == "ok"


def test_a_control_variate_of_another_run_is_none(controlled: GateBench) -> None:
    ask(controlled, 1)
    path = controlled.directory / "replies" / "control-00000001.f32"
    path.write_bytes(path.read_bytes().replace(controlled.signed.digest.encode(), b"sha256:" + b"7" * 64))
    assert refused(ask(controlled, 2, 1)) == "control.state"


# -- what a coordinator may try


def test_another_list_of_silos_folded_in_than_the_published_one_is_refused(controlled: GateBench) -> None:
    both = joined(INITIAL, CONTROL)
    config: dict[str, Any] = {"round": 2, "digest": weights_digest(both), "folded": "another:1"}
    shown = controlled.evidence(Kind.TRAIN, Envelope(config))
    lie = Envelope({**config, "folded": f"another:1,{SILO}:1", "evidence": shown}, weights=both)
    assert refused(controlled.ask(Kind.TRAIN, lie)) == "ingress.published"
    assert corrections(controlled) == []


def test_another_control_variate_than_the_published_one_is_refused(controlled: GateBench) -> None:
    config: dict[str, Any] = {"round": 1, "digest": weights_digest(joined(INITIAL, CONTROL)), "folded": ""}
    shown = controlled.evidence(Kind.TRAIN, Envelope(config))
    other = joined(INITIAL, CONTROL * 2)
    lie = Envelope({**config, "digest": weights_digest(other), "evidence": shown}, weights=other)
    assert refused(controlled.ask(Kind.TRAIN, lie)) == "ingress.published"


@pytest.mark.parametrize("size", [4, 7, 12])
def test_a_message_of_another_size_is_refused(controlled: GateBench, size: int) -> None:
    answer = controlled.round(1, np.zeros(size, dtype=np.float32), folded="")
    assert "expected 8" in failed(answer)
    assert corrections(controlled) == []


def test_a_message_without_the_silos_folded_in_is_refused(controlled: GateBench) -> None:
    assert "folded" in failed(controlled.round(1, joined(INITIAL, CONTROL)))


def test_a_round_that_is_still_to_come_is_not_folded_in(controlled: GateBench) -> None:
    assert "expected an earlier one" in failed(ask(controlled, 1, 1))


def test_ingress_is_decided_on_the_control_variate_too(controlled: GateBench) -> None:
    wild = CONTROL.copy()
    wild[3] = np.nan
    assert refused(ask(controlled, 1, control=wild)).startswith("ingress.")
    assert corrections(controlled) == []


# -- what cannot be had


def test_a_worker_that_does_not_tell_its_rate_does_not_take_part(bench: GateBench) -> None:
    for value in (None, 0.0, float("inf"), "0.1"):
        bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
        played(bench, learning_rate=value)
        answer = bench.admit(bench.consortium.sign(SCAFFOLD))
        assert "learning_rate" in failed(answer)


def test_a_gate_that_keeps_no_replies_refuses(bench: GateBench) -> None:
    played(bench)
    assert refused(bench.admit(bench.consortium.sign(SCAFFOLD))) == "control.state"


def test_another_run_is_sent_no_correction(bench: GateBench) -> None:
    worker = bench.work(prepare=lambda _: prepared())
    assert "learning_rate" not in bench.admit().config
    bench.round(1)
    frames: list[Frame] = [frame for frame in worker.frames if frame.op == "train"]
    assert frames[0].weights().tolist() == INITIAL.tolist()
