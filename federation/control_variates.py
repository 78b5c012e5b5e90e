"""SCAFFOLD's control variates (Karimireddy et al., ICML 2020, option II): what silo and coordinator both compute.

A silo's control variate is the mean gradient of its last work: a function of the update that it released and of what
it was sent. So both sides make it from that update, the same bits, and no second vector leaves a silo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from federation.errors import WireError
from federation.identity import NAME
from federation.limits import LIMITS
from federation.wire import Weights

FOLDED = "folded"
"""The setting that says for each silo the last round its update was folded in; published with the round's model."""
LEARNING_RATE = "learning_rate"
"""The setting by which a silo announces its optimizer's learning rate."""
LARGEST_RATE = 1e6

_BLOCK = 16384
_ENTRY = re.compile(rf"({NAME.pattern}):([1-9][0-9]{{0,5}})")


def control_change(model: Weights, control: Weights, released: Weights, steps: int, learning_rate: float) -> Weights:
    """By how much a silo's control variate changes: (x - y) / (K eta) - c, float32, shape (values,).

    x is the model of the round, c the mean control variate sent with it, y what the silo released after K steps of
    plain SGD at the constant rate eta (the paper's line 12, option II, less c_i). In float64, rounded once.
    """
    out = np.empty(model.size, dtype=np.float32)
    scale = 1.0 / (steps * learning_rate)
    for start in range(0, model.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        work = np.subtract(model[part], released[part], dtype=np.float64)
        work *= scale
        work -= control[part]
        with np.errstate(over="ignore"):
            out[part] = work
    return out


def joined(first: Weights, second: Weights) -> Weights:
    """Two vectors of n values as the one of 2 n in which they travel."""
    return np.concatenate((first, second))


def parted(both: Weights, values: int) -> tuple[Weights, Weights]:
    """The two vectors of `values` values in one of twice as many; raises WireError."""
    if both.shape != (2 * values,):
        raise WireError(f"got {both.size} values, expected {2 * values}: the model's and as many beside it")
    return both[:values], both[values:]


def folded_text(rounds: Mapping[str, int]) -> str:
    """`name:round` for each silo that was folded in before, by name, joined by commas."""
    return ",".join(f"{name}:{number}" for name, number in sorted(rounds.items()))


def folded_round(text: str, silo: str) -> int:
    """The last round that a silo was folded in, 0 where in none; raises WireError for what is no such text."""
    found: dict[str, int] = {}
    for entry in text[: LIMITS.members * 100].split(",") if text else ():
        match = _ENTRY.fullmatch(entry)
        if match is None or match[1] in found:
            raise WireError(f"got {entry[:80]!r} among the silos folded in, expected a name once, a colon and a round")
        found[match[1]] = int(match[2])
    return found.get(silo, 0)
