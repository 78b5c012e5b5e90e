"""Privacy of whole silos: the gate clips an update, adds noise, debits; whatever worker or coordinator do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from federation.run import Run, load_run
from federation.wire import EVIDENCE, Envelope, Kind, weights_digest
from silo.gate.accounting import Mechanism, PlanError, Share, epsilon_of, plan_of, share_of, together_of
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import Ledger, read_ledger
from silo.gate.replies import Replies
from silo.gate.silo_level import clipped, noised, noised_bit
from silo.gate.statement import statement
from silo.gate.updates import update_norm
from silo.randomness import SecureStream

from .simulator import INITIAL, RUN, GateBench, trained
from .test_gate_accounting import gaussian_delta

KEY = b"a key of thirty-two bytes, fixed"
DELTA = 1e-5
PRIVATE = RUN + "privacy: {mode: silo_dp, clip_norm: 0.5, delta: 1.0e-5, noise_multiplier: 2}\n"
ADAPTIVE = PRIVATE.replace("noise_multiplier: 2", "noise_multiplier: 2, adaptive: {max_clip_norm: 4}")


def run(privacy: str, rounds: int = 3) -> Run:
    return load_run(RUN.replace("rounds: 3", f"rounds: {rounds}") + f"privacy: {{mode: silo_dp, {privacy}}}\n").model


# -- how much noise, and what it costs


def test_the_share_of_a_silo_whose_update_is_seen_is_all_of_the_noise() -> None:
    assert share_of(1.5, 1, adaptive=False) == Share(1.5, 0.0)


def test_the_shares_of_five_silos_but_one_make_up_the_noise() -> None:
    """Four shares of standard deviation 1 have a sum of standard deviation 2."""
    assert share_of(2.0, 5, adaptive=False) == Share(1.0, 0.0)


def test_an_adaptive_norm_takes_the_papers_multiplier() -> None:
    """z = 1, sigma_b = 1: (1 - 1/4)^(-1/2) = 1.1547."""
    share = share_of(1.0, 1, adaptive=True)
    assert share.update == pytest.approx(1.154700538)
    assert share.bit == 1.0


@given(st.floats(0.3, 1000), st.integers(1, 1000), st.booleans())
def test_what_others_see_has_all_of_the_noise_and_both_releases_together_cost_what_is_debited(
    multiplier: float, together: int, adaptive: bool
) -> None:
    share = share_of(multiplier, together, adaptive=adaptive)
    # Replacing an update moves the sum by two clip norms, and the bit by one.
    seen = share.update * math.sqrt(max(1, together - 1))
    squares = (2 / seen) ** 2 + ((1 / share.bit) ** 2 if adaptive else 0.0)
    assert squares == pytest.approx((2 / multiplier) ** 2, rel=1e-9)


def test_a_plan_is_a_gaussian_mechanism_a_round() -> None:
    plan = plan_of(run("clip_norm: 0.5, delta: 1.0e-5, noise_multiplier: 8", 4), 100)
    assert plan is not None
    assert (plan.mode, plan.noise_multiplier, plan.a_round, plan.clip_norm) == (
        "silo_dp",
        8.0,
        Mechanism(1.0, 4.0, 1),
        0.5,
    )
    # mu = sensitivity / deviation * sqrt(rounds) = 2 / 8 * 2
    assert gaussian_delta(plan.epsilon, 0.5) == pytest.approx(DELTA, rel=0.02)


@settings(max_examples=6, deadline=None)
@given(st.floats(2, 50), st.integers(1, 30), st.integers(1, 30))
def test_a_run_costs_more_with_every_round(noise: float, rounds: int, more: int) -> None:
    few, many = (
        plan_of(run(f"clip_norm: 1.0, delta: 1.0e-5, noise_multiplier: {noise}", count), 9)
        for count in (rounds, rounds + more)
    )
    assert few is not None
    assert many is not None
    assert few.epsilon < many.epsilon


@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_noise_made_for_an_epsilon_keeps_it(epsilon: float) -> None:
    plan = plan_of(run(f"clip_norm: 1.0, delta: 1.0e-5, epsilon: {epsilon}", 10), 9)
    assert plan is not None
    assert 0.98 * epsilon < plan.epsilon <= epsilon
    assert plan.share == Share(plan.noise_multiplier, 0.0)


@pytest.mark.parametrize(
    ("quorum", "secure", "together"),
    [
        ("all", "", 1),
        ("2", "", 1),
        ("all", "secure_aggregation: {threshold: 3}\n", 5),
        ("4", "secure_aggregation: {threshold: 3}\n", 4),
        ("3", "secure_aggregation: {threshold: 3}\n", 3),
    ],
)
def test_noise_is_shared_where_sums_alone_are_opened(quorum: str, secure: str, together: int) -> None:
    text = PRIVATE.replace("rounds: 3", f"rounds: 3, quorum: {quorum}") + secure
    assert together_of(load_run(text).model, 5) == together


def test_the_debit_is_that_of_the_whole_noise_however_it_is_shared() -> None:
    secure = load_run(PRIVATE + "secure_aggregation: {threshold: 3, largest_change: 64}\n").model
    alone, shared = plan_of(secure, 100, 1), plan_of(secure, 100, 5)
    assert alone is not None
    assert shared is not None
    assert (alone.a_round, alone.epsilon) == (shared.a_round, shared.epsilon)
    assert (alone.share, shared.share) == (Share(2.0, 0.0), Share(1.0, 0.0))


def test_a_bound_that_could_scale_noise_down_is_refused() -> None:
    """A clip norm of 0.5 with noise of 2 clip norms: no value is beyond 0.5 + 9.6 * 2 * 0.5 = 10.1."""
    text = PRIVATE + "secure_aggregation: {threshold: 3, largest_change: %s}\n"
    with pytest.raises(PlanError, match=r"largest_change 10\.09, expected at least 10\.1"):
        plan_of(load_run(text % "10.09").model, 100)
    plan = plan_of(load_run(text % "10.1").model, 100)
    assert plan is not None
    assert plan.share is not None
    noise = noised(np.zeros(200_000, dtype=np.float32), 0.5, plan.share, SecureStream(KEY))
    assert np.abs(noise).max() + 0.5 < 10.1


# -- clipping and noise


def test_an_update_is_clipped_as_computed_by_hand() -> None:
    before = np.array([1, 1], dtype=np.float32)
    found = clipped(before + np.array([3, 4], dtype=np.float32), before, 2.5)
    np.testing.assert_allclose(found.weights, [2.5, 3.0], rtol=1e-5)
    assert not found.unclipped
    assert clipped(before, before, 2.5).unclipped


@given(arrays(np.float32, 12, elements=st.floats(-1e4, 1e4, width=32)), st.floats(1e-3, 1e4))
def test_no_clipped_update_is_longer_than_the_norm(after: np.ndarray, norm: float) -> None:
    before = np.linspace(-1, 1, 12, dtype=np.float32)
    found = clipped(after, before, norm)
    assert update_norm(found.weights, before) <= norm
    assert found.unclipped == (update_norm(after, before) <= norm)


def test_what_is_not_finite_is_left_to_be_refused() -> None:
    before = np.zeros(3, dtype=np.float32)
    found = clipped(np.array([1, math.nan, 0], dtype=np.float32), before, 1.0)
    assert np.isnan(found.weights[1])
    assert not found.unclipped


def test_the_noise_has_the_variance_that_is_counted() -> None:
    """A million values at a fixed key: the sample's deviation is within four of its own of the wanted one."""
    count, share = 1_000_000, Share(1.5, 0.0)
    noise = noised(np.zeros(count, dtype=np.float32), 0.2, share, SecureStream(KEY)).astype(np.float64)
    wanted = 1.5 * 0.2
    assert abs(noise.mean()) < 4 * wanted / math.sqrt(count)
    assert abs(noise.std() - wanted) < 4 * wanted / math.sqrt(2 * count)


