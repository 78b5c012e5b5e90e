"""One silo's part in one attempt to open one round's sum (Bonawitz et al., CCS 2017, figure 4); pure but for its keys.

Each step is taken once. The same question again has the same answer, another one is refused: no keystream ever hides
two vectors, and a gate never signs two sets of survivors of one cohort.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509 import Certificate

from federation.errors import ConcordatError, IdentityError, WireError
from federation.identity import sign, verify
from federation.manifest import SignedManifest
from federation.secure_aggregation.cohort import (
    SURVIVORS_DOMAIN,
    Advert,
    Cohort,
    Place,
    advertise,
    verify_advert,
)
from federation.secure_aggregation.fixed_point import Integers, encode
from federation.secure_aggregation.masks import (
    SECRET_BYTES,
    SHARE_BYTES,
    add_mask,
    commitment,
    pair_key,
    public_bytes,
    seal,
    self_key,
    unseal,
)
from federation.secure_aggregation.shamir import split
from federation.wire import Weights

T = TypeVar("T")


class StepRefused(ConcordatError):  # noqa: N818  a decision, not a fault
    """A step that would put a silo's update at risk; `rule` names what it is against."""

    def __init__(self, reason: str, *, rule: str) -> None:
        super().__init__(reason)
        self.rule = rule


@dataclass(frozen=True)
class Update:
    """What a silo masks: its change of the round's model (float32), its rows, the bound of the run."""

    change: Weights
    examples: int
    largest: float
    basis: str = ""
    """The digest of the view: signed again, a run trains anew, and of other rows to another change."""

    @property
    def size(self) -> int:
        """The number of values."""
        return int(self.change.size)

    @property
    def shrunk(self) -> bool:
        """Whether it is scaled down, as a change in it is larger than the run's bound."""
        return max(float(self.change.max()), -float(self.change.min())) > self.largest

    def encoded(self, planned: int) -> Integers:
        """The integers that are masked, at the scale of so many planned examples; the caller's own."""
        return encode(self.change, self.examples, planned, self.largest)


@dataclass(frozen=True)
class Sums:
    """Integers that a silo masks as they are, whatever the scale: sums over rows, made again from the same view."""

    integers: Integers
    basis: str
    """The digest of the view."""
    examples: int = 1
    shrunk: bool = False

    @property
    def size(self) -> int:
        """The number of values."""
        return int(self.integers.size)

    def encoded(self, planned: int) -> Integers:
        """The integers, the caller's own."""
        del planned
        return self.integers.copy()


