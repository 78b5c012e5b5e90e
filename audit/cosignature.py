"""Witnesses' signatures on other logs' checkpoints: c2sp.org/tlog-cosignature, version 1, Ed25519."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.note import Note, VerifierKey, encode_base64, open_checkpoint, parse_note, verifier_key

COSIGNATURE = b"\x04"  # the signature type of C2SP signed-note
_MAX_SECONDS = 2**63 - 1


@dataclass(frozen=True)
class Cosigned:
    """Which of the known witnesses cosigned a checkpoint: its size, and each witness's time in POSIX seconds."""

    size: int
    root: bytes
    witnesses: dict[str, int]

    def age(self, now: float) -> float:
        """Seconds since the latest cosignature; infinite without one."""
        return now - max(self.witnesses.values()) if self.witnesses else float("inf")


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


def with_signature(note: str, line: str) -> str:
    """The note with one more signature line; an older line of the same key is left out."""
    text, _, tail = note.rpartition("\n\n")
    (new,) = parse_note(f"x\n\n{line}\n".encode()).signatures
    kept = [old for old in tail.split("\n")[:-1] if _signer(old) != new[:2]]
    if len(kept) >= LIMITS.note_signatures:
        raise VerificationError(f"got more signature lines than the {LIMITS.note_signatures} that a note may have")
    return text + "\n\n" + "".join(f"{one}\n" for one in [*kept, line])


def _signer(line: str) -> tuple[str, bytes]:
    (signature,) = parse_note(f"x\n\n{line}\n".encode()).signatures
    return signature[:2]


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
