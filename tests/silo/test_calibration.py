"""Brier score, calibration error, calibration in the large and calibration slope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silo.worker.calibration import (
    LEAST_ROWS,
    MOST_BINS,
    brier,
    calibration_error,
    calibration_in_the_large,
    calibration_slope,
)

ROWS = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])), min_size=1, max_size=70)


def _column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def _drawn(rows: int, slope: float = 1.0, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of known chances, and the probabilities of a model whose logits are those of the chances / slope."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(size=rows)
    labels = generator.random(rows) < 1 / (1 + np.exp(-logit))
    return _column(*labels), _column(*(1 / (1 + np.exp(-logit / slope))))


def test_brier_and_calibration_in_the_large_by_hand() -> None:
    labels, scores = _column(1, 0, 0, 1), _column(0.75, 0.5, 0.25, 1.0)
    assert brier(labels, scores) == pytest.approx((1 / 16 + 1 / 4 + 1 / 16) / 4, abs=1e-15)
    assert calibration_in_the_large(labels, scores) == pytest.approx(2.5 / 4 - 2 / 4, abs=1e-15)
    assert calibration_in_the_large(1 - labels, 1 - scores) == pytest.approx(-0.125, abs=1e-15)
    assert brier(_column(0, 1), _column(0, 1)) == 0.0


@given(ROWS)
@settings(deadline=None, max_examples=50)
def test_the_brier_score_is_that_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    from sklearn.metrics import brier_score_loss

    labels, scores = _column(*(label for label, _ in rows)), _column(*(score for _, score in rows))
    expected = brier_score_loss(labels.ravel(), scores.ravel().astype(np.float64), labels=[0, 1])
    assert brier(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_the_calibration_error_by_hand() -> None:
    """Twenty rows are two bins: ten rows at 0.25 with 4 events, ten at 0.75 with 7."""
    labels = _column(*[1] * 4, *[0] * 6, *[1] * 7, *[0] * 3)
    scores = _column(*[0.25] * 10, *[0.75] * 10)
    assert calibration_error(labels, scores) == pytest.approx((10 * 0.15 + 10 * 0.05) / 20, abs=1e-12)
    order = np.random.default_rng(1).permutation(20)
    assert calibration_error(labels[order], scores[order]) == calibration_error(labels, scores)


def test_few_rows_are_one_bin() -> None:
    """Within a bin what is too much and what is too little cancel: nineteen rows tell no more than the mean."""
    labels, scores = _column(*[1] * 9, *[0] * 10), _column(*[0.1] * 9, *[0.9] * 10)
    expected = abs(9 / 19 - (0.9 + 9.0) / 19)
    assert calibration_error(labels, scores) == pytest.approx(expected, abs=1e-7)
    assert calibration_error(_column(1), _column(0.25)) == 0.75


def test_rows_of_equal_score_are_one_bin() -> None:
    """Thirty rows would be three bins of ten; 25 share a score, and the five that are left are too few for a bin."""
    labels, scores = _column(*[1] * 5, *[0] * 20, *[1] * 5), _column(*[0.2] * 25, *[0.5] * 5)
    assert calibration_error(labels, scores) == pytest.approx(abs(25 * 0.2 + 5 * 0.5 - 10) / 30, abs=1e-7)


@given(ROWS)
@settings(deadline=None, max_examples=50)
def test_the_calibration_error_lies_between_that_of_one_bin_and_the_mean_distance(
    rows: list[tuple[bool, float]],
) -> None:
    labels, scores = _column(*(label for label, _ in rows)), _column(*(score for _, score in rows))
    found = calibration_error(labels, scores)
    assert abs(calibration_in_the_large(labels, scores)) - 1e-12 <= found
    assert found <= np.abs(labels - scores).mean() + 1e-7


def test_a_model_that_means_what_it_says_has_the_error_of_chance_alone() -> None:
    """What docs/learning.md says of small validation sets: 0.12 for 30 rows, 0.04 for 1,000; and of the slope."""
    for rows, expected in ((30, 0.12), (1000, 0.037)):
        errors = [calibration_error(*_drawn(rows, seed=seed)) for seed in range(200)]
        assert np.mean(errors) == pytest.approx(expected, abs=0.01)
    found = [calibration_slope(*_drawn(30, seed=seed)) for seed in range(200)]
    slopes = [slope for slope in found if slope is not None]
    np.testing.assert_allclose(np.quantile(slopes, [0.05, 0.95]), [0.3, 2.2], atol=0.2)
    labels, scores = _drawn(1000, slope=0.25)
    assert calibration_error(labels, scores) > 0.1
    assert (MOST_BINS, LEAST_ROWS) == (10, 10)


@pytest.mark.parametrize("slope", [0.25, 1.0, 3.0])
def test_the_calibration_slope_is_that_of_a_logistic_regression(slope: float) -> None:
    from sklearn.linear_model import LogisticRegression

    labels, scores = _drawn(300, slope)
    wide = scores.astype(np.float64)
    model = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000).fit(np.log(wide / (1 - wide)), labels.ravel())
    found = calibration_slope(labels, scores)
    assert found == pytest.approx(float(model.coef_[0, 0]), rel=1e-4)
    assert found == pytest.approx(slope, rel=0.3)


def test_the_slope_turns_with_the_scores() -> None:
    labels, scores = _drawn(60)
    found = calibration_slope(labels, scores)
    assert found is not None
    assert calibration_slope(labels, 1 - scores) == pytest.approx(-found, rel=1e-5)
    assert calibration_slope(1 - labels, 1 - scores) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),  # separated: the steeper the better, without end
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9]),
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]),  # touching
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]),
        ([1, 1, 1], [0.2, 0.3, 0.9]),
        ([0], [0.2]),
        ([0, 1], [float("nan"), 0.5]),
    ],
)
def test_without_an_overlap_of_the_classes_there_is_no_slope(labels: list[float], scores: list[float]) -> None:
    assert calibration_slope(_column(*labels), _column(*scores)) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=60))
@settings(deadline=None, max_examples=200)
def test_with_an_overlap_there_is_one(rows: list[tuple[bool, float]]) -> None:
    """Also for probabilities of exactly 0 and 1, as float32 has them."""
    clipped = [(label, min(max(score, 1e-7), 1 - 1e-7)) for label, score in rows]
    events, others = ([score for label, score in clipped if label is which] for which in (True, False))
    found = calibration_slope(_column(*(label for label, _ in rows)), _column(*(score for _, score in rows)))
    overlap = bool(events and others) and min(events) < max(others) and min(others) < max(events)
    assert (found is not None) is overlap
    assert found is None or np.isfinite(found)


def test_what_is_not_a_number_stays_none() -> None:
    labels, scores = _column(*[0, 1] * 15), _column(*[0.5] * 29, float("nan"))
    for metric in (brier, calibration_error, calibration_in_the_large):
        assert np.isnan(metric(labels, scores)), "the gate refuses it (egress.metrics.finite)"