class Member:
    """A silo in one attempt; made with fresh keys, which are gone with it."""

    def __init__(
        self, silo: str, key: ec.EllipticCurvePrivateKey, certificate: Certificate, place: Place, update: Update | Sums
    ) -> None:
        self.place, self._silo, self._key, self._update = place, silo, key, update
        self._mask_key, self._share_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._seed = secrets.token_bytes(SECRET_BYTES)
        public = public_bytes(self._mask_key), public_bytes(self._share_key)
        self.advert: Advert = advertise(silo, key, certificate, place, *public, commitment(self._seed))
        self.cohort: Cohort | None = None
        self._identities: dict[str, ec.EllipticCurvePublicKey] = {}
        self._own_shares = (0, 0)
        self._sealed: dict[str, bytes] = {}
        self._sharing: tuple[str, ...] | None = None
        self._survivors: tuple[str, ...] | None = None
        self._signature = b""
        self._opened: dict[str, int] | None = None

    @property
    def update(self) -> Update | Sums:
        """What is masked."""
        return self._update

    def share(self, cohort: Cohort, manifest: SignedManifest, minimum: int) -> dict[str, bytes]:
        """Take a cohort, and give each other silo of it its sealed shares of both secrets.

        Raises StepRefused for keys that the manifest does not certify (a coordinator in the middle), for a cohort of
        fewer silos than `minimum`, and for a second one.
        """
        if self.cohort is not None:
            if cohort.digest != self.cohort.digest:
                raise StepRefused("these keys were given to another cohort already", rule="secure.cohort")
            return self._sealed
        if len(cohort.names) < minimum:
            reason = f"the cohort has {len(cohort.names)} silos, expected at least {minimum}"
            raise StepRefused(reason, rule="secure.cohort")
        if cohort.terms.place != self.place or cohort.terms.values != self._update.size:
            raise StepRefused("the cohort is of another round or model", rule="secure.cohort")
        if self.advert not in cohort.adverts:
            raise StepRefused("the cohort has not the keys that this silo made", rule="secure.keys")
        try:
            identities = {advert.silo: verify_advert(advert, self.place, manifest) for advert in cohort.adverts}
        except IdentityError as error:
            raise StepRefused(str(error), rule="secure.keys") from None
        holders, threshold = len(cohort.names), cohort.terms.threshold
        mask_shares = split(int.from_bytes(self._mask_key.private_bytes_raw()), threshold, holders)
        seed_shares = split(int.from_bytes(self._seed), threshold, holders)
        sealed = {}
        for advert in cohort.adverts:
            holder = cohort.holder(advert.silo)
            if advert.silo == self._silo:
                self._own_shares = mask_shares[holder], seed_shares[holder]
                continue
            content = mask_shares[holder].to_bytes(SHARE_BYTES) + seed_shares[holder].to_bytes(SHARE_BYTES)
            sealed[advert.silo] = seal(
                self._share_key, advert.share_key, self._silo, advert.silo, cohort.digest, content
            )
        self.cohort, self._identities, self._sealed = cohort, identities, sealed
        return sealed

    def mask(self, sharing: tuple[str, ...], minimum: int) -> Integers:
        """The update under its own mask and one for each other silo that shared; raises StepRefused."""
        cohort = self._in_cohort()
        names = self._chosen(cohort, sharing, minimum, "silos that shared")
        self._sharing = self._once(self._sharing, names, "another set of silos that shared")
        out = self._update.encoded(cohort.terms.planned)
        add_mask(out, self_key(self._seed, cohort.digest))
        for name in names:
            if name != self._silo:
                key = pair_key(self._mask_key, cohort.of(name).mask_key, cohort.digest)
                add_mask(out, key, subtract=self._silo > name)
        return out

    def confirm(self, survivors: tuple[str, ...], minimum: int) -> bytes:
        """Sign the one set of survivors that this silo will help to open; raises StepRefused."""
        cohort = self._in_cohort()
        if self._sharing is None:
            raise StepRefused("this silo has not masked for this cohort", rule="secure.survivors")
        names = self._chosen(cohort, survivors, minimum, "survivors")
        if not set(names) <= set(self._sharing):
            raise StepRefused("a survivor is none of the silos that shared", rule="secure.survivors")
        if self._survivors is None:
            self._signature = sign(self._key, SURVIVORS_DOMAIN, cohort.survivors(names))
        self._survivors = self._once(self._survivors, names, "another set of survivors")
        return self._signature

    def confirmed(self) -> tuple[str, ...]:
        """The survivors that this silo signed; raises StepRefused where it signed none."""
        if self._survivors is None:
            raise StepRefused("this silo has signed no set of survivors", rule="secure.survivors")
        return self._survivors

    def unmask(self, signatures: Mapping[str, bytes], sealed: Mapping[str, bytes]) -> dict[str, int]:
        """The shares that open the survivors' sum: of a survivor's own mask, of a lost silo's mask key; never both.

        Takes the signatures of at least the threshold of survivors over the very set that this silo signed, and what
        the others sealed for it; raises StepRefused. What does not decrypt is left out.
        """
        cohort, survivors = self._in_cohort(), self.confirmed()
        assert self._sharing is not None  # noqa: S101  a silo signs survivors once it has masked
        if self._opened is not None:
            return self._opened
        if len(signatures) < cohort.terms.threshold:
            reason = f"got {len(signatures)} signatures over the survivors, expected at least {cohort.terms.threshold}"
            raise StepRefused(reason, rule="secure.survivors")
        for name, signature in signatures.items():
            if name not in survivors:
                raise StepRefused(f"got a signature of {name[:63]}, which is no survivor", rule="secure.survivors")
            try:
                verify(self._identities[name], SURVIVORS_DOMAIN, cohort.survivors(survivors), signature)
            except IdentityError as error:
                raise StepRefused(f"{name}: {error}", rule="secure.survivors") from None
        opened = {}
        for name in self._sharing:
            shares = self._own_shares if name == self._silo else self._shares(cohort, name, sealed.get(name))
            if shares is not None:
                opened[name] = shares[name in survivors]
        self._opened = opened
        return opened

    def _shares(self, cohort: Cohort, name: str, sealed: bytes | None) -> tuple[int, int] | None:
        """What another silo shared with this one: of its mask key and of its seed."""
        if sealed is None:
            return None
        try:
            content = unseal(self._share_key, cohort.of(name).share_key, name, self._silo, cohort.digest, sealed)
        except WireError:
            return None
        if len(content) != 2 * SHARE_BYTES:
            return None
        return int.from_bytes(content[:SHARE_BYTES]), int.from_bytes(content[SHARE_BYTES:])

    def _in_cohort(self) -> Cohort:
        if self.cohort is None:
            raise StepRefused("this silo has not taken a cohort with the keys it made last", rule="secure.state")
        return self.cohort

    def _chosen(self, cohort: Cohort, names: tuple[str, ...], minimum: int, what: str) -> tuple[str, ...]:
        try:
            chosen = cohort.subset(names, minimum, what)
        except WireError as error:
            raise StepRefused(str(error), rule="secure.cohort") from None
        if self._silo not in chosen:
            raise StepRefused(f"this silo is not among the {what}", rule="secure.cohort")
        return chosen

    @staticmethod
    def _once(before: T | None, now: T, what: str) -> T:
        if before is not None and before != now:
            raise StepRefused(f"this step was taken for {what}", rule="secure.repeated")
        return now
