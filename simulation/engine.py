"""Rounds over simulated silos, with the code that trains at a silo and the code that folds at the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.fairness import spread
from coordinator.strategies import strategy_of
from coordinator.strategies.clipping import ClipNorm
from coordinator.strategies.proximal import ProximalTerm
from federation.errors import RunFailedError
from federation.run import NOT_AVERAGED, LocalWork, Run
from federation.secure_aggregation.fixed_point import PlainSum
from federation.wire import Weights
from silo.gate.accounting import Plan, plan_of, together_of
from silo.gate.outgoing import Leaving
from silo.gate.updates import update_norm
from silo.worker.data.view import PolicyView
from silo.worker.normalizing import normalised_together
from silo.worker.training.model import FederatedModel, Privacy, batches
from silo.worker.training.pace import Pace
from simulation.control_variates import Controls

Work = Callable[[int, str], LocalWork | None]
"""(round, silo) -> the work the silo does in it, None for a silo that is lost in this round."""


@dataclass(frozen=True)
class SimulatedRound:
    """A closed round: the model after it, and each silo's metrics of the model before it."""

    number: int
    weights: Weights
    metrics: Mapping[str, Mapping[str, float]]
    work: Mapping[str, tuple[int, int]]
    fairness: Mapping[str, Any]
    mean: Mapping[str, float]
    mu: float


class Simulation:
    """One run over views held in memory. The silos share one compiled model, as each round sets all of its weights.

    `sample` is the number of silos in a round, chosen by the run's seed; all without it. `outputs` is the width of the
    model's output.
    """

    def __init__(
        self,
        run: Run,
        builder: Callable[[int], Any],
        views: Mapping[str, PolicyView],
        *,
        sample: int | None = None,
        outputs: int = 1,
    ) -> None:
        self.run, self.views = run, normalised_together(run, dict(sorted(views.items())))
        self._sample = min(sample or len(self.views), len(self.views))
        features = next(iter(self.views.values())).train_x.shape[1]
        self.model = FederatedModel.of(run, builder, features, outputs)
        self.initial = self.model.get()
        self.plans: dict[str, Plan | None] = {
            name: plan_of(run, len(view.train_x), together_of(run, self._sample)) for name, view in self.views.items()
        }

    def rounds(self, work: Work | None = None, *, measure: bool = True) -> Iterator[SimulatedRound]:
        """Run all rounds; raises RunFailedError where one has no answer. Without `measure` no metrics are computed."""
        strategy = self.run.strategy
        server, term = strategy_of(strategy), ProximalTerm(strategy.mu, strategy.adaptive)
        server.admitted(len(self.views), self.model.learning_rate)
        controls = Controls(self.model.learning_rate, self.model.size)
        clipping, secure = ClipNorm(self.run.privacy), self.run.secure_aggregation
        counted = {name: 1 if self.run.silo_dp else len(view.train_x) for name, view in self.views.items()}
        planned = sum(counted.values())
        weights, residuals = self.initial, dict[str, Weights]()
        for number in range(1, strategy.rounds + 1):
            fold = server.begin(weights, planned)
            controls.begin(server.outgoing(weights))
            total = None if secure is None else PlainSum(weights.size, planned, secure.largest_change)
            metrics: dict[str, Mapping[str, float]] = {}
            done: dict[str, tuple[int, int]] = {}
            bits: dict[str, float] = {}
            mu = term.mu
            for name in self._chosen(number):
                local = strategy.local if work is None else work(number, name)
                if local is None:
                    continue
                view = self.views[name]
                names = self.run.metrics if measure else ()
                metrics[name] = self.model.evaluate(weights, view, names) if names else {}
                trained, done[name] = self._train(weights, name, number, local, mu, controls.correction(name))
                leaving = Leaving(
                    weights,
                    trained,
                    plan=self.plans[name],
                    clip_norm=clipping.norm,
                    updates=self.run.updates,
                    residual=residuals.get(name),
                )
                leaving.release(update_norm(leaving.weights, weights), None)
                controls.released(name, leaving.weights, done[name][0])
                if leaving.residual is not None:
                    residuals[name] = leaving.residual
                if (bit := clipping.bit_of(name, leaving.said)) is not None:
                    bits[name] = bit
                if total is None:
                    fold.fold(name, leaving.weights, counted[name], metrics[name], done[name][0])
                else:
                    total.add(leaving.weights - weights, counted[name])
            if not done:
                raise RunFailedError(f"round {number} has no answer, expected at least one")
            if total is not None:
                fold.fold("the sum", total.model_after(weights), total.examples, {})
            weights = fold.result()
            mean = self._mean(metrics)
            term.saw(mean.get("loss"))
            clipping.saw(bits)
            yield SimulatedRound(number, weights, metrics, done, spread(metrics), mean, mu)

    def evaluate(self, weights: Weights) -> dict[str, dict[str, float]]:
        """The run's metrics of a model at every silo, those of a silo's own model left out."""
        names = tuple(name for name in self.run.metrics if not name.startswith("own_"))
        return {name: self.model.evaluate(weights, view, names) for name, view in self.views.items()}

    def mean(self, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The silos' metrics averaged by their training rows."""
        return self._mean(metrics)

    def _train(
        self, weights: Weights, name: str, number: int, local: LocalWork, mu: float, correction: Weights | None
    ) -> tuple[Weights, tuple[int, int]]:
        view, plan, pace = self.views[name], self.plans[name], Pace(local.seconds)
        self.model.at_round(number)
        if plan is not None and plan.share is None:
            one = plan.a_round
            privacy = Privacy(one.sampling_rate, one.noise_multiplier, plan.clip_norm, one.steps)
            trained, steps = self.model.work_privately(weights, view, privacy, pace, mu, correction=correction)
            return trained, (steps, one.steps)
        order = batches(len(view.train_x), local, self.run.seed, number)
        trained, steps = self.model.work(weights, view, order, pace, mu, correction)
        return trained, (steps, len(order))

    def _chosen(self, number: int) -> Sequence[str]:
        names = list(self.views)
        if self._sample == len(names):
            return names
        generator = np.random.default_rng([self.run.seed, number, 0x51])
        return [names[index] for index in sorted(generator.choice(len(names), self._sample, replace=False))]

    def _mean(self, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        out: dict[str, float] = {}
        for name in self.run.metrics:
            parts = [(len(self.views[silo].train_x), sent[name]) for silo, sent in metrics.items() if name in sent]
            if parts and name not in NOT_AVERAGED:
                out[name] = sum(rows * value for rows, value in parts) / sum(rows for rows, _ in parts)
        return out
