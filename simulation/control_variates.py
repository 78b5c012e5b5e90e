"""The control variates of simulated silos under SCAFFOLD, by the arithmetic of the gate; nothing in other runs."""

from __future__ import annotations

import numpy as np

from federation.control_variates import control_change, parted
from federation.wire import Weights


class Controls:
    """One run's control variates; every simulated silo that trains is folded in. Without a rate there are none."""

    def __init__(self, learning_rate: float | None, values: int) -> None:
        self._rate, self._values = learning_rate, values
        self._own: dict[str, Weights] = {}
        self._sent: tuple[Weights, Weights] | None = None

    def begin(self, outgoing: Weights) -> None:
        """Take what silos are sent of a round."""
        self._sent = None if self._rate is None else parted(outgoing, self._values)

    def correction(self, silo: str) -> Weights | None:
        """What is added to a silo's gradients: c - c_i."""
        return None if self._sent is None else self._sent[1] - self._of(silo)

    def released(self, silo: str, weights: Weights, steps: int) -> None:
        """Take what a silo's work gave."""
        if self._sent is not None and self._rate is not None:
            self._own[silo] = self._of(silo) + control_change(*self._sent, weights, steps, self._rate)

    def _of(self, silo: str) -> Weights:
        return self._own.get(silo, np.zeros(self._values, dtype=np.float32))
