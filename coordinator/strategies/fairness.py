"""q-FedAvg: silos with a higher loss count more (Li et al., ICLR 2020, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from coordinator.strategies.base import Held, Stateless, usable
from federation.errors import WireError
from federation.wire import Weights

_SMALLEST_LOSS = 1e-10
"""Added to each loss, as in the authors' code: a loss of 0 has no power below 1."""


class QFold(Held):
    """Holds the round's updates: one model of memory a silo."""

    def __init__(self, model: Weights, q: float, lipschitz: float) -> None:
        super().__init__(model.size)
        self._model, self._q, self._lipschitz = model, q, lipschitz
        self._losses: dict[str, float] = {}

    def fold(self, silo: str, weights: Weights, examples: int, metrics: Mapping[str, float], _steps: int = 1) -> None:
        """Take one silo's weights and its loss of the model the round began with; raises WireError."""
        loss = metrics.get("loss")
        if loss is None or not 0 <= loss < float("inf"):
            raise WireError(f"{silo} sent loss {loss}, expected a number from 0: q-FedAvg weighs silos by it")
        self.hold(silo, weights, examples)
        self._losses[silo] = float(loss)

    def result(self) -> Weights:
        """W - sum(F^q L (w - w_k)) / sum(q F^(q-1) ||L (w - w_k)||^2 + L F^q), each sum in the order of names.

        Both sums are of losses over the largest one, which takes the same factor off them: a power of a loss may be
        larger than any number, that of a share is at most 1.
        """
        ordered = self.ordered()
        steps: npt.NDArray[np.float64] = np.zeros(self._model.size, dtype=np.float64)
        norms, largest = 0.0, max(self._losses.values()) + _SMALLEST_LOSS
        for silo, weights in ordered:
            gradient = np.subtract(self._model, weights, dtype=np.float64)
            gradient *= self._lipschitz
            loss = (self._losses[silo] + _SMALLEST_LOSS) / largest
            norms += self._q * loss ** (self._q - 1) / largest * float(np.dot(gradient, gradient))
            norms += self._lipschitz * loss**self._q
            gradient *= loss**self._q
            steps += gradient
        return usable((self._model - steps / norms).astype(np.float32))


class QFedAvg(Stateless):
    """q = 0 is the plain mean of the silos; the larger q, the more the worst silo counts."""

    def __init__(self, q: float, learning_rate: float) -> None:
        self._q, self._lipschitz = q, 1.0 / learning_rate

    def begin(self, model: Weights, _planned_examples: int) -> QFold:
        """Begin a round."""
        return QFold(model, self._q, self._lipschitz)
