"""Gives a silo's statistics differential privacy for each row: one release of the Gaussian mechanism; pure.

A row is one vector: 1 for itself, its values scaled from their range to -1 to 1, their squares, their products in
pairs, and a 1 in one cell of each histogram. Its length is at most `sensitivity`; the sum of all rows gets Gaussian
noise of `noise_multiplier` times that in every coordinate (Dwork and Roth 2014, appendix A), for data sets that differ
in one row being there or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import SystemRandom

import numpy as np

from federation.statistics.document import Statistics
from federation.statistics.reading import Noisy
from federation.statistics.summary import Floats, Layout, Summary, ranges_of

Draw = Callable[[int], Floats]
"""So many independent standard normal values."""

_SYSTEM = SystemRandom()


def from_the_system(count: int) -> Floats:
    """Standard normal values from the operating system's randomness, which nobody can predict."""
    return np.array([_SYSTEM.gauss(0.0, 1.0) for _ in range(count)])


def sensitivity(layout: Layout) -> float:
    """The largest length of one row's vector."""
    width = layout.width
    parts = [1.0, *([width] if "mean" in layout.kinds else []), *([width] if "variance" in layout.kinds else [])]
    parts += [width * (width - 1) / 2] if layout.paired else []
    return math.sqrt(sum(parts) + len(layout.edges))


def noisy(
    summary: Summary, asked: Statistics, layout: Layout, noise_multiplier: float, draw: Draw = from_the_system
) -> Noisy:
    """The sums of a summary whose values were cut to their ranges, with noise."""
    deviation = noise_multiplier * sensitivity(layout)
    low, high = ranges_of(asked)
    half, centre = (high - low) / 2, (high + low) / 2
    rows = summary.rows
    mean = (summary.mean - centre) / half
    sums = rows * mean
    products = summary.scatter / np.outer(half, half) + rows * np.outer(mean, mean)
    above = np.triu_indices(layout.width, 1)
    pairs = products[above] if layout.paired else np.zeros(len(above[0]))
    counts = [one for one in summary.counts if one is not None]

    def spoilt(values: Floats) -> Floats:
        return values + deviation * draw(len(values))

    return Noisy(
        float(spoilt(np.array([float(rows)]))[0]),
        spoilt(sums),
        spoilt(np.diag(products)),
        spoilt(pairs),
        tuple(spoilt(one.astype(np.float64)) for one in counts),
        deviation,
    )
