from __future__ import annotations

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.limits import LIMITS
from federation.run import Run, load_run
from silo.gate.accounting import Mechanism, PlanError, epsilon_of, noise_for, plan_of

RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: private}
purpose: HMB
dataset: heart
features: [age]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 5, local: {epochs: 2, batch_size: 32}}
privacy: {mode: example_dp, clip_norm: 1.5, delta: 1.0e-5, noise_multiplier: 1.1}
"""


def run(**changes: str) -> Run:
    text = RUN
    for old, new in changes.items():
        text = text.replace({"noise": "noise_multiplier: 1.1", "local": "epochs: 2", "rounds": "rounds: 5"}[old], new)
    return load_run(text).model


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The exact delta of a Gaussian mechanism of sensitivity mu (Balle and Wang, ICML 2018, theorem 8)."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 9), (20.0, 400)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float, steps: int):
    epsilon = epsilon_of([Mechanism(1.0, noise, steps)], 1e-5)
    assert gaussian_delta(epsilon, math.sqrt(steps) / noise) == pytest.approx(1e-5, rel=0.02)
    assert gaussian_delta(epsilon, math.sqrt(steps) / noise) <= 1e-5


def test_different_gaussian_mechanisms_compose_as_their_squares():
    parts = [Mechanism(1.0, 2.0, 1), Mechanism(1.0, 5.0, 10), Mechanism(1.0, 8.0, 3)]
    mu = math.sqrt(1 / 4 + 10 / 25 + 3 / 64)
    assert gaussian_delta(epsilon_of(parts, 1e-6), mu) == pytest.approx(1e-6, rel=0.02)


def test_it_is_a_little_below_what_renyi_divergences_give():
    rate, steps = 256 / 60000, 60 * 60000 // 256
    accountant = rdp.RdpAccountant()
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(1.1)), steps)
    renyi = accountant.get_epsilon(1e-5)
    assert 0.8 * renyi < epsilon_of([Mechanism(rate, 1.1, steps)], 1e-5) < renyi


def test_nothing_costs_nothing():
    assert epsilon_of([], 1e-5) == 0


def test_what_is_absurd_is_infinite_and_takes_no_memory():
    assert epsilon_of([Mechanism(1.0, 0.3, 10**7)], 1e-5) == math.inf


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.8, 8), st.integers(1, 200), st.integers(1, 50))
def test_a_cost_grows_with_steps_and_shrinks_with_noise(rate: float, noise: float, steps: int, more: int):
    here = epsilon_of([Mechanism(rate, noise, steps)], 1e-5)
    assert epsilon_of([Mechanism(rate, noise, steps), Mechanism(rate, noise, more)], 1e-5) >= here
    assert epsilon_of([Mechanism(rate, noise * 1.5, steps)], 1e-5) <= here
    assert epsilon_of([Mechanism(rate, noise, steps)], 1e-4) <= here


def test_the_parts_of_a_run_cost_what_the_whole_costs():
    whole = epsilon_of([Mechanism(0.1, 1.3, 60)], 1e-5)
    assert epsilon_of([Mechanism(0.1, 1.3, 20)] * 3, 1e-5) == whole


@pytest.mark.parametrize(("rate", "steps", "epsilon"), [(0.1, 100, 2.0), (0.5, 40, 8.0), (1.0, 10, 1.0)])
def test_the_noise_is_the_least_that_keeps_the_epsilon(rate: float, steps: int, epsilon: float):
    noise = noise_for(rate, steps, epsilon, 1e-5)
    assert epsilon_of([Mechanism(rate, noise, steps)], 1e-5) <= epsilon
    assert epsilon_of([Mechanism(rate, noise - 0.02, steps)], 1e-5) > epsilon


def test_a_plan_counts_the_runs_batches():
    """100 rows, batches of 32: rate 0.32, 4 steps an epoch, 2 epochs a round, 5 rounds."""
    plan = plan_of(run(), 100)
    assert plan is not None
    assert plan.a_round == Mechanism(0.32, 1.1, 8)
    assert plan.whole.steps == 40
    assert plan.clip_norm == 1.5
    assert plan.epsilon == epsilon_of([Mechanism(0.32, 1.1, 40)], 1e-5)


def test_fewer_rows_than_a_batch_are_taken_in_every_step():
    plan = plan_of(run(local="steps: 3"), 20)
    assert plan is not None
    assert plan.a_round == Mechanism(1.0, 1.1, 3)


def test_a_plan_makes_the_noise_for_the_epsilon_wanted():
    plan = plan_of(run(noise="epsilon: 3"), 400)
    assert plan is not None
    assert 2.9 < plan.epsilon <= 3


def test_a_run_without_privacy_has_no_plan():
    text = "\n".join(line for line in RUN.splitlines() if not line.startswith("privacy"))
    assert plan_of(load_run(text).model, 100) is None


def test_more_steps_than_are_counted_are_refused():
    with pytest.raises(PlanError, match=f"expected at most {LIMITS.private_steps}"):
        plan_of(run(local="steps: 1000000", rounds="rounds: 100"), 100)


def test_an_epsilon_that_no_noise_gives_is_refused():
    with pytest.raises(PlanError, match="no noise multiplier up to 1000"):
        plan_of(run(noise="epsilon: 0.01", local="steps: 100000", rounds="rounds: 10"), 32)