def test_the_bits_noise_has_its_own_variance() -> None:
    stream, count = SecureStream(KEY), 20_000
    bits = np.array([noised_bit(Share(1.0, 0.7), stream, unclipped=True) for _ in range(count)])
    assert abs(bits.mean() - 1) < 4 * 0.7 / math.sqrt(count)
    assert abs(bits.std() - 0.7) < 4 * 0.7 / math.sqrt(2 * count)


# -- at the gate


@pytest.fixture
def ledger(bench: GateBench) -> Path:
    path = bench.directory / "ledger.jsonl"
    bench.ledger = Ledger(path)
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
    return path


def admit(bench: GateBench, text: str = PRIVATE) -> Envelope:
    return bench.admit(bench.consortium.sign(text))


def test_the_worker_is_not_asked_and_what_leaves_is_clipped_and_noised(
    bench: GateBench, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise is replaced by a stream of a known key: what it adds on is the clipped update."""
    monkeypatch.setattr("silo.gate.outgoing.SecureStream", lambda: SecureStream(KEY))
    worker = bench.work()  # adds 1 to each of four weights: norm 2
    answer = admit(bench)
    assert answer.config["epsilon"] == pytest.approx(epsilon_of([Mechanism(1.0, 1.0, 3)], DELTA))
    reply = bench.round(1)
    assert worker.frames[-1].fields == {"round": 1}
    assert reply.weights is not None
    expected = noised(clipped(INITIAL + 1, INITIAL, 0.5).weights, 0.5, Share(2.0, 0.0), SecureStream(KEY))
    assert reply.weights.tobytes() == expected.tobytes()
    (entry,) = read_ledger(ledger)
    assert (entry.debit.mechanism, entry.debit.mode, entry.debit.clip_norm) == (Mechanism(1.0, 1.0, 1), "silo_dp", 0.5)
    assert "(silo_dp)" in "\n".join(statement([entry], DELTA))
    actions = [logged["action"] for logged in bench.state().entries[-3:]]
    assert actions == ["round.ingress", "privacy.debit", "round.egress"]
    assert bench.last["detail"]["norm_micro"] == int(update_norm(reply.weights, INITIAL) * 1e6)


def test_two_gates_do_not_add_the_same_noise(bench: GateBench, ledger: Path) -> None:
    bench.work()
    admit(bench)
    one, two = (bench.round(number).weights for number in (1, 2))
    assert one is not None
    assert two is not None
    assert not np.array_equal(one, two)


def test_a_policys_norm_holds_before_the_noise(bench: GateBench, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silo.gate.outgoing.SecureStream", lambda: SecureStream(KEY))
    bench.serve_policy(bench.policy_path.read_text().replace("max_norm: 10.0", "max_norm: 0.25"))
    bench.work()
    admit(bench)
    reply = bench.round(1)
    assert reply.weights is not None
    expected = noised(clipped(INITIAL + 1, INITIAL, 0.25).weights, 0.5, Share(2.0, 0.0), SecureStream(KEY))
    np.testing.assert_allclose(reply.weights, expected, atol=1e-6)


@pytest.mark.parametrize(("mode", "status"), [("silo_dp", "admitted"), ("example_dp", "refused")])
def test_a_policy_asks_for_one_mode(bench: GateBench, ledger: Path, mode: str, status: str) -> None:
    bench.serve_policy(bench.policy_path.read_text() + f"privacy: {{mode: {mode}, clip_norm: 0.5}}\n")
    bench.work()
    answer = admit(bench)
    assert answer.config["status"] == status
    if status == "refused":
        assert answer.config["rule"] == "privacy.mode"


def test_a_policys_clip_norm_bounds_what_an_adaptive_one_may_become(bench: GateBench, ledger: Path) -> None:
    bench.serve_policy(bench.policy_path.read_text() + "privacy: {mode: silo_dp, clip_norm: 3.0}\n")
    bench.work()
    answer = admit(bench, ADAPTIVE)
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "privacy.clip_norm")


def test_a_run_that_spent_its_rounds_gets_no_other(bench: GateBench, ledger: Path) -> None:
    bench.work()
    admit(bench)
    for number in (1, 2, 3):
        assert bench.round(number).config["status"] == "ok"
    answer = bench.round(4)
    assert answer.config["status"] == "refused"
    assert len(read_ledger(ledger)) == 3


# -- the adaptive norm


def test_a_round_is_clipped_to_the_norm_that_is_published(bench: GateBench, ledger: Path) -> None:
    bench.work()
    admit(bench, ADAPTIVE)
    reply = bench.round(1, clip_norm=3.0)
    assert reply.config["status"] == "ok"
    assert isinstance(reply.config["unclipped"], float)
    assert read_ledger(ledger)[0].debit.clip_norm == 3.0


@pytest.mark.parametrize("norm", [None, 0.0, -1.0, 4.5, math.nan, math.inf, 3, "3", True])
def test_a_norm_beyond_the_runs_does_not_reach_the_worker(bench: GateBench, ledger: Path, norm: object) -> None:
    worker = bench.work()
    admit(bench, ADAPTIVE)
    asked = len(worker.frames)
    answer = bench.round(1, **({} if norm is None else {"clip_norm": norm}))
    assert answer.config["status"] == "failed"
    assert len(worker.frames) == asked
    assert read_ledger(ledger) == ()


def test_a_norm_that_other_silos_were_not_told_is_refused(bench: GateBench, ledger: Path) -> None:
    """One silo alone with a large norm would stick out of the others' noise."""
    bench.work()
    admit(bench, ADAPTIVE)
    honest = Envelope({"round": 1, "digest": weights_digest(INITIAL), "clip_norm": 0.5}, weights=INITIAL)
    shown = bench.evidence(Kind.TRAIN, honest)
    answer = bench.round(1, clip_norm=4.0, **{EVIDENCE: shown})
    assert (answer.config["status"], answer.config["rule"]) == ("refused", "ingress.published")
    assert "another clip_norm" in str(answer.config["reason"])


def test_a_reply_is_sent_again_for_the_same_norm_alone(bench: GateBench, ledger: Path) -> None:
    bench.work()
    admit(bench, ADAPTIVE)
    first = bench.round(1, clip_norm=1.0)
    bench.history = history_of(read_entries(bench.audit))
    bench.link.drop()
    bench.handler = bench.make_handler(replies=Replies(bench.directory / "replies"))
    bench.work()
    admit(bench, ADAPTIVE)
    again = bench.round(1, clip_norm=1.0)
    assert again.weights is not None
    assert first.weights is not None
    assert again.weights.tobytes() == first.weights.tobytes()
    assert again.config["unclipped"] == first.config["unclipped"]
    other = bench.round(1, clip_norm=2.0)
    assert (other.config["status"], other.config["rule"]) == ("refused", "ingress.receipts")
    assert len(read_ledger(ledger)) == 1


def test_an_update_that_is_not_finite_does_not_leave(bench: GateBench, ledger: Path) -> None:
    bench.work(train=lambda _: trained(INITIAL * np.float32("nan")))
    admit(bench)
    answer = bench.round(1)
    assert (answer.config["status"], answer.weights) == ("refused", None)
    assert len(read_ledger(ledger)) == 1
