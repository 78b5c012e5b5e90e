"""From the weights a worker trained to what leaves the silo: clipped, with noise where the gate adds it, and packed."""

from __future__ import annotations

import numpy as np

from federation.encodings import moved, pack, unpack
from federation.run import Updates
from federation.wire import Packed, Scalar, Weights
from silo.gate.accounting import Plan
from silo.gate.silo_level import clipped, noised, noised_bit
from silo.gate.updates import clip_update, update_norm
from silo.randomness import SecureStream

FEEDBACK = frozenset({"int8", "top_k"})
"""The encodings of which the next update makes up for what this one left out."""


class Leaving:
    """One round's update on its way out. With silo_dp it is clipped to `clip_norm` before anything is decided on it.

    `residual` is what the last update left out when it was packed: error feedback (Seide et al., Interspeech 2014;
    Karimireddy et al., ICML 2019). With silo_dp it is added after the noise, as it is itself a part of what was noised
    then: what is made of released values alone costs nothing.
    """

    def __init__(
        self,
        before: Weights,
        after: Weights,
        *,
        plan: Plan | None = None,
        clip_norm: float = 0.0,
        updates: Updates | None = None,
        residual: Weights | None = None,
    ) -> None:
        self._share = None if plan is None else plan.share
        self._before, self._clip_norm, self._updates = before, clip_norm, updates
        self._residual = residual if residual is not None and residual.shape == before.shape else None
        self._unclipped = False
        self.weights = after
        """What is decided on; once it is released, what the coordinator has of it."""
        self.packed: Packed | None = None
        self.residual: Weights | None = None
        self.said: dict[str, Scalar] = {}
        """What goes with it besides the weights."""
        if after.shape != before.shape:
            return
        if self._share is not None:
            found = clipped(after, before, clip_norm)
            self.weights, self._unclipped = found.weights, found.unclipped
        else:
            self.weights = self._made_up(after)

    def release(self, norm: float, bound: float | None) -> float:
        """Clip the update, of that norm, to the policy's bound, if any; add the noise; pack it.

        A packed update is no longer than it was before. Returns the norm to be recorded: the one that was decided on;
        with silo_dp that of the update with its noise, as the other says of the rows what the noise hides.
        """
        most = norm if bound is None else bound
        if bound is not None:
            self.weights = clip_update(self.weights, self._before, norm, bound)
        if self._share is not None:
            stream = SecureStream()
            self.weights = self._made_up(noised(self.weights, self._clip_norm, self._share, stream))
            norm = most = update_norm(self.weights, self._before)
            if self._share.bit:
                self.said["unclipped"] = noised_bit(self._share, stream, unclipped=self._unclipped)
        if self._updates is not None:
            self._pack(self._updates, most)
        return norm

    def _made_up(self, weights: Weights) -> Weights:
        return weights if self._residual is None else weights + self._residual

    def _pack(self, updates: Updates, most: float) -> None:
        difference = self.weights - self._before
        factor, shrink = 1.0, 1e-6
        while True:
            self.packed = pack(updates, difference * np.float32(factor))
            sent = unpack(updates, self.packed, difference.size)
            self.weights = moved(self._before, sent)
            norm = update_norm(self.weights, self._before)
            if norm <= most:
                break
            # Rounding may lengthen an update by a hair; where the model's own float32 steps do, by more.
            factor *= min(1 - shrink, most / norm)
            shrink = min(1.0, 2 * shrink)
        if updates.encoding in FEEDBACK:
            self.residual = difference - sent
