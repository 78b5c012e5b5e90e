"""Metrics of a binary classifier; pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auc(labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float | None:
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


def accuracy(labels: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
    """The share of rows on the right side of 0.5."""
    return float(np.mean((scores.ravel() > 0.5) == (labels.ravel() > 0.5)))
