"""Each metric's range: what a silo's gate lets out, and what the coordinator takes of a silo; pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from federation.errors import WireError
from federation.limits import LIMITS
from federation.run import Metric

LARGEST_LOSS = 1e9
"""Sums and squares of as many losses as there may be silos stay far from the largest float64."""
LARGEST_SLOPE = 1e12
"""A slope has no bound of its own: where all probabilities are nearly alike, it is very large."""


@dataclass(frozen=True)
class Range:
    """The numbers that a metric can be, both ends among them."""

    least: float
    most: float

    def has(self, value: float) -> bool:
        """Whether the value is in the range; NaN is in none."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least:g} to {self.most:g}"


_LOSS, _SHARE = Range(-LARGEST_LOSS, LARGEST_LOSS), Range(0, 1)
RANGES: Mapping[Metric, Range] = MappingProxyType(
    {
        "loss": _LOSS,
        "auc": _SHARE,
        "pr_auc": _SHARE,
        "accuracy": _SHARE,
        "brier": _SHARE,
        "calibration_error": _SHARE,
        "calibration_in_the_large": Range(-1, 1),
        "calibration_slope": Range(-LARGEST_SLOPE, LARGEST_SLOPE),
        "num_examples": Range(1, LIMITS.examples),
        "own_loss": _LOSS,
        "own_auc": _SHARE,
        "own_pr_auc": _SHARE,
        "own_accuracy": _SHARE,
        "own_brier": _SHARE,
        "own_calibration_error": _SHARE,
    }
)
"""Every metric that a run can ask for."""


def beyond_range(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """The known metrics whose value they cannot have, each with its range; never the value, which an app chose."""
    return tuple(
        f"{name} ({allowed})" for name, allowed in RANGES.items() if name in metrics and not allowed.has(metrics[name])
    )


def reported(silo: str, metrics: Mapping[str, float], asked: Collection[str]) -> dict[str, float]:
    """A silo's metrics in the table's order; raises WireError for one that was not asked for or cannot be."""
    for name, value in metrics.items():
        if name not in asked:
            raise WireError(f"{silo} sent metric {name[:40]!a}, which the run did not ask for")
        allowed = next(allowed for known, allowed in RANGES.items() if known == name)
        if not allowed.has(value):
            raise WireError(f"{silo} sent {name} {value:g}, expected {allowed}")
    return {name: float(metrics[name]) for name in RANGES if name in metrics}
