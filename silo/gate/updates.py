"""Facts about weights that a policy decides on, and clipping; pure."""

from __future__ import annotations

import math

import numpy as np

from federation.wire import Weights

_BLOCK = 8192
"""Values at a time: within the first cache, few enough for BLAS behind `dot` to start no threads, which would spin."""


def is_finite(weights: Weights) -> bool:
    """Whether no value is NaN or infinite."""
    for start in range(0, weights.size, _BLOCK):
        block = weights[start : start + _BLOCK]
        # A block whose squares add up to a number holds only numbers; where they do not, they may yet be large.
        if not math.isfinite(np.dot(block, block)) and not np.isfinite(block).all():
            return False
    return True


def update_norm(after: Weights, before: Weights) -> float:
    """The L2 norm of after - before; NaN or infinite where either has such a value."""
    total = 0.0
    scratch = np.empty(min(_BLOCK, after.size), dtype=np.float64)
    for start in range(0, after.size, _BLOCK):
        part = after[start : start + _BLOCK]
        work = scratch[: part.size]
        np.subtract(part, before[start : start + _BLOCK], out=work)
        total += float(np.dot(work, work))
    return math.sqrt(total) if total >= 0 else math.nan


def clip_update(after: Weights, before: Weights, norm: float, bound: float) -> Weights:
    """Scale the update so that its L2 norm is at most `bound`; the input is left alone."""
    factor, shrink = bound / norm, 1e-6
    while True:
        clipped = (before + (after - before) * np.float32(factor)).astype(np.float32)
        # Rounding to float32 may leave the norm above the bound, far above it where weights are large and the bound is
        # small; each step takes off twice as much as the last, so that at most twenty are needed.
        if update_norm(clipped, before) <= bound:
            return clipped
        factor *= 1 - shrink
        shrink = min(1.0, 2 * shrink)
