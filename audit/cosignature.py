"""Witnesses' signatures on other logs' checkpoints: c2sp.org/tlog-cosignature, version 1, Ed25519."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.note import (
    Checkpoint,
    Note,
    VerifierKey,
    encode_base64,
    open_checkpoint,
    parse_note,
    parse_signature,
    verifier_key,
)

COSIGNATURE = b"\x04"  # the signature type of C2SP signed-note
_MAX_SECONDS = 253402300799  # the last of the year 9999, which every calendar can tell


@dataclass(frozen=True)
class Cosigned:
    """Which of the known witnesses cosigned a checkpoint: its size, and each witness's time in POSIX seconds."""

    size: int
    root: bytes
    witnesses: dict[str, int]

    def age(self, now: float) -> float:
        """Seconds since the witnesses cosigned, by the middle one of their clocks; infinite without a cosignature.

        The latest would be the word of any one of them, who could date it into the future.
        """
        times = sorted(self.witnesses.values())
        return max(0.0, now - times[len(times) // 2]) if times else float("inf")


@lru_cache(maxsize=4096)
def cosigner_id(key: VerifierKey) -> bytes:
    """The key id under which a log's key cosigns: as of a note, with the signature type 0x04."""
    return hashlib.sha256(key.name.encode() + b"\n" + COSIGNATURE + key.public).digest()[:4]


def cosign(text: str, name: str, key: Ed25519PrivateKey, seconds: int) -> str:
    """The signature line of a witness over a checkpoint's text, as of a POSIX time; without a line feed."""
    signer = verifier_key(name, key.public_key())
    signature = key.sign(_message(text, seconds))
    return f"— {name} {encode_base64(cosigner_id(signer) + seconds.to_bytes(8, 'big') + signature)}"


def cosigned_at(note: Note, witness: VerifierKey) -> int:
    """When a witness cosigned a note, in POSIX seconds; raises VerificationError where it did not."""
    times = []
    for name, key_id, blob in note.signatures:
        if (name, key_id) != (witness.name, cosigner_id(witness)):
            continue
        seconds = int.from_bytes(blob[:8], "big")
        try:
            if len(blob) != 72 or seconds > _MAX_SECONDS:
                raise ValueError(len(blob))
            Ed25519PublicKey.from_public_bytes(witness.public).verify(blob[8:], _message(note.text, seconds))
        except (InvalidSignature, ValueError) as error:
            raise VerificationError(f"the cosignature of {witness.name} does not verify") from error
        times.append(seconds)
    if not times:
        raise VerificationError(f"the note is not cosigned by {witness.name}")
    return max(times)


def cosigned(data: bytes, log: VerifierKey, witnesses: Iterable[VerifierKey]) -> Cosigned:
    """The valid cosignatures of other known parties on a checkpoint that its log signed; raises VerificationError."""
    checkpoint, note, found = open_checkpoint(data, log), parse_note(data), {}
    for witness in witnesses:
        if witness.public == log.public:
            continue
        try:
            found[witness.name] = cosigned_at(note, witness)
        except VerificationError:
            continue
    return Cosigned(checkpoint.size, checkpoint.root, found)


class Countersigned:
    """A note, and the lines that witnesses send for it: one of each witness, and no more than `most` in all."""

    def __init__(self, note: str, most: int = LIMITS.note_signatures) -> None:
        parsed = parse_note(note.encode())
        self._text, self._most = parsed.text, most
        self._lines = {
            signature[:2]: line for signature, line in zip(parsed.signatures, _lines(note), strict=True)
        }  # the last of each signer
        self.size = Checkpoint.parse(parsed.text).size

    @property
    def note(self) -> str:
        """The note with all of its lines."""
        return self._text + "\n" + "".join(f"{line}\n" for line in self._lines.values())

    @property
    def signers(self) -> int:
        """How many signed, the log itself included."""
        return len(self._lines)

    def add(self, line: str, witness: VerifierKey) -> None:
        """Take a line that this witness signed, in place of its older one; one too many is left out.

        Raises VerificationError for any other line, so that nobody puts a line there in another's name.
        """
        signature = parse_signature(line)
        cosigned_at(Note(self._text, (signature,)), witness)
        if signature[:2] in self._lines or len(self._lines) < self._most:
            self._lines[signature[:2]] = line


def with_signature(note: str, line: str) -> str:
    """The note with one more signature line; an older line of the same key is left out."""
    text, _, _ = note.rpartition("\n\n")
    new = parse_signature(line)
    kept = [old for old in _lines(note) if parse_signature(old)[:2] != new[:2]]
    if len(kept) >= LIMITS.note_signatures:
        raise VerificationError(f"got more signature lines than the {LIMITS.note_signatures} that a note may have")
    return text + "\n\n" + "".join(f"{one}\n" for one in [*kept, line])


def _lines(note: str) -> list[str]:
    return note.rpartition("\n\n")[2].split("\n")[:-1]


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
