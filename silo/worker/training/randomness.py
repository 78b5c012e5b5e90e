"""Which rows a private step takes: Poisson sampling from randomness nobody can predict."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from silo.randomness import SecureStream

_LANES = 16
"""Widths are multiples of it, as vector units take rows."""


def poisson_steps(stream: SecureStream, rows: int, sampling_rate: float, steps: int) -> npt.NDArray[np.int32]:
    """For each step, the rows it takes: each row of each step on its own with probability `sampling_rate`.

    Shape (steps, width), filled up with -1. The width is a whole number of standard deviations above the mean, so that
    few widths occur, and enough for every step: none is cut short, and the analysis of Poisson sampling holds as it is.
    All steps together are one sequence of `steps * rows` draws, of which the gaps between two successes are
    geometric.
    """
    if sampling_rate >= 1:
        return np.tile(np.arange(rows, dtype=np.int32), (steps, 1))
    total = steps * rows
    taken: list[npt.NDArray[np.int64]] = []
    position = -1
    while position < total:
        count = int((total - position) * sampling_rate * 1.05) + 64
        gaps = np.floor(np.log(stream.uniform(count)) / np.log1p(-sampling_rate))
        found = position + np.cumsum(np.minimum(gaps, total).astype(np.int64) + 1)
        taken.append(found)
        position = int(found[-1])
    flat = np.concatenate(taken)
    step, row = np.divmod(flat[flat < total], rows)
    counts = np.bincount(step, minlength=steps)
    mean, largest = rows * sampling_rate, int(counts.max())
    above = max(3, math.ceil((largest - mean) / math.sqrt(mean)))
    width = max(largest, math.ceil((mean + above * math.sqrt(mean)) / _LANES) * _LANES)
    order = np.full((steps, width), -1, dtype=np.int32)
    order[step, np.arange(row.size) - np.repeat(np.cumsum(counts) - counts, counts)] = row
    return order
