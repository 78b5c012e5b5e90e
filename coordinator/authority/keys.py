"""Where an authority's keys lie: in a file, with or without a passphrase, or in a PKCS #11 token."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import IdentityError, UsageError
from federation.identity import load_private_key, new_key, read_private, save_private_key


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of a 0600 file; None where there is no such file to read. Raises IdentityError."""
    if path is None:
        return None
    passphrase = read_private(path).partition(b"\n")[0].strip()
    if not passphrase:
        raise IdentityError(f"{path} has no passphrase on its first line")
    return passphrase


def create_key(place: Path, reference: str | None, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key in a new 0600 file, or in the token of a `pkcs11:` URI (RFC 7512) where one is given."""
    if reference is None:
        key = new_key()
        save_private_key(place, key, passphrase)
        return key
    return _in_token(reference, create=True)


def load_key(place: Path, reference: str | None, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """The key in a file or in a token; raises IdentityError that says what is missing."""
    if reference is None:
        return load_private_key(place, passphrase)
    return _in_token(reference, create=False)


def _in_token(reference: str, *, create: bool) -> ec.EllipticCurvePrivateKey:
    try:
        from coordinator.authority.token import TokenKey  # noqa: PLC0415  an optional dependency
    except ImportError:
        raise UsageError(
            "PKCS #11 needs the package python-pkcs11", advice="run pip install '.[pkcs11]' in a checkout of Concordat"
        ) from None
    return TokenKey(reference, create=create)
