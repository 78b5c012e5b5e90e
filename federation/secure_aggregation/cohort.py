"""Who masks for one sum, with which keys, on which terms; and the signatures that hold all of it together.

A cohort's digest is in the derivation of every key and in every signature over survivors, so that gates which were
shown different cohorts, terms or models have nothing in common that could be opened.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import rfc8785
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate

from federation.errors import IdentityError, WireError
from federation.identity import NAME, Role, load_certificate, sign, verify
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.membership import identify
from federation.secure_aggregation.masks import require_agreeable

KEYS_DOMAIN, SURVIVORS_DOMAIN = b"secure aggregation keys", b"secure aggregation survivors"
_KEY_BYTES = 32


MOMENTS = 0
"""The round in whose place the sum is opened that a run normalises by."""


@dataclass(frozen=True)
class Place:
    """The round of a run that keys are made for; MOMENTS before the first."""

    run_digest: str
    run_id: str
    round: int


@dataclass(frozen=True)
class Terms:
    """What a cohort agrees on besides its members: the round, the model it began with, weights and threshold.

    `among` are all silos of the run: of them more than half hold a threshold's worth of shares.
    """

    place: Place
    model: str
    planned: int
    threshold: int
    values: int
    among: tuple[str, ...]

    def check(self) -> None:
        """Raise WireError where two sums of one round could be opened by silos of which none opened both.

        With 2 * threshold > silos any two sets of so many silos share one; with c of them on the coordinator's side it
        takes 2 * threshold > silos + c (Bonawitz et al., theorem 6.5).
        """
        silos = len(self.among)
        if not 2 <= self.threshold <= silos < 2 * self.threshold:
            raise WireError(
                f"got threshold {self.threshold} for {silos} silos, expected more than half of them and 2 at least"
            )


@dataclass(frozen=True)
class Advert:
    """One silo's fresh public keys for one attempt, signed with the key of its certificate.

    `mask_key` agrees on the masks, `share_key` on the encryption of shares; `commitment` is that of its own mask.
    """

    silo: str
    certificate: str
    mask_key: bytes
    share_key: bytes
    commitment: bytes
    signature: bytes

    def fields(self) -> dict[str, str]:
        """The form in which it travels."""
        keys = {name: getattr(self, name).hex() for name in ("mask_key", "share_key", "commitment", "signature")}
        return {"silo": self.silo, "certificate": self.certificate, **keys}

    @classmethod
    def parse(cls, fields: object) -> Advert:
        """Read the form in which it travels; raises WireError. Nothing is verified yet."""
        try:
            assert isinstance(fields, dict)  # noqa: S101  told apart below
            texts = {str(name): value for name, value in fields.items()}
            names = {"silo", "certificate", "mask_key", "share_key", "commitment", "signature"}
            if set(texts) != names or not all(isinstance(value, str) for value in texts.values()):
                raise ValueError(sorted(texts)[:8])
            raw = {name: bytes.fromhex(texts[name]) for name in ("mask_key", "share_key", "commitment", "signature")}
            certificate = texts["certificate"].encode()  # a lone surrogate has no UTF-8 form
        except (AssertionError, ValueError):
            raise WireError("got an advert of keys that cannot be read") from None
        if any(len(raw[name]) != _KEY_BYTES for name in ("mask_key", "share_key", "commitment")):
            raise WireError(f"got an advert with a key that has not {_KEY_BYTES} bytes")
        if not NAME.fullmatch(texts["silo"]) or len(certificate) > LIMITS.certificate:
            raise WireError("got an advert without a member's name, or with too large a certificate")
        # With such keys no other silo could go on: one silo would keep every sum of all from being opened.
        if raw["mask_key"] == raw["share_key"]:
            raise WireError("got an advert with one key twice")
        for name in ("mask_key", "share_key"):
            require_agreeable(raw[name])
        return cls(texts["silo"], texts["certificate"], **raw)


def advertise(
    silo: str,
    key: ec.EllipticCurvePrivateKey,
    certificate: Certificate,
    place: Place,
    mask_key: bytes,
    share_key: bytes,
    commitment: bytes,
) -> Advert:
    """Sign fresh public keys with a silo's identity."""
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    content = _advertised(silo, place, mask_key, share_key, commitment)
    return Advert(silo, pem, mask_key, share_key, commitment, sign(key, KEYS_DOMAIN, content))


