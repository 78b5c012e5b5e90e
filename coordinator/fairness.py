"""How evenly a model serves the silos; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HIGHER_IS_BETTER = {
    "auc": True,
    "accuracy": True,
    "loss": False,
    "brier": False,
    "calibration_error": False,
    "pr_auc": True,
}
"""The metrics by which silos are compared, the one looked at first in front.

The area under the precision-recall curve comes last: it rises with the share of positives, which silos differ in.
"""

Metrics = Mapping[str, Mapping[str, float]]


def spread(metrics: Metrics) -> dict[str, Any]:
    """Of the first metric that every silo sent: the worst silo, its value, the mean and variance over silos.

    Each silo counts the same. Empty where no metric came from every silo. The variance is in squares of the metric's
    unit (times 10,000 it is the literature's, of percentages).
    """
    for name, higher in HIGHER_IS_BETTER.items():
        values = {silo: sent[name] for silo, sent in metrics.items() if name in sent}
        if not values or len(values) != len(metrics):
            continue
        worst = (min if higher else max)(sorted(values), key=values.__getitem__)
        mean = sum(values.values()) / len(values)
        variance = sum((value - mean) ** 2 for value in values.values()) / len(values)
        return {"metric": name, "worst": worst, "value": values[worst], "mean": mean, "variance": variance}
    return {}


def better_alone(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """The silos that the federated model serves worse than a model of their own rows alone, by the first such metric.

    A silo sends what its own model reaches as `own_auc`, `own_loss` and so on, where the run asks for it.
    """
    out: dict[str, dict[str, Any]] = {}
    for silo, sent in sorted(metrics.items()):
        for name, higher in HIGHER_IS_BETTER.items():
            own, federated = sent.get(f"own_{name}"), sent.get(name)
            if own is None or federated is None:
                continue
            if (own > federated) == higher and own != federated:
                out[silo] = {"metric": name, "own": own, "federated": federated}
            break
    return out
