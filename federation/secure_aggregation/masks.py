"""Masks: keys from X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869), keystreams from AES-256 in counter mode; pure.

Every key serves one purpose in one attempt at one round's sum: the cohort's digest is in its derivation. So no
keystream is ever used twice, and no nonce has to be chosen.
"""

from __future__ import annotations

import hashlib

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federation.errors import WireError
from federation.secure_aggregation.fixed_point import Integers

SECRET_BYTES = 32
SHARE_BYTES = 66
"""A number of the field of 2^521 - 1."""
SEALED_BYTES = 2 * SHARE_BYTES + 16
"""Two shares as one silo seals them for another, with the tag of AES-GCM."""
_BLOCK = 1 << 16
_ZEROS = bytes(4 * _BLOCK)
_NONCE = bytes(12)
"""Each key seals one message, so its nonce may be a constant."""
_ANY = X25519PrivateKey.from_private_bytes(bytes(SECRET_BYTES))
"""A key that protects nothing: a public key agrees with every private one or with none."""


def derive(secret: bytes, purpose: str, context: bytes) -> bytes:
    """A key of 32 bytes for one purpose within one cohort's attempt."""
    info = b"concordat secure aggregation\0" + purpose.encode() + b"\0" + context
    return HKDF(hashes.SHA256(), SECRET_BYTES, None, info).derive(secret)


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The public key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def agreed(own: X25519PrivateKey, other: bytes) -> bytes:
    """The secret of two keys; raises WireError for a public key that gives none (RFC 7748, section 6.1)."""
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise WireError("got a public key that agrees on nothing, expected an X25519 key") from None


def require_agreeable(public: bytes) -> None:
    """Raise WireError for a public key that gives no secret with any other."""
    agreed(_ANY, public)


def pair_key(own: X25519PrivateKey, other: bytes, context: bytes) -> bytes:
    """The key of the mask that two silos share: the same from both sides."""
    return derive(agreed(own, other), "pair mask", context)


def self_key(seed: bytes, context: bytes) -> bytes:
    """The key of a silo's own mask."""
    return derive(seed, "self mask", context)


def commitment(seed: bytes) -> bytes:
    """By what the seed of a silo's own mask is known before it is opened."""
    return hashlib.sha256(b"concordat secure aggregation\0self seed\0" + seed).digest()


def add_mask(values: Integers, key: bytes, *, subtract: bool = False) -> None:
    """Add a key's keystream to values modulo 2^32, in place, or take it off."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(4 * _BLOCK + 15)
    words = np.frombuffer(buffer, dtype="<u4", count=_BLOCK)
    combine = np.subtract if subtract else np.add
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        stream.update_into(memoryview(_ZEROS)[: 4 * part.size], buffer)
        combine(part, words[: part.size], out=part)


def seal(own: X25519PrivateKey, other: bytes, sender: str, receiver: str, context: bytes, content: bytes) -> bytes:
    """Encrypt what one silo tells another through the coordinator (AES-256-GCM), bound to both and to the cohort."""
    return AESGCM(_seal_key(own, other, sender, receiver, context)).encrypt(_NONCE, content, context)


def unseal(own: X25519PrivateKey, other: bytes, sender: str, receiver: str, context: bytes, sealed: bytes) -> bytes:
    """Decrypt and authenticate; raises WireError."""
    try:
        return AESGCM(_seal_key(own, other, sender, receiver, context)).decrypt(_NONCE, sealed, context)
    except (InvalidTag, ValueError):
        raise WireError(f"what {sender} sealed for {receiver} does not open: it is not of this cohort") from None


def _seal_key(own: X25519PrivateKey, other: bytes, sender: str, receiver: str, context: bytes) -> bytes:
    return derive(agreed(own, other), f"shares\0{sender}\0{receiver}", context)
