"""Whether probabilities mean what they say; pure. Labels are 0 and 1, scores probabilities, both of one value a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float32]

MOST_BINS = 10
LEAST_ROWS = 10
"""The rows that a bin of the calibration error has at least, where there are so many."""
_SATURATED = 1e-7
"""Probabilities of exactly 0 or 1 have no logit; Keras' losses stop at the same distance."""
_STEPS = 100


def brier(labels: Column, scores: Column) -> float:
    """The mean squared difference between probability and outcome (Brier 1950); 0 is perfect."""
    return float(np.mean((_wide(scores) - _outcome(labels)) ** 2))


def calibration_in_the_large(labels: Column, scores: Column) -> float:
    """The mean probability minus the observed rate: above 0 where the model sees too much risk."""
    return float(np.mean(_wide(scores) - _outcome(labels)))


def calibration_error(labels: Column, scores: Column) -> float:
    """Expected calibration error: the mean distance of probability and observed rate over bins, weighted by rows.

    Bins have equal numbers of rows, which has less bias than bins of equal width (Roelofs et al., AISTATS 2022): at
    most ten, each of ten rows or more, rows of equal score together. Fewer than 20 rows are one bin.
    """
    probability = _wide(scores)
    order = np.argsort(probability, kind="stable")
    excess = (probability - _outcome(labels))[order]
    rows = excess.size
    ends = np.append(np.flatnonzero(np.diff(probability[order])) + 1, rows)
    size = rows / max(1, min(MOST_BINS, rows // LEAST_ROWS))
    total, start = 0.0, 0
    while start < rows:
        end = int(ends[min(int(np.searchsorted(ends, start + size)), ends.size - 1)])
        if rows - end < LEAST_ROWS:
            end = rows
        total += abs(float(excess[start:end].sum()))
        start = end
    return total / rows


def calibration_slope(labels: Column, scores: Column) -> float | None:
    """The slope of a logistic regression of the outcome on the logit of the probability (Cox 1958).

    Below 1 probabilities are too extreme, above 1 too timid; TRIPOD asks for it (Collins et al. 2015). None where the
    regression has no finite solution: where a class is absent, or no score lies between those of the other class.
    """
    positive = labels.ravel() > 0.5
    clipped = np.clip(_wide(scores), _SATURATED, 1 - _SATURATED)
    logit = np.log(clipped) - np.log1p(-clipped)
    events, others = logit[positive], logit[~positive]
    # Albert and Anderson 1984: maximum likelihood exists where the classes overlap, and only there.
    if not (events.size and others.size and events.min() < others.max() and others.min() < events.max()):
        return None
    middle, spread = logit.mean(), logit.std()
    fitted = _logistic(np.stack([np.ones_like(logit), (logit - middle) / spread], axis=1), positive)
    return None if fitted is None else float(fitted[1] / spread)


def _logistic(design: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64] | None:
    """The coefficients of a logistic regression, (columns,), by Newton's method; None where it does not converge."""
    found = np.zeros(design.shape[1])

    def likelihood(coefficients: npt.NDArray[np.float64]) -> float:
        linear = design @ coefficients
        return float(linear[positive].sum() - np.logaddexp(0, linear).sum())

    reached = likelihood(found)
    for _ in range(_STEPS):
        fitted = np.exp(-np.logaddexp(0, -(design @ found)))
        curvature = (design * (fitted * (1 - fitted))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, design.T @ (positive - fitted))
        except np.linalg.LinAlgError:
            return None
        if np.abs(step).max() < 1e-9 * (1 + np.abs(found).max()):
            return found
        size, rounding = 1.0, 1e-12 * abs(reached)
        while (now := likelihood(found + size * step)) < reached - rounding and size > 1e-12:
            size /= 2
        found, reached = found + size * step, now
    return None


def _wide(scores: Column) -> npt.NDArray[np.float64]:
    return scores.ravel().astype(np.float64)


def _outcome(labels: Column) -> npt.NDArray[np.float64]:
    return (labels.ravel() > 0.5).astype(np.float64)
