"""SCAFFOLD (Karimireddy et al., ICML 2020, algorithm 1, option II), the server's side, with server learning rate 1.

x <- the mean of y_i by examples; c <- c + 1/N sum of (c_i+ - c_i) over the silos folded in, N being all silos of the
run. What a silo's control variate changes by is computed from its update; no silo sends it. x differs from the paper,
which counts each silo the same, as FedAvg's does here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from coordinator.aggregation import RunningMean, check_update
from coordinator.strategies.base import usable
from coordinator.strategies.mean import MeanFold
from federation.control_variates import control_change, joined
from federation.errors import RunFailedError, WireError
from federation.limits import LIMITS
from federation.wire import Weights

_CONTROL = "control"


class ScaffoldFold(MeanFold):
    """Streams: two sums, of the updates and of the changes of the silos' control variates."""

    def __init__(
        self,
        model: Weights,
        control: Weights,
        planned_examples: int,
        silos: int,
        learning_rate: float,
        close: Callable[[Weights], None],
    ) -> None:
        super().__init__(model.size, planned_examples)
        self._model, self._control, self._rate, self._silos = model, control, learning_rate, silos
        self._changes = RunningMean(model.size, silos)
        self._close = close

    def fold(self, silo: str, weights: Weights, examples: int, metrics: Mapping[str, float], steps: int = 1) -> None:
        """Add one silo's weights, and what its control variate changes by; raises WireError."""
        check_update(silo, weights, self._model.size)
        change = control_change(self._model, self._control, weights, steps, self._rate)
        try:
            check_update(silo, change, change.size)
        except WireError as error:
            raise WireError(f"the control variate that follows from an update is not usable: {error}") from None
        super().fold(silo, weights, examples, metrics)
        self._changes.fold(silo, change, 1)

    def result(self) -> Weights:
        """The mean; the strategy's control variate goes on to the next round."""
        model = super().result()
        share = np.float32(self._changes.examples / self._silos)
        self._close(usable(self._control + share * self._changes.result()))
        return model


class Scaffold:
    """State: the mean control variate c of all silos, zero at the beginning."""

    def __init__(self) -> None:
        self._control: Weights | None = None
        self._silos, self._rate = 0, 0.0

    def admitted(self, silos: int, learning_rate: float | None) -> None:
        """Take N and eta; raises RunFailedError where no rate is announced."""
        if learning_rate is None:
            raise RunFailedError(
                "the silos announce no learning rate, which SCAFFOLD goes by", advice="bring all silos up to date"
            )
        self._silos, self._rate = silos, learning_rate

    def outgoing(self, model: Weights) -> Weights:
        """The model with c behind it, shape (2 * values,); raises RunFailedError where that is too large to send."""
        if 2 * model.size > LIMITS.model_values:
            raise RunFailedError(
                f"got a model of {model.size} values, expected at most {LIMITS.model_values // 2} with SCAFFOLD",
                advice="use fedprox, which sends the model alone",
            )
        return joined(model, self._of(model))

    def begin(self, model: Weights, planned_examples: int) -> ScaffoldFold:
        """Begin a round."""
        if not self._silos:
            raise RunFailedError("got a round before the silos' learning rate")
        return ScaffoldFold(model, self._of(model), planned_examples, self._silos, self._rate, self._closed)

    def state(self) -> Mapping[str, Weights]:
        """The control variate, once a round was closed."""
        return {} if self._control is None else {_CONTROL: self._control}

    def restore(self, state: Mapping[str, Weights]) -> None:
        """Take it over."""
        if not set(state) <= {_CONTROL}:
            raise RunFailedError(f"got state {sorted(state)}, expected {_CONTROL}")
        self._control = state[_CONTROL].astype(np.float32) if state else None

    def _of(self, model: Weights) -> Weights:
        return np.zeros(model.size, dtype=np.float32) if self._control is None else self._control

    def _closed(self, control: Weights) -> None:
        self._control = control
