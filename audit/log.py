"""The writer of a party's transparency log: what it returns from is durable, signed and verifiable."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import SALT_BYTES, Event, commit, encode_entry, parse_time
from audit.errors import AuditTampered, AuditWriteError
from audit.merkle import Frontier, leaf_hash
from audit.note import Checkpoint, VerifierKey, sign_note, verifier_key
from audit.recover import Recovered, create, payload_path, read_back, segment_path
from audit.store import AppendFile, DirectoryLock, create_file, make_directory, replace_file, sync_directory


def utc_now() -> datetime:
    """The time of the system clock."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class _Batch:
    first: int
    lines: list[bytes]
    payloads: dict[int, bytes]
    hashes: list[bytes]
    tree: Frontier
    last_time: datetime | None


class AuditLog:
    """An append-only log in a directory, with one writer at a time. Use `open`; several threads may append.

    No record, no action: do what an event permits only after `append` has returned. Where it raises
    AuditWriteError the log refuses everything until it is opened again, which sorts out what was left half
    done. An entry of a failed append that had reached the disk whole is kept and signed then: it says that
    something was decided, not that it was done.
    """

    def __init__(
        self,
        folder: Path,
        lock: DirectoryLock,
        key: Ed25519PrivateKey,
        verifier: VerifierKey,
        clock: Callable[[], datetime],
        found: Recovered,
    ) -> None:
        self._folder, self._dir_lock, self._key, self._verifier = folder, lock, key, verifier
        self._clock, self._tree = clock, found.tree
        self._last_time = parse_time(found.last_time) if found.last_time else None
        self._mutex, self._pid = threading.Lock(), os.getpid()
        self._refusal: str | None = None  # why nothing more can be appended
        self._checkpoint = found.checkpoint
        self._entries = AppendFile(segment_path(folder, found.segment, "jsonl"))
        self._hashes = AppendFile(segment_path(folder, found.segment, "hashes"))

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        origin: str,
        key: Ed25519PrivateKey,
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """Open the log in `directory`, created if empty, for writing, and verify all that was signed.

        A torn tail after the last checkpoint is cut and complete entries there are signed; either is itself
        recorded, as "log.recovered". Raises AuditLocked where another process writes, AuditCorrupt where the
        log is not what was signed, AuditWriteError where the directory cannot be written.
        """
        folder, verifier = Path(directory), verifier_key(origin, key.public_key())
        with contextlib.ExitStack() as undo:
            try:
                make_directory(folder)
                lock = DirectoryLock(folder)
                undo.callback(lock.release)
                exists = (folder / "checkpoint").exists()
                found = read_back(folder, verifier) if exists else create(folder, verifier)
                log = cls(folder, lock, key, verifier, clock, found)
                undo.pop_all()
                undo.callback(log.close)
                if not exists:
                    log._sign(found.tree)
            except OSError as error:
                raise AuditWriteError(f"cannot open the log in {folder}: {error.strerror or error}") from error
            if not found.clean:  # until this is written, the adopted entries stay unsigned
                log.append(_recovery_event(origin, found))
            undo.pop_all()
        return log

    @property
    def origin(self) -> str:
        """The name under which the log signs."""
        return self._verifier.name

    @property
    def vkey(self) -> str:
        """The verifier key to hand to auditors."""
        return str(self._verifier)

    @property
    def size(self) -> int:
        """The number of entries, all of them signed."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """The Merkle root over all entries."""
        return self._tree.root()

    @property
    def checkpoint(self) -> str:
        """The latest signed checkpoint."""
        return self._checkpoint

    def append(self, *events: Event) -> list[int]:
        """Record the events durably, in order and all under one checkpoint, and return their numbers."""
        with self._mutex:
            self._check_usable()
            batch = self._encode(events)
            if not batch.lines:
                return []
            # Set first and cleared last, so that whatever interrupts us in between leaves the log closed.
            self._refusal = "an append was interrupted"
            try:
                self._write(batch)
            except AuditTampered as error:
                self._refusal = str(error)
                raise
            except OSError as error:
                self._refusal = f"an append failed: {error.strerror or error}"
                raise AuditWriteError(
                    f"cannot record in {self._folder}: {error.strerror or error}; mend it and open it again"
                ) from error
            self._refusal = None
            return list(range(batch.first, batch.tree.size))

    def close(self) -> None:
        """Let go of the files and of the lock; a second call does nothing."""
        with self._mutex:
            if self._refusal == "it is closed":
                return
            self._refusal = "it is closed"
            with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
                stack.callback(self._dir_lock.release)
                stack.callback(self._hashes.close)
                stack.callback(self._entries.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_usable(self) -> None:
        if self._refusal is not None:
            raise AuditWriteError(f"the log in {self._folder} refuses to append: {self._refusal}; open it again")
        if self._pid != os.getpid():
            raise AuditWriteError(f"the log in {self._folder} belongs to process {self._pid}, which forked this one")

    def _encode(self, events: Sequence[Event]) -> _Batch:
        batch = _Batch(self._tree.size, [], {}, [], self._tree.copy(), None)
        last = self._last_time
        for event in events:
            seq, time, commitment = batch.tree.size, self._clock(), None
            if event.canonical_payload is not None:
                salt = secrets.token_bytes(SALT_BYTES)
                commitment, batch.payloads[seq] = commit(event.canonical_payload, salt)
            went_back = 0
            if last is not None and time.tzinfo is not None:
                went_back = max(0, (last - time) // timedelta(microseconds=1))
            line = encode_entry(event, seq=seq, time=time, commitment=commitment, clock_went_back_us=went_back)
            last = time
            batch.lines.append(line)
            batch.hashes.append(leaf_hash(line[:-1]))
            batch.tree.append(batch.hashes[-1])
        return _Batch(batch.first, batch.lines, batch.payloads, batch.hashes, batch.tree, last)

    def _write(self, batch: _Batch) -> None:
        self._check_files()
        for seq, data in batch.payloads.items():
            create_file(payload_path(self._folder, seq), data, mode=0o600)
        if batch.payloads:
            sync_directory(self._folder / "payloads")
        self._entries.append(b"".join(batch.lines))
        self._hashes.append(b"".join(batch.hashes))
        self._entries.sync()
        self._hashes.sync()
        self._check_files()  # so that nothing is acknowledged that went into a file without a name
        self._sign(batch.tree)
        self._tree, self._last_time = batch.tree, batch.last_time

    def _check_files(self) -> None:
        self._entries.check()
        self._hashes.check()

    def _sign(self, tree: Frontier) -> None:
        text = Checkpoint(self.origin, tree.size, tree.root()).text
        note = sign_note(text, self.origin, self._key)
        replace_file(self._folder / "checkpoint", note.encode(), mode=0o644)
        self._checkpoint = note


def _recovery_event(origin: str, found: Recovered) -> Event:
    return Event(
        actor=origin,
        action="log.recovered",
        resource=f"segments/{found.segment:012d}.jsonl",
        reason="the last writer stopped in the middle of an append",
        detail={
            "bytes_removed": found.bytes_removed,
            "entries_adopted": found.entries_adopted,
            "payloads_removed": found.payloads_removed,
        },
    )
