"""Witnessing other parties' logs: what was last seen of each is kept durably, and only what extends it is cosigned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.cosignature import cosign, cosigned_at, with_signature
from audit.errors import AuditCorrupt, AuditWriteError, VerificationError, WitnessBehind, WitnessConflict
from audit.limits import LIMITS
from audit.merkle import verify_consistency
from audit.note import Checkpoint, VerifierKey, open_checkpoint, parse_note, verifier_key
from audit.rollback import acknowledges
from audit.statement import Publication, Statement
from audit.store import make_directory, replace_file

MAX_FILE_NAME = 250  # a file system takes 255, of which .tmp takes four


@dataclass(frozen=True)
class Seen:
    """The last checkpoint of a log that this witness cosigned: the note with the cosignature, and its POSIX time."""

    checkpoint: Checkpoint
    note: str
    at: int


@dataclass(frozen=True)
class Cosignature:
    """A witness's line on one checkpoint; `restarted` where it follows an acknowledged rollback."""

    origin: str
    size: int
    line: str
    restarted: bool = False


def judge(seen: Checkpoint | None, offered: Checkpoint, proofs: Mapping[int, Sequence[bytes]]) -> None:
    """Return where a checkpoint extends the one seen before.

    Raises WitnessConflict where it cannot, WitnessBehind where the proof from the size that was seen is not there.
    Every tree extends the empty one, without a proof (C2SP tlog-witness).
    """
    if seen is None or seen.size == 0:
        return
    if offered.size < seen.size:
        raise WitnessConflict(f"{offered.origin} shows {offered.size} entries, but has signed {seen.size} before")
    if offered.size == seen.size:
        if offered.root != seen.root:
            raise WitnessConflict(f"{offered.origin} has signed two histories of {seen.size} entries")
        return
    proof = proofs.get(seen.size)
    if proof is None:
        raise WitnessBehind(f"{offered.origin} gives no proof from the {seen.size} entries that were seen before")
    try:
        verify_consistency(seen.size, offered.size, seen.root, offered.root, proof)
    except VerificationError as error:
        raise WitnessConflict(f"{offered.origin}: {error}") from error


class Witness:
    """One party as a witness of others, with its store: a directory of notes, one a log."""

    def __init__(self, folder: Path, name: str, key: Ed25519PrivateKey, clock: Callable[[], datetime]) -> None:
        self._folder, self._key, self._clock = folder, key, clock
        self._verifier = verifier_key(name, key.public_key())
        self._seen: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._read()

    def seen(self, origin: str) -> Seen | None:
        """What was last cosigned of a log."""
        return self._seen.get(origin)

    @property
    def sizes(self) -> dict[str, int]:
        """The size last cosigned of each log."""
        return {origin: seen.checkpoint.size for origin, seen in self._seen.items()}

    def cosign(self, statement: Statement, log: VerifierKey, acknowledged: Publication | None = None) -> Cosignature:
        """Cosign a log's newest checkpoint once what was seen is durable.

        Raises VerificationError where the log's key did not sign it, WitnessConflict, WitnessBehind, and
        AuditWriteError where it cannot be kept. A log that was rolled back is taken up again where it holds the
        acknowledgement, made after what was seen before.
        """
        offered = open_checkpoint(statement.checkpoint.encode(), log)
        with self._lock:
            seen, restarted = self._seen.get(log.name), False
            try:
                judge(None if seen is None else seen.checkpoint, offered, statement.proofs)
            except WitnessConflict:
                if seen is None or acknowledged is None:
                    raise
                if not acknowledges(acknowledged, offered, seen.checkpoint, seen.at):
                    raise
                restarted = True
            seconds = int(self._clock().timestamp())
            line = cosign(offered.text, self._verifier.name, self._key, seconds)
            note = with_signature(_only(statement.checkpoint, log), line)
            if seen is None or seen.checkpoint != offered:
                self._keep(log.name, note)
                self._seen[log.name] = Seen(offered, note, seconds)
            return Cosignature(log.name, offered.size, line, restarted)

    def _keep(self, origin: str, note: str) -> None:
        name = quote(origin, safe="")
        if len(name) > MAX_FILE_NAME:
            raise VerificationError(f"got an origin of {len(name)} characters, expected at most {MAX_FILE_NAME}")
        try:
            make_directory(self._folder)
            replace_file(self._folder / name, note.encode(), mode=0o644)
        except OSError as error:
            raise AuditWriteError(f"cannot keep what was seen of {origin}: {error.strerror or error}") from error

    def _read(self) -> None:
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".tmp":
                continue
            with path.open("rb") as file:
                data = file.read(LIMITS.note + 1)
            try:
                seen = read_seen(data, unquote(path.name), self._verifier)
            except VerificationError as error:
                raise AuditCorrupt(f"{path} is not a checkpoint that this witness cosigned: {error}") from error
            self._seen[unquote(path.name)] = seen


def read_seen(data: bytes, origin: str, witness: VerifierKey) -> Seen:
    """A note of a witness's store, by the witness's own signature; raises VerificationError."""
    note = parse_note(data)
    at = cosigned_at(note, witness)
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != origin:
        raise VerificationError(f"got a checkpoint of {checkpoint.origin}, expected {origin}")
    return Seen(checkpoint, data.decode(), at)


def _only(note: str, log: VerifierKey) -> str:
    """The note with its log's own signature alone."""
    text, _, tail = note.rpartition("\n\n")
    lines = tail.split("\n")[:-1]
    signers = [(name, key_id) for name, key_id, _ in parse_note(note.encode()).signatures]
    own = [line for line, signer in zip(lines, signers, strict=True) if signer == (log.name, log.key_id)]
    return text + "\n\n" + "".join(f"{line}\n" for line in own)
