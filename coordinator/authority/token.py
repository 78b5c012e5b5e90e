"""A key inside a PKCS #11 token. Needs the package python-pkcs11, so it is imported only where a key is in a token."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import pkcs11
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11.util import ec as ec_codec

from federation.errors import IdentityError, UsageError
from federation.identity import read_private

SCHEME = "pkcs11:"


class TokenKey(ec.EllipticCurvePrivateKey):
    """A P-256 key inside a PKCS #11 token: it signs there and cannot be read out.

    The URI names the token, the object, the module's path and a 0600 file with the PIN:
    `pkcs11:token=T;object=O?module-path=/path/lib.so&pin-source=file:/path/pin`.
    """

    def __init__(self, uri: str, *, create: bool = False) -> None:
        token, label, module, pin = _parse(uri)
        self._label = label
        self._session = _open(module, token, pin)
        self._public = self._make() if create else self._find_public()
        self._private = self._find_private()

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """An ECDSA signature over data, DER; SHA-256 alone."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.SHA256):
            raise IdentityError("got another hash than SHA-256 for a key in a token")
        digest = hashes.Hash(hashes.SHA256())
        digest.update(bytes(data))
        try:
            raw = self._private.sign(digest.finalize(), mechanism=pkcs11.Mechanism.ECDSA)
        except pkcs11.PKCS11Error as error:
            raise IdentityError(f"the token did not sign: {type(error).__name__}") from None
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        """256 bits."""
        return 256

    def exchange(self, *_: object) -> NoReturn:
        """Not for this key: it signs."""
        raise IdentityError("a signing key in a token agrees on no secrets")

    def private_numbers(self) -> NoReturn:
        """Not for this key: it stays in the token."""
        raise IdentityError("a key in a token cannot be read")

    def private_bytes(self, *_: object) -> NoReturn:
        """Not for this key: it stays in the token."""
        raise IdentityError("a key in a token cannot be read")

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenKey:
        return self

    def _make(self) -> ec.EllipticCurvePublicKey:
        if list(self._session.get_objects({pkcs11.Attribute.LABEL: self._label})):
            raise IdentityError(f"the token already has an object {self._label!r}", advice="choose another object name")
        parameters = self._session.create_domain_parameters(
            pkcs11.KeyType.EC,
            {pkcs11.Attribute.EC_PARAMS: ec_codec.encode_named_curve_parameters("secp256r1")},
            local=True,
        )
        template = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        parameters.generate_keypair(store=True, label=self._label, private_template=template)
        return self._find_public()

    def _find_public(self) -> ec.EllipticCurvePublicKey:
        found = self._get(pkcs11.ObjectClass.PUBLIC_KEY)
        key = serialization.load_der_public_key(ec_codec.encode_ec_public_key(found))
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise IdentityError(f"the object {self._label!r} in the token is not a P-256 key")
        return key

    def _find_private(self) -> Any:
        return self._get(pkcs11.ObjectClass.PRIVATE_KEY)

    def _get(self, kind: Any) -> Any:
        try:
            return self._session.get_key(object_class=kind, key_type=pkcs11.KeyType.EC, label=self._label)
        except pkcs11.NoSuchKey:
            raise IdentityError(f"the token has no EC key {self._label!r}") from None
        except pkcs11.MultipleObjectsReturned:
            raise IdentityError(f"the token has several EC keys {self._label!r}, expected one") from None


def _parse(uri: str) -> tuple[str, str, str, str]:
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    parts = dict(_pair(part) for part in re.split("[;&]", f"{path};{query}") if part)
    missing = [name for name in ("token", "object", "module-path", "pin-source") if not parts.get(name)]
    if not uri.startswith(SCHEME) or missing:
        raise UsageError(
            f"got a key reference without {', '.join(missing) or SCHEME}, expected "
            "pkcs11:token=…;object=…?module-path=…&pin-source=file:…"
        )
    pin = read_private(Path(parts["pin-source"].removeprefix("file:"))).strip().decode("utf-8", "replace")
    return parts["token"], parts["object"], parts["module-path"], pin


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name, unquote(value)


@lru_cache(maxsize=8)
def _open(module: str, token: str, pin: str) -> Any:
    """One session for each token: a second log-in is an error in PKCS #11."""
    try:
        library = pkcs11.lib(module)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise IdentityError(f"the PKCS #11 module {module} cannot be loaded: {error}") from None
    try:
        return library.get_token(token_label=token).open(user_pin=pin, rw=True)
    except pkcs11.NoSuchToken:
        raise IdentityError(f"the module {module} has no token {token!r}") from None
    except pkcs11.PinIncorrect:
        raise IdentityError(f"the PIN for token {token!r} is wrong") from None
    except pkcs11.PKCS11Error as error:
        raise IdentityError(f"the token {token!r} cannot be opened: {type(error).__name__}") from None
