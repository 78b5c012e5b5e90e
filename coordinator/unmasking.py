"""The coordinator's side of secure aggregation: masked updates add up, and shares open their sum alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class MaskedSum:
    """The masked updates of one cohort, added up as they come; one model of memory, however many silos.

    `sharing` are the silos that shared their secrets, and whose masks the others therefore used.
    """

    def __init__(self, cohort: Cohort, sharing: Sequence[str]) -> None:
        self._cohort, self._sharing = cohort, tuple(sharing)
        self._total: Integers = np.zeros(cohort.terms.values, dtype=np.uint32)
        self._survivors: set[str] = set()

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
        """A survivor's seed, or a lost silo's mask key, from the first shares by holder that suffice."""
        threshold = self._cohort.terms.threshold
        held = {self._cohort.holder(holder): told[silo] for holder, told in sorted(shares.items()) if silo in told}
        if len(held) < threshold:
            raise WireError(f"got {len(held)} shares of {silo}'s secret, expected at least {threshold}")
        value = combine(dict(list(held.items())[:threshold]))
        advert = self._cohort.of(silo)
        if value < 2 ** (8 * SECRET_BYTES):
            secret = value.to_bytes(SECRET_BYTES)
            if silo in self._survivors:
                if commitment(secret) == advert.commitment:
                    return secret
            elif public_bytes(X25519PrivateKey.from_private_bytes(secret)) == advert.mask_key:
                return secret
        raise WireError(f"the shares of {silo}'s secret are not those of the secret that it committed to")


def shares_of(fields: Mapping[str, bytes], sharing: Sequence[str]) -> dict[str, int]:
    """What one silo revealed, as numbers by the silo whose secret they are shares of; raises WireError."""
    found = {name: int.from_bytes(value) for name, value in fields.items()}
    if not set(found) <= set(sharing) or not all(value < PRIME for value in found.values()):
        raise WireError("got shares that are none of this cohort's")
    return found
