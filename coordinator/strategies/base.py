"""What every strategy does: begin a round, take updates in any order, give the next model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from coordinator.aggregation import LARGEST_VALUE, check_update
from federation.errors import RunFailedError, WireError
from federation.wire import Weights


class Fold(Protocol):
    """One round's updates."""

    @property
    def examples(self) -> int:
        """The sum of the examples behind the updates folded in."""

    def fold(self, silo: str, weights: Weights, examples: int, metrics: Mapping[str, float], steps: int = 1) -> None:
        """Take one silo's weights, with its metrics of the model the round began with and its steps; raises WireError.

        Where it raises, nothing was taken.
        """

    def result(self) -> Weights:
        """The next global model, the same bits in whatever order updates came; called once a round.

        Raises RunFailedError where the updates are too few or give no usable model.
        """


class ServerStrategy(Protocol):
    """One run's way to fold; it may keep state from round to round."""

    def admitted(self, silos: int, learning_rate: float | None) -> None:
        """Take the number of the run's silos and the learning rate that all announced; called once, before rounds.

        Raises RunFailedError where the strategy cannot do with them.
        """

    def outgoing(self, model: Weights) -> Weights:
        """What silos are sent of a round: the model itself, or one new vector that begins with it."""

    def begin(self, model: Weights, planned_examples: int) -> Fold:
        """Begin a round from a global model; `planned_examples` is what all admitted silos together announced."""

    def state(self) -> Mapping[str, Weights]:
        """What a run that goes on elsewhere needs besides the model, by name."""

    def restore(self, state: Mapping[str, Weights]) -> None:
        """Take over such a state."""


class ModelAlone:
    """A strategy that sends the model alone, and folds whoever the silos are."""

    def admitted(self, _silos: int, _learning_rate: float | None) -> None:
        """Nothing."""

    def outgoing(self, model: Weights) -> Weights:
        """The model itself."""
        return model


class Stateless(ModelAlone):
    """A strategy that keeps nothing."""

    def state(self) -> Mapping[str, Weights]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Weights]) -> None:
        """Take over nothing."""


class Held:
    """Updates that have to be seen together: all of a round's silos' weights stay in memory until it closes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._examples = 0
        self.updates: dict[str, Weights] = {}

    @property
    def examples(self) -> int:
        """The sum of the examples behind the updates held."""
        return self._examples

    def hold(self, silo: str, weights: Weights, examples: int) -> None:
        """Keep one silo's weights; raises WireError."""
        check_update(silo, weights, self._size)
        if silo in self.updates:
            raise WireError(f"{silo} sent a second update for one round")
        self.updates[silo] = weights
        self._examples += examples

    def ordered(self) -> list[tuple[str, Weights]]:
        """The updates by the silos' names, whatever order they came in; raises RunFailedError where there are none."""
        if not self.updates:
            raise RunFailedError("got no updates to fold, expected at least one")
        return sorted(self.updates.items())


def usable(weights: Weights) -> Weights:
    """The weights as they are; raises RunFailedError where they are not what silos could take and send back."""
    largest = max(float(weights.max()), -float(weights.min()))
    if not largest <= LARGEST_VALUE:
        raise RunFailedError(
            f"the server's step gives a weight of magnitude {largest:g}, expected at most {LARGEST_VALUE:g}",
            advice="lower the server's learning rate",
        )
    return np.ascontiguousarray(weights, dtype=np.float32)
