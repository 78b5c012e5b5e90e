"""The coordinator's side of secure aggregation: masked updates add up, and shares open their sum alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from federation.errors import WireError
from federation.secure_aggregation.cohort import Cohort
from federation.secure_aggregation.fixed_point import Integers
from federation.secure_aggregation.masks import (
    SECRET_BYTES,
    add_mask,
    commitment,
    pair_key,
    public_bytes,
    self_key,
)
from federation.secure_aggregation.shamir import PRIME, combine

TRIES = 64
"""How many sets of shares are tried for one secret: with many silos and few to spare, each takes a second."""


class MaskedSum:
    """The masked updates of one cohort, added up as they come; one model of memory, however many silos.

    `sharing` are the silos that shared their secrets, and whose masks the others therefore used.
    """

    def __init__(self, cohort: Cohort, sharing: Sequence[str]) -> None:
        self._cohort, self._sharing = cohort, tuple(sharing)
        self._total: Integers = np.zeros(cohort.terms.values, dtype=np.uint32)
        self._survivors: set[str] = set()
        self._doubted: set[int] = set()
        """Holders whose shares were left out of the secret that was found last."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """The silos whose masked updates are in the sum, sorted."""
        return tuple(sorted(self._survivors))

    def add(self, silo: str, masked: Integers) -> None:
        """Add one silo's masked update; raises WireError, with nothing added, for what is none or a second one."""
        if masked.shape != self._total.shape or masked.dtype != np.uint32:
            raise WireError(f"{silo} sent {masked.size} masked values, expected {self._total.size}")
        if silo not in self._sharing or silo in self._survivors:
            raise WireError(f"{silo} sent a masked update that was not asked for")
        self._total += masked
        self._survivors.add(silo)

    def open(self, shares: Mapping[str, Mapping[str, int]]) -> Integers:
        """Take the masks off with what silos revealed, by holder and then by whose secret it is a share of.

        The sum is left masked, and WireError raised, where a secret has fewer shares than the threshold or the shares
        do not give the secret that its silo committed to. To be called once, as the sum is opened in place.
        """
        context = self._cohort.digest
        secrets = {silo: self._secret(silo, shares) for silo in self._sharing}
        for silo in self._sharing:
            if silo in self._survivors:
                add_mask(self._total, self_key(secrets[silo], context), subtract=True)
                continue
            lost = X25519PrivateKey.from_private_bytes(secrets[silo])
            for survivor in self.survivors:
                key = pair_key(lost, self._cohort.of(survivor).mask_key, context)
                # A survivor took it off where its name comes after the lost silo's; the opposite is done here.
                add_mask(self._total, key, subtract=survivor < silo)
        return self._total

    def _secret(self, silo: str, shares: Mapping[str, Mapping[str, int]]) -> bytes:
        """A survivor's seed, or a lost silo's mask key, from shares that give what it committed to."""
        threshold = self._cohort.terms.threshold
        held = {self._cohort.holder(holder): told[silo] for holder, told in sorted(shares.items()) if silo in told}
        if len(held) < threshold:
            raise WireError(f"got {len(held)} shares of {silo}'s secret, expected at least {threshold}")
        for left_out in islice(self._left_out(list(held)), TRIES):
            trusted = [holder for holder in held if holder not in left_out][:threshold]
            secret = self._committed(silo, combine({holder: held[holder] for holder in trusted}))
            if secret is not None:
                self._doubted = left_out
                return secret
        raise WireError(f"the shares of {silo}'s secret are not those of the secret that it committed to")

    def _left_out(self, holders: list[int]) -> Iterator[set[int]]:
        """Whose shares to leave out, in turn: one silo that tells a wrong share is not to keep the sum closed.

        First whose were left out of the secret before, then as many at a time as there are beyond the threshold.
        """
        spare = len(holders) - self._cohort.terms.threshold
        if len(self._doubted & set(holders)) <= spare:
            yield self._doubted
        for start in range(0, len(holders) if spare else 0, max(1, spare)):
            yield set(holders[start : start + spare])

    def _committed(self, silo: str, value: int) -> bytes | None:
        """A number as the secret that a silo committed to; None where it is another."""
        advert = self._cohort.of(silo)
        if value < 2 ** (8 * SECRET_BYTES):
            secret = value.to_bytes(SECRET_BYTES)
            if silo in self._survivors:
                return secret if commitment(secret) == advert.commitment else None
            if public_bytes(X25519PrivateKey.from_private_bytes(secret)) == advert.mask_key:
                return secret
        return None


def shares_of(fields: Mapping[str, bytes], sharing: Sequence[str]) -> dict[str, int]:
    """What one silo revealed, as numbers by the silo whose secret they are shares of; raises WireError."""
    found = {name: int.from_bytes(value) for name, value in fields.items()}
    if not set(found) <= set(sharing) or not all(value < PRIME for value in found.values()):
        raise WireError("got shares that are none of this cohort's")
    return found
