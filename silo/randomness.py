"""Randomness nobody can predict, for what privacy rests on: which rows a step takes, and the noise that is added.

The keystream of AES-256 in counter mode under a key from the operating system, turned into numbers. A generator seeded
by the run would not do: whoever knows the seed subtracts the noise.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32
_BLOCK = 1 << 16
"""Pairs of normals made at a time: the scratch arrays stay within a core's second-level cache."""


class SecureStream:
    """A stream of random numbers; `key` (32 bytes) fixes it for a test, and is the operating system's otherwise."""

    def __init__(self, key: bytes | None = None) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES) if key is None else key), modes.CTR(bytes(16)))
        self._encryptor = cipher.encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        """`count` words of 32 random bits."""
        return np.frombuffer(self._encryptor.update(bytes(4 * count)), dtype="<u4")

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """`count` values in the open interval (0, 1), multiples of 2^-53 shifted by half of one."""
        bits = np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8") >> np.uint64(11)
        return (bits.astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int, deviation: float = 1.0) -> npt.NDArray[np.float32]:
        """`count` normal values of mean 0 as float32 (Box and Muller 1958).

        The radius takes 64 bits, so that the tail reaches 9.4 standard deviations; 32 bits would cut it at 6.7.
        """
        pairs = -(-count // 2)
        out = np.empty((2, pairs), dtype=np.float32)
        for start in range(0, pairs, _BLOCK):
            size = min(_BLOCK, pairs - start)
            words = self.words(3 * size)
            radius = words[:size].astype(np.float32)
            radius += words[size : 2 * size].astype(np.float32) * np.float32(2.0**-32)
            radius += np.float32(2.0**-33)
            radius *= np.float32(2.0**-32)
            np.minimum(radius, np.float32(1), out=radius)
            np.log(radius, out=radius)
            radius *= np.float32(-2 * deviation**2)
            np.sqrt(radius, out=radius)
            angle = words[2 * size :].astype(np.float32)
            angle *= np.float32(2 * np.pi * 2.0**-32)
            cosine, sine = out[0, start : start + size], out[1, start : start + size]
            np.cos(angle, out=cosine)
            np.sin(angle, out=sine)
            cosine *= radius
            sine *= radius
        return out.reshape(-1)[:count]
