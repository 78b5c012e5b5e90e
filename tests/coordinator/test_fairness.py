from __future__ import annotations

import pytest

from coordinator.fairness import HIGHER_IS_BETTER, better_alone, spread
from federation.run import OWN_METRICS


def test_the_worst_silo_the_mean_and_the_variance_by_hand():
    """0.9, 0.6 and 0.6: mean 0.7, variance (0.04 + 0.01 + 0.01) / 3; of two worst the first by name."""
    metrics = {"c": {"auc": 0.6}, "a": {"auc": 0.9, "loss": 5}, "b": {"auc": 0.6}}
    found = spread(metrics)
    assert (found["metric"], found["worst"], found["value"]) == ("auc", "b", 0.6)
    assert found["mean"] == pytest.approx(0.7)
    assert found["variance"] == pytest.approx(0.02)


def test_a_metric_that_a_silo_did_not_send_is_passed_over():
    metrics = {"a": {"auc": 0.9, "loss": 0.2}, "b": {"loss": 0.7}}
    assert (spread(metrics)["metric"], spread(metrics)["worst"]) == ("loss", "b")


@pytest.mark.parametrize("metrics", [{}, {"a": {}}, {"a": {"auc": 0.5}, "b": {"loss": 0.1}}])
def test_without_a_common_metric_there_is_no_spread(metrics: dict[str, dict[str, float]]):
    assert spread(metrics) == {}


def test_of_errors_the_largest_is_the_worst_and_precision_recall_comes_last():
    """Silos differ in their share of positives, and the area under the precision-recall curve with it."""
    metrics = {
        "a": {"pr_auc": 0.3, "brier": 0.1, "calibration_error": 0.05},
        "b": {"pr_auc": 0.9, "brier": 0.2, "calibration_error": 0.01},
    }
    assert (spread(metrics)["metric"], spread(metrics)["worst"]) == ("brier", "b")
    one = {silo: {"calibration_error": sent["calibration_error"]} for silo, sent in metrics.items()}
    assert (spread(one)["worst"], spread(one)["value"]) == ("a", 0.05)
    last = {silo: {"pr_auc": sent["pr_auc"], "calibration_slope": 1.0} for silo, sent in metrics.items()}
    assert (spread(last)["metric"], spread(last)["worst"]) == ("pr_auc", "a")
    assert spread({"a": {"calibration_slope": 3.0, "calibration_in_the_large": -0.3}}) == {}


@pytest.mark.parametrize(
    ("metric", "own", "named"),
    [("brier", 0.1, True), ("brier", 0.3, False), ("pr_auc", 0.3, True), ("calibration_error", 0.3, False)],
)
def test_an_own_model_is_better_with_less_error_or_more_precision(metric: str, own: float, named: bool):
    assert ("a" in better_alone({"a": {metric: 0.2, f"own_{metric}": own}})) is named


def test_every_metric_of_an_own_model_can_be_compared():
    assert {f"own_{name}" for name in HIGHER_IS_BETTER} == set(OWN_METRICS)


def test_a_silo_whose_own_model_is_better_is_named():
    metrics = {
        "a": {"auc": 0.8, "own_auc": 0.9, "loss": 0.1, "own_loss": 0.5},
        "b": {"auc": 0.8, "own_auc": 0.7},
        "c": {"loss": 0.3, "own_loss": 0.2},
        "d": {"loss": 0.3, "own_loss": 0.3},
        "e": {"auc": 0.8},
        "f": {"own_auc": 0.9},
    }
    assert better_alone(metrics) == {
        "a": {"metric": "auc", "own": 0.9, "federated": 0.8},
        "c": {"metric": "loss", "own": 0.2, "federated": 0.3},
    }
