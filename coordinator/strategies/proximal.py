"""The weight of FedProx's proximal term from round to round (Li et al., MLSys 2020, section 5.3.2)."""

from __future__ import annotations

from collections.abc import Mapping

from federation.run import MU_LIMIT, AdaptiveMu


class ProximalTerm:
    """Fixed, or adaptive: more by `step` when the loss rises, less by it after `patience` falls in a row."""

    def __init__(self, mu: float, adaptive: AdaptiveMu | None) -> None:
        self.mu = float(mu)
        self._adaptive = adaptive
        self._last: float | None = None
        self._falls = 0

    def state(self) -> dict[str, float | int | None]:
        """What a run that goes on elsewhere needs."""
        return {"mu": self.mu, "last": self._last, "falls": self._falls}

    def restore(self, state: Mapping[str, float | int | None]) -> None:
        """Take over such a state; raises KeyError, TypeError or ValueError for what is none."""
        mu, last, falls = state["mu"], state["last"], state["falls"]
        if mu is None or falls is None:
            raise ValueError("no mu")
        self.mu, self._last, self._falls = float(mu), None if last is None else float(last), int(falls)

    def saw(self, loss: float | None) -> None:
        """Take the loss of the model that a round began with; None where no silo sent one."""
        if self._adaptive is None or loss is None:
            return
        last, self._last = self._last, loss
        if last is None:
            return
        if loss > last:
            self.mu, self._falls = min(MU_LIMIT, self.mu + self._adaptive.step), 0
        elif loss < last:
            self._falls += 1
            if self._falls == self._adaptive.patience:
                self.mu, self._falls = max(0.0, self.mu - self._adaptive.step), 0