def verify_advert(
    advert: Advert, place: Place, manifest: SignedManifest, now: datetime | None = None
) -> ec.EllipticCurvePublicKey:
    """Check that a silo of the federation signed these keys for this round; returns its key. Raises IdentityError."""
    certificate = load_certificate(advert.certificate.encode())
    peer = identify(manifest, certificate, now)
    if peer.role is not Role.SILO or peer.name != advert.silo:
        raise IdentityError(f"the keys of {advert.silo} come with the certificate of {peer.role} {peer.name}")
    content = _advertised(advert.silo, place, advert.mask_key, advert.share_key, advert.commitment)
    public = certificate.public_key()
    verify(public, KEYS_DOMAIN, content, advert.signature)
    assert isinstance(public, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by verify
    return public


def _advertised(silo: str, place: Place, mask_key: bytes, share_key: bytes, commitment: bytes) -> bytes:
    return bytes(
        rfc8785.dumps(
            {
                "silo": silo,
                "run": place.run_digest,
                "run_id": place.run_id,
                "round": place.round,
                "mask_key": mask_key.hex(),
                "share_key": share_key.hex(),
                "commitment": commitment.hex(),
            }
        )
    )


@dataclass(frozen=True)
class Cohort:
    """The silos that mask for one sum, in the order of their names, with their keys; raises WireError where made."""

    terms: Terms
    adverts: tuple[Advert, ...]
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.terms.check()
        names = [advert.silo for advert in self.adverts]
        if names != sorted(set(names)):
            raise WireError("got a cohort out of order, expected each silo once and by name")
        foreign = sorted(set(names) - set(self.terms.among))
        if foreign:
            raise WireError(f"got {foreign[0]} in the cohort, expected silos of the run")
        keys = [key for advert in self.adverts for key in (advert.mask_key, advert.share_key)]
        if len(set(keys)) != len(keys):
            raise WireError("got one key twice in the cohort, expected all of them to differ")
        object.__setattr__(self, "digest", hashlib.sha256(self._canonical()).digest())

    def _canonical(self) -> bytes:
        terms, place = self.terms, self.terms.place
        return bytes(
            rfc8785.dumps(
                {
                    "run": place.run_digest,
                    "run_id": place.run_id,
                    "round": place.round,
                    "model": terms.model,
                    "planned": terms.planned,
                    "threshold": terms.threshold,
                    "values": terms.values,
                    "among": list(terms.among),
                    "cohort": [
                        [advert.silo, advert.mask_key.hex(), advert.share_key.hex(), advert.commitment.hex()]
                        for advert in self.adverts
                    ],
                }
            )
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The silos, sorted."""
        return tuple(advert.silo for advert in self.adverts)

    def of(self, silo: str) -> Advert:
        """A silo's keys; raises WireError for one that is not of the cohort."""
        for advert in self.adverts:
            if advert.silo == silo:
                return advert
        raise WireError(f"{silo[:80]} is not of this cohort")

    def holder(self, silo: str) -> int:
        """The number under which a silo holds shares, from 1."""
        return self.names.index(silo) + 1

    def subset(self, silos: Iterable[str], minimum: int, what: str) -> tuple[str, ...]:
        """Names as a sorted tuple; raises WireError where they are fewer, repeated or not of the cohort."""
        given = list(silos)
        chosen = sorted(set(given))
        if len(chosen) != len(given) or not set(chosen) <= set(self.names):
            raise WireError(f"got {what} that are not each once of this cohort")
        if len(chosen) < minimum:
            raise WireError(f"got {len(chosen)} {what}, expected at least {minimum}")
        return tuple(chosen)

    def survivors(self, silos: Iterable[str]) -> bytes:
        """What is signed of a set of survivors of this cohort."""
        return self.digest + json.dumps(sorted(silos)).encode()

    @property
    def summed(self) -> str:
        """The digest of what is summed: the updates of a signed run's round, under whatever run id, from any model.

        Training of one round of one signed run gives the same update again, and from a model that hardly differs
        nearly the same, so two of its sums would show their difference.
        """
        return _digest({"run": self.terms.place.run_digest, "round": self.terms.place.round})

    def mark(self, silos: Iterable[str], basis: str = "") -> str:
        """The digest of what a sum reveals: what is summed, from which model, at which scale, of whom.

        `basis` is of what a silo's own part is made: from other rows the same sum would show the difference.
        """
        terms = self.terms
        content = {"summed": self.summed, "model": terms.model, "planned": terms.planned, "silos": sorted(silos)}
        return _digest({**content, "basis": basis} if basis else content)


def _digest(content: dict[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def text_of(content: Any) -> str:
    """Names, keys or shares as the text in which they travel; raises WireError where it is larger than it may be."""
    text = json.dumps(content, separators=(",", ":"))
    if len(text) > LIMITS.secure_aggregation:
        raise WireError(f"got {len(text)} bytes of secure aggregation, expected at most {LIMITS.secure_aggregation}")
    return text


def advert_of(text: str) -> Advert:
    """Read one silo's advert; raises WireError."""
    return Advert.parse(_parsed(text))


def adverts_of(text: str) -> tuple[Advert, ...]:
    """Read a cohort's adverts; raises WireError."""
    found = _parsed(text)
    if not isinstance(found, list) or len(found) > LIMITS.members:
        raise WireError(f"got no list of up to {LIMITS.members} adverts of keys")
    return tuple(Advert.parse(fields) for fields in found)


def names_of(text: str) -> tuple[str, ...]:
    """Read names of silos; raises WireError."""
    found = _parsed(text)
    if not isinstance(found, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in found):
        raise WireError("got no list of silos' names")
    return tuple(found)


def bytes_by_name(text: str) -> dict[str, bytes]:
    """Read something in base64 a silo, by name; raises WireError."""
    found = _parsed(text)
    try:
        if not isinstance(found, dict) or not all(NAME.fullmatch(name) for name in found):
            raise TypeError(type(found))
        return {name: base64.b64decode(value, validate=True) for name, value in found.items()}
    except (TypeError, ValueError, binascii.Error):
        raise WireError("got no bytes by silos' names") from None


def by_name(content: Mapping[str, bytes]) -> str:
    """Bytes by silos' names as the text in which they travel."""
    return text_of({name: base64.b64encode(value).decode() for name, value in sorted(content.items())})


def _parsed(text: str) -> Any:
    if len(text) > LIMITS.secure_aggregation:
        raise WireError(f"got {len(text)} characters, expected at most {LIMITS.secure_aggregation}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise WireError("got secure aggregation's text that is not JSON") from None
