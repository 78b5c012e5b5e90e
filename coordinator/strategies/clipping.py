"""The clip norm of silo-level privacy from round to round (Andrew et al., NeurIPS 2021, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from federation.errors import WireError
from federation.run import LEAST, Privacy
from federation.wire import Scalar

_BIT_LIMIT = 1e6
"""The largest magnitude of a bit with its noise; the noise has at most 1000."""


class ClipNorm:
    """Fixed, or adaptive: C <- C * exp(-rate * (b - quantile)), b being the noised share of updates not clipped.

    The share is taken as 0 to 1, which the paper leaves open: no silo moves the norm further than all of them could.
    """

    def __init__(self, privacy: Privacy | None) -> None:
        self._adaptive = None if privacy is None else privacy.adaptive
        self.norm = 0.0 if privacy is None else privacy.clip_norm

    def told(self) -> dict[str, Scalar]:
        """What silos are told of a round: nothing where the norm is fixed."""
        return {} if self._adaptive is None else {"clip_norm": self.norm}

    def published(self) -> dict[str, str]:
        """What the log says of a round, so that all silos are told the same."""
        return {} if self._adaptive is None else {"clip_norm": repr(self.norm)}

    def bit_of(self, silo: str, config: Mapping[str, Scalar]) -> float | None:
        """The noised bit of a silo's answer; None where none is asked for. Raises WireError."""
        if self._adaptive is None:
            return None
        bit = config.get("unclipped")
        if not isinstance(bit, float) or not abs(bit) <= _BIT_LIMIT:
            raise WireError(f"{silo} sent {bit!s:.20} for unclipped, expected a number")
        return bit

    def saw(self, bits: Mapping[str, float]) -> None:
        """Take the bits of a closed round, by silo."""
        if self._adaptive is None or not bits:
            return
        share = min(1.0, max(0.0, math.fsum(bits.values()) / len(bits)))
        step = math.exp(-self._adaptive.learning_rate * (share - self._adaptive.target_quantile))
        self.norm = max(LEAST, min(self._adaptive.max_clip_norm, self.norm * step))

    def restore(self, norm: float | None) -> None:
        """Go on from the norm that a checkpoint kept; raises ValueError for what is none."""
        if norm is None or self._adaptive is None:
            return
        if not LEAST <= float(norm) <= self._adaptive.max_clip_norm:
            raise ValueError(f"clip norm {norm}")
        self.norm = float(norm)
