"""The signing key of a log: an Ed25519 key in a PKCS8 PEM file that only its owner may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from audit.errors import AuditKeyError
from audit.limits import LIMITS
from audit.note import verifier_key
from audit.store import create_file, sync_directory

_PRIVATE_MODES = (0o600, 0o400)


def create_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Make a new key and write it durably with mode 0600; an existing file is never overwritten."""
    key, file = Ed25519PrivateKey.generate(), Path(path)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        create_file(file, pem, mode=0o600)
        sync_directory(file.parent)
    except FileExistsError as error:
        raise AuditKeyError(f"{file} exists already: load it, or choose another name for a new key") from error
    except OSError as error:
        raise AuditKeyError(f"cannot write the key {file}: {error.strerror}") from error
    return key


def load_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """Read a key; AuditKeyError where others may read the file or it holds no Ed25519 key."""
    try:
        # A pipe into which nobody writes would keep its reader waiting for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(LIMITS.key_file + 1) if stat.S_ISREG(status.st_mode) else None
    except OSError as error:
        raise AuditKeyError(f"cannot read the key {path}: {error.strerror}") from error
    if data is None:
        raise AuditKeyError(f"cannot read the key {path}: it is no regular file")
    mode = stat.S_IMODE(status.st_mode)
    if mode not in _PRIVATE_MODES:
        raise AuditKeyError(
            f"the key {path} has mode {mode:04o}, expected 0600 or 0400: run chmod 600 {path}, "
            "and make a new key if others have had access to this one"
        )
    try:
        key = load_pem_private_key(data, password=None) if len(data) <= LIMITS.key_file else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise AuditKeyError(f"{path} holds no unencrypted PKCS8 PEM key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditKeyError(f"{path} holds something else, expected an Ed25519 private key in PKCS8 PEM")
    return key


def vkey_of(name: str, public_key: Ed25519PublicKey) -> str:
    """The verifier key line (C2SP signed-note) under which auditors know this key; `name` is the origin."""
    return str(verifier_key(name, public_key))
