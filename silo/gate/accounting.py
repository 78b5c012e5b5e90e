"""Privacy accounting: what steps of DP-SGD cost, and how much noise a wanted cost takes; pure.

Counted by privacy loss distributions (Koskela et al., AISTATS 2020), rounded so that no cost comes out too small. With
example_dp, neighbouring data sets differ in one training row being there or counting nothing; with silo_dp, in all the
rows of one silo being replaced by any others. The second holds for one row as well, so one ledger counts both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from federation.errors import ConcordatError
from federation.limits import LIMITS
from federation.run import Privacy, Run

_FINE, _COARSE = 1e-4, 1e-3
"""Widths of the buckets of privacy loss; a wider one is quicker and never too small."""
_LEAST_NOISE, MOST_NOISE = 0.3, 1000.0
_NOISE_STEP = 1e-3
SILO_SENSITIVITY = 2.0
"""How far, in clip norms, the sum moves where one silo's clipped update is replaced by another."""
_TAIL = 9.6
"""No noise value is larger, in standard deviations: the generator's tail ends below."""
_LARGEST = 900.0
"""Beyond it epsilon is in the hundreds, and its exact value not worth the memory to find it."""


class PlanError(ConcordatError):
    """A run's privacy cannot be had as it asks for it."""


@dataclass(frozen=True, order=True)
class Mechanism:
    """Steps that add Gaussian noise to a sum over a Poisson sample of rate `sampling_rate`.

    `noise_multiplier` is the noise's standard deviation over the sensitivity: one clip norm where a row counts nothing
    instead, two where an update is replaced by another.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def times(self, count: int) -> Mechanism:
        """The same mechanism over `count` times as many steps."""
        return Mechanism(self.sampling_rate, self.noise_multiplier, self.steps * count)


@dataclass(frozen=True)
class Share:
    """The noise that one silo adds under silo_dp: on each value of its update, in clip norms, and on its bit."""

    update: float
    bit: float
    """0 where the clip norm is fixed, and no bit is sent."""


@dataclass(frozen=True)
class Plan:
    """What a run does to a silo's training rows: the mechanism of one round, how often, with which largest clip norm.

    `share` is what the gate itself adds, with silo_dp alone.
    """

    a_round: Mechanism
    rounds: int
    clip_norm: float
    delta: float
    share: Share | None = None

    @property
    def mode(self) -> Literal["example_dp", "silo_dp"]:
        """Whose privacy it is."""
        return "example_dp" if self.share is None else "silo_dp"

    @property
    def noise_multiplier(self) -> float:
        """The noise in clip norms."""
        return self.a_round.noise_multiplier * (1 if self.share is None else SILO_SENSITIVITY)

    @property
    def whole(self) -> Mechanism:
        """The mechanism of all rounds together."""
        return self.a_round.times(self.rounds)

    @property
    def epsilon(self) -> float:
        """What the whole run costs at its own delta."""
        return epsilon_of([self.whole], self.delta)


def plan_of(run: Run, examples: int, together: int = 1) -> Plan | None:
    """The plan of a run at a silo with this many training rows; None for a run without privacy.

    With example_dp the sampling rate is the batch size over the rows, the steps those of `strategy.local`; with silo_dp
    every silo is in every round, which is one step, and `together` is the fewest updates whose sum anyone sees: 1 where
    the coordinator sees each. Raises PlanError where the run has more steps than are counted, or no noise of up to 1000
    sensitivities gives the epsilon it asks for.
    """
    if run.privacy is None:
        return None
    if run.silo_dp:
        return _silo_plan(run, run.privacy, together)
    local = run.strategy.local
    rate = min(1.0, local.batch_size / examples)
    steps = local.steps or local.epochs * math.ceil(examples / min(local.batch_size, examples))
    total = steps * run.strategy.rounds
    if total > LIMITS.private_steps:
        raise PlanError(f"the run plans {total} private steps, expected at most {LIMITS.private_steps}")
    noise = run.privacy.noise_multiplier
    if noise is None:
        assert run.privacy.epsilon is not None  # noqa: S101  the run's own check
        noise = noise_for(rate, total, run.privacy.epsilon, run.privacy.delta)
    return Plan(Mechanism(rate, noise, steps), run.strategy.rounds, run.privacy.clip_norm, run.privacy.delta)


def _silo_plan(run: Run, privacy: Privacy, together: int) -> Plan:
    rounds, multiplier = run.strategy.rounds, privacy.noise_multiplier
    if multiplier is None:
        assert privacy.epsilon is not None  # noqa: S101  the run's own check
        multiplier = SILO_SENSITIVITY * noise_for(1.0, rounds, privacy.epsilon, privacy.delta)
    share = share_of(multiplier, together, adaptive=privacy.adaptive is not None)
    if run.secure_aggregation is not None:
        # An update that is scaled down takes its noise with it, of which the other silos' privacy is made.
        needed = privacy.largest_clip_norm * (1 + _TAIL * share.update)
        if run.secure_aggregation.largest_change < needed:
            raise PlanError(
                f"got largest_change {run.secure_aggregation.largest_change:g}, expected at least {needed:.6g}: with "
                "silo_dp no update with its noise may be scaled down",
                advice="raise secure_aggregation.largest_change, or lower the clip norm",
            )
    a_round = Mechanism(1.0, multiplier / SILO_SENSITIVITY, 1)
    return Plan(a_round, rounds, privacy.largest_clip_norm, privacy.delta, share)


def together_of(run: Run, silos: int) -> int:
    """The fewest updates whose sum anyone but a silo sees: 1 unless secure aggregation opens sums of more alone.

    Gates refuse a sum below the run's threshold or its quorum.
    """
    if run.secure_aggregation is None:
        return 1
    return max(run.secure_aggregation.threshold, silos if run.strategy.quorum == "all" else run.strategy.quorum)


def share_of(noise_multiplier: float, together: int, *, adaptive: bool) -> Share:
    """One silo's share of noise of `noise_multiplier` clip norms in every sum of at least `together` updates.

    Variances add up, and the noise of all silos but one is enough: who takes part knows its own noise and takes it off.
    With an adaptive clip norm each round also tells how many updates were short enough. Of that bit each silo sends
    its own with noise of `noise_multiplier` = sigma_b, and the updates get noise of (z^-2 - (2 sigma_b)^-2)^(-1/2), so
    that both together are as private as z alone (Andrew et al., NeurIPS 2021, theorem 1).
    """
    update = (noise_multiplier**-2 - (2 * noise_multiplier) ** -2) ** -0.5 if adaptive else noise_multiplier
    return Share(update / math.sqrt(max(1, together - 1)), noise_multiplier if adaptive else 0.0)


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """The epsilon at `delta` of everything together; 0 for nothing, infinite where it is in the hundreds."""
    steps: Counter[tuple[float, float]] = Counter()
    for one in mechanisms:
        steps[one.sampling_rate, one.noise_multiplier] += one.steps
    merged = tuple(sorted(Mechanism(rate, noise, count) for (rate, noise), count in steps.items() if count))
    return _epsilon(merged, delta, _FINE) if merged else 0.0


@lru_cache(maxsize=1024)
def _epsilon(mechanisms: tuple[Mechanism, ...], delta: float, width: float) -> float:
    if sum(_size(one) for one in mechanisms) > _LARGEST:
        return math.inf
    total = _distribution(mechanisms[0], width)
    for one in mechanisms[1:]:
        total = total.compose(_distribution(one, width))
    return max(0.0, float(total.get_epsilon_for_delta(delta)))


def _size(mechanism: Mechanism) -> float:
    """About mu^2 of the Gaussian mechanism that many steps come to (Bu et al., HDSR 2020, theorem 5)."""
    return mechanism.sampling_rate**2 * mechanism.steps * math.expm1(mechanism.noise_multiplier**-2)


@lru_cache(maxsize=64)
def _distribution(mechanism: Mechanism, width: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution  # noqa: PLC0415  with SciPy, a second to import

    one = privacy_loss_distribution.from_gaussian_mechanism(
        mechanism.noise_multiplier,
        sampling_prob=mechanism.sampling_rate,
        value_discretization_interval=width,
        pessimistic_estimate=True,
    )
    return one.self_compose(mechanism.steps) if mechanism.steps > 1 else one


@lru_cache(maxsize=64)
def noise_for(sampling_rate: float, steps: int, epsilon: float, delta: float) -> float:
    """The least noise multiplier, in thousandths, with which these steps cost at most `epsilon` at `delta`."""

    def fits(noise: float, width: float = _COARSE) -> bool:
        return _epsilon((Mechanism(sampling_rate, noise, steps),), delta, width) <= epsilon

    if not fits(MOST_NOISE):
        raise PlanError(
            f"no noise multiplier up to {MOST_NOISE:g} gives epsilon {epsilon:g} at delta {delta:g} over {steps} "
            f"steps at sampling rate {sampling_rate:.3g}",
            advice="raise epsilon, or train fewer steps or with smaller batches",
        )
    low, high = 0.0, _LEAST_NOISE
    while not fits(high):
        low, high = high, 2 * high
    while high - low > _NOISE_STEP / 2:
        middle = (low + high) / 2
        low, high = (low, middle) if middle >= _LEAST_NOISE and fits(middle) else (middle, high)
    noise = max(_LEAST_NOISE, math.ceil(high / _NOISE_STEP) * _NOISE_STEP)
    while not fits(noise, _FINE):
        noise += _NOISE_STEP
    return round(noise, 3)
