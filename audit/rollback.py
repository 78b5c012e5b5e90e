"""A log that is behind what its witnesses saw of it: noticed at the start, and passed over only by acknowledgement."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from audit.cosignature import cosigned_at
from audit.entry import Event, parse_time
from audit.errors import AuditError, RollbackError, VerificationError
from audit.limits import LIMITS
from audit.log import AuditLog
from audit.note import Checkpoint, VerifierKey, open_checkpoint, parse_note
from audit.statement import Publication, prove_publication
from audit.store import replace_file

ACKNOWLEDGED = "log.rollback.acknowledged"
_PENDING, _KNOWN = "rollback", "acknowledged"


@dataclass(frozen=True)
class Conflict:
    """A checkpoint under this log's own signature that the log on disk does not lead to, and why."""

    checkpoint: Checkpoint
    reason: str


def conflict(log: AuditLog, note: bytes) -> Conflict | None:
    """Whether a checkpoint that a witness has of this log is not in it; raises VerificationError for a foreign one."""
    checkpoint = open_checkpoint(note, log.verifier)
    if checkpoint.size > log.size:
        return Conflict(checkpoint, f"witnesses saw {checkpoint.size} entries of this log, it has {log.size}")
    if log.root_at(checkpoint.size) != checkpoint.root:
        return Conflict(checkpoint, f"witnesses saw another history of this log, with {checkpoint.size} entries")
    return None


def acknowledges(publication: Publication, present: Checkpoint, lost: Checkpoint, seen_at: int) -> bool:
    """Whether an entry, proved in the log's present tree, acknowledges the loss of a checkpoint seen at that time."""
    try:
        entry = prove_publication(publication, present)
    except VerificationError:
        return False
    detail, time = entry["detail"], parse_time(str(entry["time"]))
    if entry["action"] != ACKNOWLEDGED or not isinstance(detail, dict):
        return False
    size = detail.get("witnessed_size")
    if (size, detail.get("witnessed_root")) == (lost.size, lost.root.hex()):
        return True  # this very checkpoint, whatever clock its witness has
    return isinstance(size, int) and size >= lost.size and time.timestamp() >= seen_at


class RollbackGuard:
    """Refuses to let a party act on a log that was rolled back, until an operator has acknowledged it."""

    def __init__(self, log: AuditLog, actor: str) -> None:
        self._log, self._actor = log, actor
        self._pending, self._known = log.folder / _PENDING, log.folder / _KNOWN

    def acknowledgement(self) -> Publication | None:
        """The proof of the acknowledgement, for the witnesses; None where there never was one."""
        seq = _read_seq(self._known)
        if seq is None:
            return None
        try:
            return self._log.publication_of(seq)
        except LookupError:
            return None

    def check(self, note: bytes, witness: VerifierKey) -> None:
        """Compare the log with what a witness cosigned of it.

        Raises RollbackError, once it is recorded, where the log does not lead there and nobody acknowledged
        that; VerificationError where the note is not of this log or not by this witness.
        """
        found = conflict(self._log, note)
        if found is None:
            return
        seen_at = cosigned_at(parse_note(note), witness)
        known = self.acknowledgement()
        if known is not None:
            present = open_checkpoint(known.statement.checkpoint.encode(), self._log.verifier)
            if acknowledges(known, present, found.checkpoint, seen_at):
                return
        if not self._pending.exists():
            self._log.append(_detected(self._actor, self._log, found))
            replace_file(self._pending, note, mode=0o600)
        raise RollbackError(f"{found.reason}: it was restored from an older copy, or its disk was")

    def require_clear(self) -> None:
        """Raise RollbackError while a rollback was noticed and not acknowledged."""
        if self._pending.exists():
            raise RollbackError("this log is behind what its witnesses saw of it")


def acknowledge(log: AuditLog, actor: str, reason: str) -> int:
    """Record that an operator knows of the rollback; returns the entry's number. AuditError where there is none."""
    pending = log.folder / _PENDING
    try:
        with pending.open("rb") as file:
            note = file.read(LIMITS.note + 1)
    except FileNotFoundError:
        raise AuditError(f"no rollback of {log.folder} was noticed: there is nothing to acknowledge") from None
    found = open_checkpoint(note, log.verifier)
    event = Event(
        actor=actor,
        action=ACKNOWLEDGED,
        resource=log.origin,
        reason=reason,
        detail={"witnessed_size": found.size, "witnessed_root": found.root.hex(), "size": log.size},
    )
    (seq,) = log.append(event)
    replace_file(log.folder / _KNOWN, json.dumps({"seq": seq}).encode() + b"\n", mode=0o600)
    pending.unlink()
    return seq


def _detected(actor: str, log: AuditLog, found: Conflict) -> Event:
    return Event(
        actor=actor,
        action="log.rollback",
        resource=log.origin,
        decision="deny",
        rule="log.rollback",
        reason=found.reason,
        detail={
            "witnessed_size": found.checkpoint.size,
            "witnessed_root": found.checkpoint.root.hex(),
            "size": log.size,
        },
    )


def _read_seq(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            seq = json.loads(file.read(1024))["seq"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise AuditError(f"{path} is damaged: expected an object with seq") from error
    return seq if type(seq) is int else None
