"""A statement in a signed envelope: DSSE 1.0 (github.com/secure-systems-lab/dsse), ECDSA with SHA-256; pure."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import IdentityError, WireError
from federation.identity import fingerprint, load_certificate, public_key_pem
from federation.json_text import once

IN_TOTO = "application/vnd.in-toto+json"
"""The payload type of an in-toto statement."""


@dataclass(frozen=True)
class Sealed:
    """An envelope taken apart, nothing of it verified: the payload, its type, one signature, the signer's certificate.

    The certificate travels beside the signature, as DSSE lets an envelope carry more than it names; it says who signed
    only once it was held against a manifest.
    """

    payload: bytes
    payload_type: str
    signature: bytes
    certificate: x509.Certificate


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's PAE, `DSSEv1 <length> <type> <length> <payload>`."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> bytes:
    """The envelope as JSON, with one signature and the signer's certificate (PEM; a chain behind it is left out)."""
    signature = key.sign(pre_authentication(payload_type, payload), ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [
            {
                "keyid": fingerprint(public_key_pem(key.public_key())),
                "sig": base64.b64encode(signature).decode(),
                "cert": _pem(load_certificate(certificate)),
            }
        ],
    }
    return json.dumps(envelope, indent=1).encode() + b"\n"


def parse_envelope(data: bytes, limit: int) -> Sealed:
    """Take an envelope apart; raises WireError for anything that is not exactly one as `seal` makes it."""
    if len(data) > limit:
        raise WireError(f"got an envelope of {len(data)} bytes, expected at most {limit}")
    try:
        found = json.loads(data, object_pairs_hook=once)
        (signed,) = found["signatures"]
        if set(found) != {"payload", "payloadType", "signatures"} or set(signed) != {"keyid", "sig", "cert"}:
            raise KeyError(str(sorted(found)))
        sealed = Sealed(
            _base64(found["payload"]),
            str(found["payloadType"]),
            _base64(signed["sig"]),
            load_certificate(signed["cert"].encode()),
        )
        keyid = signed["keyid"]
        if signed["cert"] != _pem(sealed.certificate):
            raise ValueError("more than one certificate")
    except IdentityError as error:
        raise WireError(f"the envelope's certificate cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WireError("got something that is not a DSSE envelope with one signature and its certificate") from None
    expected = fingerprint(public_key_pem(sealed.certificate.public_key()))
    if keyid != expected:
        raise WireError(f"got the key id {keyid!s:.40}, expected {expected}, that of the certificate")
    return sealed


def open_envelope(sealed: Sealed, payload_type: str) -> bytes:
    """The payload, once the key of the envelope's certificate is shown to have signed it; raises IdentityError."""
    if sealed.payload_type != payload_type:
        raise IdentityError(f"got a payload of type {sealed.payload_type[:80]}, expected {payload_type}")
    key = sealed.certificate.public_key()
    public_key_pem(key)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  narrowed by public_key_pem
    try:
        key.verify(sealed.signature, pre_authentication(payload_type, sealed.payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise IdentityError("the signature of the envelope does not verify") from None
    return sealed.payload


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _base64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise binascii.Error("not in its canonical spelling")
    return data
