"""Pseudonyms and other values that depend on a key which stays at the silo."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policies.files import open_regular
from silo.worker.errors import DataError

KEY_BYTES = (32, 4096)
"""Shortest and longest key for pseudonyms."""
PSEUDONYM_BYTES = 3
"""Three bytes make a whole number that float32 holds exactly."""
NO_KEY = "the policy asks for pseudonyms and this worker has no key; set pseudonym_key"


def pseudonym(text: str, column: str, start: hmac.HMAC) -> float:
    """A value's pseudonym: the first three bytes of HMAC-SHA256 over column, NUL and value, as a whole number."""
    return float(int.from_bytes(_digest(start, column.encode() + b"\0" + text.encode())[:PSEUDONYM_BYTES]))


def shift(identity: str, days: int, start: hmac.HMAC) -> int:
    """By how many days, from -days to days, the dates of a row key are moved."""
    return int.from_bytes(_digest(start, b"\0date shift\0" + identity.encode())[:8]) % (2 * days + 1) - days


def _digest(start: hmac.HMAC, content: bytes) -> bytes:
    code = start.copy()
    code.update(content)
    return code.digest()


@contextmanager
def keyed(path: Path) -> Iterator[hmac.HMAC]:
    """HMAC-SHA256 under the key of a file; the key is overwritten in memory afterwards. Raises DataError."""
    shortest, longest = KEY_BYTES
    key = bytearray()
    try:
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise DataError("the key for pseudonyms may be read by others; set its mode to 0600")
            if not shortest <= found.st_size <= longest:
                raise DataError(f"the key for pseudonyms has {found.st_size} bytes, expected {shortest} to {longest}")
            key = bytearray(found.st_size)
            # Past the file's buffer, in which the key would stay.
            if os.readv(file.fileno(), [key]) != found.st_size:
                raise DataError("the key for pseudonyms changed while it was read")
    except OSError as error:
        raise DataError(f"the key for pseudonyms cannot be read: {error.strerror}") from None
    try:
        yield hmac.new(key, digestmod="sha256")
    finally:
        key[:] = bytes(len(key))
