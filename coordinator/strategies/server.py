"""Server optimizers: the mean update as a pseudo-gradient (Hsu et al. 2019; Reddi et al., ICLR 2021, algorithm 2).

All in float32. Flower's FedAdam differs: it returns float64, starts the second moment at 0 and corrects the bias with
an exponent of round + 1; here the second moment starts at tau squared, as in the paper, and nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from coordinator.strategies.base import ModelAlone, usable
from coordinator.strategies.mean import MeanFold
from federation.errors import RunFailedError
from federation.wire import Weights


class SteppedFold(MeanFold):
    """A mean, from which the server takes a step of its own."""

    def __init__(self, model: Weights, planned_examples: int, step: Callable[[Weights, Weights], Weights]) -> None:
        super().__init__(model.size, planned_examples)
        self._model, self._step = model, step

    def result(self) -> Weights:
        """The model after the server's step; raises RunFailedError where it is none that silos could take."""
        change = super().result()
        change -= self._model
        return usable(self._step(self._model, change))


class _Moments(ModelAlone):
    """One vector of state a name, zero or a constant at the beginning."""

    def __init__(self, **start: float) -> None:
        self._start = start
        self._values: dict[str, Weights] = {}

    def get(self, name: str, size: int) -> Weights:
        if name not in self._values:
            self._values[name] = np.full(size, self._start[name], dtype=np.float32)
        return self._values[name]

    def state(self) -> Mapping[str, Weights]:
        return dict(self._values)

    def restore(self, state: Mapping[str, Weights]) -> None:
        if not set(state) <= set(self._start):
            raise RunFailedError(f"got state {sorted(state)}, expected {sorted(self._start)}")
        self._values = {name: value.astype(np.float32) for name, value in state.items()}


class Stepping(Protocol):
    """A strategy's own step."""

    def step(self, model: Weights, change: Weights) -> Weights:
        """The next model, from the last one and the mean change (float32, same shape)."""


class _Server(_Moments):
    def step(self, model: Weights, change: Weights) -> Weights:
        raise NotImplementedError

    def begin(self, model: Weights, planned_examples: int) -> SteppedFold:
        """Begin a round."""
        return SteppedFold(model, planned_examples, self.step)


class Momentum(_Server):
    """FedAvgM: v <- momentum * v + change; w <- w + rate * v. State: one model."""

    def __init__(self, rate: float, momentum: float) -> None:
        super().__init__(momentum=0.0)
        self._rate, self._momentum = np.float32(rate), np.float32(momentum)

    def step(self, model: Weights, change: Weights) -> Weights:
        """One step."""
        v = self.get("momentum", model.size)
        v *= self._momentum
        v += change
        return model + self._rate * v


class _Adaptive(_Server):
    """m <- beta_1 * m + (1 - beta_1) * change; v by the subclass; w <- w + rate * m / (sqrt(v) + tau)."""

    def __init__(self, rate: float, beta_1: float, tau: float) -> None:
        super().__init__(first=0.0, second=tau * tau)
        self._rate, self._beta_1, self._tau = np.float32(rate), np.float32(beta_1), np.float32(tau)

    def second(self, v: Weights, square: Weights) -> None:
        """Update the second moment in place, given the square of the change."""
        raise NotImplementedError

    def step(self, model: Weights, change: Weights) -> Weights:
        """One step."""
        m, v = self.get("first", model.size), self.get("second", model.size)
        m *= self._beta_1
        m += (np.float32(1) - self._beta_1) * change
        self.second(v, change * change)
        scale = np.sqrt(v)
        scale += self._tau
        np.divide(m, scale, out=scale)
        scale *= self._rate
        scale += model
        return scale


class Adagrad(_Adaptive):
    """FedAdagrad: v <- v + change^2."""

    def second(self, v: Weights, square: Weights) -> None:
        """Add the square."""
        v += square


class Adam(_Adaptive):
    """FedAdam: v <- beta_2 * v + (1 - beta_2) * change^2."""

    def __init__(self, rate: float, beta_1: float, beta_2: float, tau: float) -> None:
        super().__init__(rate, beta_1, tau)
        self._beta_2 = np.float32(beta_2)

    def second(self, v: Weights, square: Weights) -> None:
        """Move towards the square."""
        v *= self._beta_2
        v += (np.float32(1) - self._beta_2) * square


class Yogi(Adam):
    """FedYogi: v <- v - (1 - beta_2) * change^2 * sign(v - change^2)."""

    def second(self, v: Weights, square: Weights) -> None:
        """Move towards the square by a step that does not depend on how far it is."""
        v -= (np.float32(1) - self._beta_2) * square * np.sign(v - square)
