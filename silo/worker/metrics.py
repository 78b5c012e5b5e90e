"""Metrics of a binary classifier; pure. Labels are 0 and 1, scores probabilities, both of one value a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from silo.worker.calibration import brier, calibration_error, calibration_in_the_large, calibration_slope

Column = npt.NDArray[np.float32]


def auc(labels: Column, scores: Column) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Exact, by ranks (Mann and Whitney 1947). None where one class is absent.
    """
    positive = labels.ravel() > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, inverse, counts = np.unique(scores.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = last - (counts - 1) / 2
    rank_sum = float(rank[inverse][positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def average_precision(labels: Column, scores: Column) -> float | None:
    """Area under the precision-recall curve as average precision: the sum of recall gained times precision there.

    In steps, as interpolation flatters (Davis and Goadrich, ICML 2006); rows of equal score are one threshold. None
    where there is no positive.
    """
    positive = labels.ravel() > 0.5
    if not positive.any():
        return None
    _, inverse, counts = np.unique(scores.ravel(), return_inverse=True, return_counts=True)
    hits = np.bincount(inverse, weights=positive, minlength=counts.size)[::-1]
    precision = np.cumsum(hits) / np.cumsum(counts[::-1])
    return float((hits * precision).sum() / positive.sum())


def accuracy(labels: Column, scores: Column) -> float:
    """The share of rows on the right side of 0.5."""
    return float(np.mean((scores.ravel() > 0.5) == (labels.ravel() > 0.5)))


MEASURES: Mapping[str, Callable[[Column, Column], float | None]] = MappingProxyType(
    {
        "auc": auc,
        "pr_auc": average_precision,
        "accuracy": accuracy,
        "brier": brier,
        "calibration_error": calibration_error,
        "calibration_in_the_large": calibration_in_the_large,
        "calibration_slope": calibration_slope,
    }
)
"""The metrics that labels and scores alone give, by the name a run asks for; None is left out of a reply."""
