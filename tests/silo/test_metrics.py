"""AUC, average precision and accuracy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from silo.worker.metrics import accuracy, auc, average_precision


def _column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 3 / 4),  # of four pairs one is in the wrong order
        ([0, 1], [0.2, 0.9], 1.0),
        ([1, 0], [0.2, 0.9], 0.0),
        ([0, 1], [0.5, 0.5], 1 / 2),  # a tie counts half
        ([0, 0, 1, 1], [0.5, 0.5, 0.5, 0.5], 1 / 2),
        ([0, 1, 0, 1], [0.2, 0.2, 0.1, 0.3], 7 / 8),  # one tie in four pairs
        ([1, 1, 0, 0, 0], [0.9, 0.3, 0.3, 0.3, 0.1], (3 + 2) / 6),
    ],
)
def test_auc_by_hand(labels: list[float], scores: list[float], expected: float) -> None:
    assert auc(_column(*labels), _column(*scores)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], []])
def test_auc_of_one_class_is_not_a_number_at_all(labels: list[float]) -> None:
    assert auc(_column(*labels), _column(*[0.5] * len(labels))) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=80))
@settings(deadline=None)
def test_auc_is_that_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    from sklearn.metrics import roc_auc_score

    assume(0 < sum(label for label, _ in rows) < len(rows))
    labels, scores = _column(*(label for label, _ in rows)), _column(*(score for _, score in rows))
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels.ravel(), scores.ravel()), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=2, max_size=40))
@settings(deadline=None)
def test_turning_scores_round_turns_auc_round(rows: list[tuple[bool, float]]) -> None:
    labels, scores = _column(*(label for label, _ in rows)), _column(*(score for _, score in rows))
    forward, backward = auc(labels, scores), auc(labels, -scores)
    if forward is None:
        assert backward is None
    else:
        assert backward == pytest.approx(1 - forward, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], (1 + 2 / 3) / 2),  # the second positive is third of three
        ([1, 1, 0], [0.9, 0.8, 0.1], 1.0),
        ([1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], 1 / 4),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 1 / 2),  # one threshold: the share of positives
        ([1, 0, 1], [0.7, 0.7, 0.2], (1 / 2 + 2 / 3) / 2),  # a tie of a positive and a negative
        ([1, 1], [0.1, 0.2], 1.0),
    ],
)
def test_average_precision_by_hand(labels: list[float], scores: list[float], expected: float) -> None:
    assert average_precision(_column(*labels), _column(*scores)) == pytest.approx(expected, abs=1e-15)


def test_there_is_no_average_precision_without_a_positive() -> None:
    assert average_precision(_column(0, 0), _column(0.2, 0.7)) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=80))
@settings(deadline=None)
def test_average_precision_is_that_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    from sklearn.metrics import average_precision_score

    assume(any(label for label, _ in rows))
    labels, scores = _column(*(label for label, _ in rows)), _column(*(score for _, score in rows))
    expected = average_precision_score(labels.ravel(), scores.ravel())
    assert average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_accuracy_by_hand() -> None:
    assert accuracy(_column(0, 1, 1, 0), _column(0.2, 0.7, 0.4, 0.9)) == 0.5
    assert accuracy(_column(0, 1), _column(0.5, 0.51)) == 1.0  # one half is not above one half
    assert accuracy(_column(1, 1, 1), _column(0.6, 0.6, 0.4)) == pytest.approx(2 / 3)
