"""The mean of the updates weighted by examples: FedAvg (McMahan et al., AISTATS 2017) and FedProx's server side."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.aggregation import RunningMean
from coordinator.strategies.base import Stateless
from federation.errors import RunFailedError, WireError
from federation.wire import Weights


class MeanFold:
    """Streams: two models of memory beside the update in hand, however many silos."""

    def __init__(self, size: int, planned_examples: int) -> None:
        self._mean = RunningMean(size, planned_examples)

    @property
    def examples(self) -> int:
        """The sum of the examples folded in."""
        return self._mean.examples

    def fold(self, silo: str, weights: Weights, examples: int, _metrics: Mapping[str, float], _steps: int = 1) -> None:
        """Add one silo's weights; raises WireError."""
        self._mean.fold(silo, weights, examples)

    def result(self) -> Weights:
        """The mean; raises RunFailedError where nothing was folded in."""
        try:
            return self._mean.result()
        except WireError as error:
            raise RunFailedError(str(error)) from None


class Mean(Stateless):
    """The next model is the mean."""

    def begin(self, model: Weights, planned_examples: int) -> MeanFold:
        """Begin a round."""
        return MeanFold(model.size, planned_examples)
