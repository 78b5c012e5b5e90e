"""What a gate does to an update for silo-level privacy: it clips it, and adds its share of the noise; pure.

DP-FedAvg (McMahan et al., ICLR 2018) with the noise made at the silos. The worker is not asked: what leaves is clipped
and noised here, whatever it did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from federation.wire import Weights
from silo.gate.accounting import Share
from silo.gate.updates import clip_update, update_norm
from silo.randomness import SecureStream

_BLOCK = 1 << 18
"""Values that get their noise at a time."""


@dataclass(frozen=True)
class Clipped:
    """Weights whose update is no longer than the clip norm, and whether it was so from the beginning."""

    weights: Weights
    unclipped: bool


def clipped(after: Weights, before: Weights, clip_norm: float) -> Clipped:
    """Clip an update (L2 norm); one that is not finite is left as it is, to be refused."""
    norm = update_norm(after, before)
    if math.isfinite(norm) and norm > clip_norm:
        return Clipped(clip_update(after, before, norm, clip_norm), False)
    return Clipped(after, math.isfinite(norm))


def noised(weights: Weights, clip_norm: float, share: Share, stream: SecureStream) -> Weights:
    """Add this silo's share of the noise to each value: N(0, (share.update * clip_norm)^2), rounded to float32."""
    deviation = share.update * clip_norm
    out = np.empty(weights.size, dtype=np.float32)
    for start in range(0, out.size, _BLOCK):
        part = weights[start : start + _BLOCK]
        noise = stream.normal(part.size).astype(np.float64)
        noise *= deviation
        noise += part
        out[start : start + part.size] = noise
    return out


def noised_bit(share: Share, stream: SecureStream, *, unclipped: bool) -> float:
    """Whether the update was short enough, 1 or 0, with noise N(0, share.bit^2)."""
    return float(unclipped) + share.bit * float(stream.normal(1)[0])
