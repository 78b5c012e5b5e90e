"""What a silo announces and reports is bounded before anything is computed from it."""

from __future__ import annotations

import json

import pytest

from coordinator.dialogue import admitted
from coordinator.executor import _mean_metrics
from federation.errors import WireError
from federation.limits import LIMITS
from federation.wire import Envelope

SHAPES = json.dumps([{"name": "kernel", "shape": [3, 2]}])


def announcement(examples: object) -> Envelope:
    return Envelope({"status": "admitted", "examples": examples, "shapes": SHAPES, "initial_digest": "sha256:0"})  # type: ignore[dict-item]


def test_an_announcement_is_taken_over() -> None:
    taken = admitted(7, announcement(140))
    assert (taken.node_id, taken.examples, [shape.dimensions for shape in taken.shapes]) == (7, 140, [(3, 2)])


@pytest.mark.parametrize("examples", [0, -1, LIMITS.examples + 1, 2**62, 1.5, True, "140"])
def test_a_number_of_rows_that_cannot_be_is_refused(examples: object) -> None:
    """A silo that announces 2^62 rows and stays away would scale everybody else's weights to nothing."""
    with pytest.raises(WireError, match=r"rows|examples"):
        admitted(7, announcement(examples))


def test_metrics_are_averaged_by_the_rows_announced_not_by_what_a_silo_reports() -> None:
    metrics = {"a": {"loss": 1.0, "num_examples": -5.0}, "b": {"loss": 4.0, "num_examples": 5.0, "auc": 0.5}}
    assert _mean_metrics(metrics, {"a": 100, "b": 50, "c": 7}) == {"loss": 2.0, "auc": 0.5}
    slopes = {silo: {**sent, "calibration_slope": 7.0, "brier": 0.2} for silo, sent in metrics.items()}
    found = _mean_metrics(slopes, {"a": 100, "b": 50, "c": 7})
    assert found.keys() == {"loss", "auc", "brier"}, "a slope of few rows may be any number, and has no mean"


def test_no_metrics_have_no_mean() -> None:
    assert _mean_metrics({"a": {}}, {"a": 100}) == {}
