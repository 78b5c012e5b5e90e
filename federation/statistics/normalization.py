"""Means and deviations of features over all silos, by which every silo scales its view alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.limits import LIMITS
from federation.statistics.exact_sums import Pooled
from federation.statistics.reading import read_summary
from federation.statistics.summary import Floats, Layout, Summary, merged, moments_of

KINDS = ("mean", "variance")
LARGEST_FEATURE = float(2**128)
_ROUNDING = 1e-13
"""A deviation that is a smaller part of its mean is rounding: float32 values that differ at all vary by more."""


def normalization_layout(features: tuple[str, ...]) -> Layout:
    """The layout of the statistics that normalisation takes."""
    return Layout(features, (), frozenset(KINDS))


@dataclass(frozen=True)
class Normalization:
    """What is taken from each feature, and what it is divided by, (features,) each."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, summaries: Iterable[Summary]) -> Normalization:
        """The mean and standard deviation of each feature over the silos that show it.

        A feature that no silo shows, or that does not vary, stays as it is.
        """
        found = reduce(merged, map(moments_of, summaries))
        rows, mean, square = (np.diag(values).copy() for values in (found.rows, found.mean, found.square))
        return cls._by(np.where(rows > 0, mean, 0.0), square / np.maximum(rows, 1.0))

    @classmethod
    def of_sum(cls, pooled: Pooled) -> Normalization:
        """The same by a sum over silos that each show every feature."""
        return cls._by(pooled.mean, pooled.variance)

    @classmethod
    def _by(cls, mean: Floats, variance: Floats) -> Normalization:
        deviation = np.sqrt(variance)
        varies = deviation > _ROUNDING * np.abs(mean)
        return cls(np.where(varies, mean, 0.0), np.where(varies, deviation, 1.0))

    def text(self) -> str:
        """The form in which it travels and is kept."""
        return json.dumps({"mean": self.mean.tolist(), "scale": self.scale.tolist()})

    def applied(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows as the model gets them, (rows, features); the same bits at every silo for the same values."""
        found: npt.NDArray[np.float32] = ((rows.astype(np.float64) - self.mean) / self.scale).astype(np.float32)
        return found


def read_moments(text: str, layout: Layout, rows: int) -> Summary:
    """Means and variances of so many training rows; raises WireError.

    A silo that claimed more rows than it trains on would have all others scale by its numbers.
    """
    summary = read_summary(text, layout)
    if summary.rows != rows:
        raise WireError(f"got means and variances of {summary.rows} rows, expected the {rows} that were announced")
    return summary


def read_silos_moments(text: str, layout: Layout, rows: int) -> Summary:
    """The same of a silo; raises WireError for values that no float32 feature has."""
    summary = read_moments(text, layout, rows)
    if (np.abs(summary.mean) > LARGEST_FEATURE).any() or (np.diag(summary.scatter) > rows * LARGEST_FEATURE**2).any():
        raise WireError("got a mean or a variance larger than those of float32 values")
    return summary


def normalization_digest(text: str) -> str:
    """The digest by which a normalisation is named in logs."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_normalization(text: str, features: int) -> Normalization:
    """Rebuild it from the form in which it travels; raises WireError."""
    try:
        if len(text) > LIMITS.statistics:
            raise ValueError(len(text))
        fields = json.loads(text)
        mean, scale = (np.array(fields[name], dtype=np.float64) for name in ("mean", "scale"))
        sound = mean.shape == scale.shape == (features,) and len(fields) == 2
        sound = sound and bool(np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all())
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise WireError(f"got no normalisation with a mean and a scale above zero for each of {features} features")
    return Normalization(mean, scale)
