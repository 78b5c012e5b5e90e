"""Signed notes and checkpoints: c2sp.org/signed-note and c2sp.org/tlog-checkpoint, with Ed25519."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import VerificationError
from audit.limits import LIMITS

ED25519 = b"\x01"  # the signature type of C2SP signed-note
_NAME = re.compile(rf"[!-*,-~]{{1,{LIMITS.name}}}")  # printable ASCII without space and plus
_CONTROL = re.compile("[\0-\x09\x0b-\x1f\ufffd]")  # and what decoders put for what is not UTF-8
_SIGNATURE_LINE = re.compile(rf"— ([^\s+]{{1,{LIMITS.name}}}) (\S+)")
_CHECKPOINT = re.compile(r"([^\n]+)\n(0|[1-9][0-9]{0,14})\n([A-Za-z0-9+/]{43}=)\n((?:[^\n]+\n)*)")
_VKEY = re.compile(rf"([!-*,-~]{{1,{LIMITS.name}}})\+([0-9a-f]{{8}})\+([A-Za-z0-9+/]{{44}})")

_SMALL_ORDER = frozenset(
    int.from_bytes(bytes.fromhex(point), "little")
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)
"""Keys, without the bit of their sign, for which OpenSSL takes signatures that anyone can make."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key with the name it signs under. `str()` gives its vkey, which `parse_vkey` reads."""

    name: str
    public: bytes  # 32 bytes, RFC 8032

    @property
    def key_id(self) -> bytes:
        """The first four bytes of SHA-256 over the name, a line feed, the signature type and the key."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"


@dataclass(frozen=True)
class Note:
    """A text with signatures, none of them verified: (name, key id, signature) each."""

    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: the log's origin, the number of its leaves and their Merkle root; and lines that extend it."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @staticmethod
    def parse(text: str) -> Checkpoint:
        """Read the text of a note as a checkpoint; raises VerificationError."""
        match = _CHECKPOINT.fullmatch(text)
        if match is None:
            raise VerificationError("the note is not a checkpoint: an origin, a tree size, a root hash")
        return Checkpoint(match[1], int(match[2]), decode_base64(match[3]), tuple(match[4].split("\n")[:-1]))

    @property
    def text(self) -> str:
        """The text that is signed."""
        head = (self.origin, str(self.size), encode_base64(self.root))
        return "".join(f"{line}\n" for line in (*head, *self.extensions))


def verifier_key(name: str, public_key: Ed25519PublicKey) -> VerifierKey:
    """The verifier key of a public key; VerificationError where the name is not fit for a note."""
    if not _NAME.fullmatch(name):
        raise VerificationError(
            f"got the name {name[:80]!r}, expected 1 to {LIMITS.name} printable ASCII characters "
            "without space and plus, such as hospital-a.heart/concordat/audit"
        )
    return VerifierKey(name, public_key.public_bytes_raw())


def parse_vkey(text: str) -> VerifierKey:
    """Read `<name>+<key id, 8 hex digits>+<base64 of 0x01 and the public key>`."""
    match = _VKEY.fullmatch(text)
    blob = decode_base64(match[3]) if match else b""
    if match is None or blob[:1] != ED25519:
        raise VerificationError(f"got {text[:120]!r}, expected an Ed25519 verifier key <name>+<id>+<base64>")
    key = VerifierKey(match[1], blob[1:])
    if key.key_id.hex() != match[2]:
        raise VerificationError(f"got the key id {match[2]} for {key.name}, expected {key.key_id.hex()}")
    if int.from_bytes(key.public, "little") & (2**255 - 1) in _SMALL_ORDER:
        raise VerificationError(f"the key of {key.name} is of small order, so that anyone could sign")
    return key


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """The note with one signature line; the text must end with a line feed."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise VerificationError(f"got {text[:80]!r}, expected lines that end with a line feed")
    signer = verifier_key(name, key.public_key())
    signature = base64.b64encode(signer.key_id + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def parse_note(data: bytes) -> Note:
    """Take a note apart without verifying anything."""
    if len(data) > LIMITS.note:
        raise VerificationError(f"got a note of {len(data)} bytes, expected at most {LIMITS.note}")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise VerificationError("the note is not UTF-8 text") from error
    if _CONTROL.search(whole):
        raise VerificationError("the note holds a control character")
    text, blank, tail = whole.rpartition("\n\n")
    lines = tail.split("\n")
    if not blank or lines.pop() != "" or not 0 < len(lines) <= LIMITS.note_signatures:
        raise VerificationError(f"expected a text, an empty line and 1 to {LIMITS.note_signatures} signature lines")
    return Note(text + "\n", tuple(parse_signature(line) for line in lines))


def open_note(data: bytes, key: VerifierKey) -> str:
    """The text of a note that `key` signed; signatures of other keys are ignored, as C2SP demands."""
    note = parse_note(data)
    ours = [signature for name, key_id, signature in note.signatures if (name, key_id) == (key.name, key.key_id)]
    if not ours:
        raise VerificationError(f"the note is not signed by {key.name} (key id {key.key_id.hex()})")
    for signature in ours:
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, note.text.encode())
        except (InvalidSignature, ValueError) as error:
            raise VerificationError(f"the signature of {key.name} does not verify") from error
    return note.text


def open_checkpoint(data: bytes, key: VerifierKey) -> Checkpoint:
    """The checkpoint in a note that `key` signed. The origin must be the key's name."""
    checkpoint = Checkpoint.parse(open_note(data, key))
    if checkpoint.origin != key.name:
        raise VerificationError(f"the note is not a checkpoint of {key.name}: got the origin {checkpoint.origin[:80]}")
    return checkpoint


def parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """One signature line without its line feed as name, key id and signature; raises VerificationError."""
    match = _SIGNATURE_LINE.fullmatch(line)
    blob = decode_base64(match[2]) if match else b""
    if match is None or len(blob) < 5:
        raise VerificationError(f"got the signature line {line[:120]!r}, expected — <name> <base64>")
    return match[1], blob[:4], blob[4:]


def encode_base64(data: bytes) -> str:
    """Base64 in its canonical spelling."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """The bytes of base64 in its canonical spelling; raises VerificationError."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise VerificationError(f"got {text[:60]!r}, expected base64") from error
    if base64.b64encode(data).decode() != text:
        raise VerificationError(f"got {text[:60]!r}, expected base64 in its canonical spelling")
    return data
