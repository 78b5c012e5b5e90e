"""The writer of a party's transparency log: what it returns from is durable, signed and verifiable."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.batch import Batch
from audit.entry import Event, parse_time
from audit.errors import AuditCorrupt, AuditError, AuditEventError, AuditTampered, AuditWriteError
from audit.hashtree import HashTree
from audit.limits import LIMITS
from audit.merkle import Frontier
from audit.note import Checkpoint, VerifierKey, sign_note, verifier_key
from audit.recover import Recovered, create, payload_path, read_back
from audit.reserve import OUT_OF_SPACE, Reserve
from audit.segments import (
    LiveSegment,
    Rotation,
    Sealed,
    StoredHashes,
    create_segment,
    remove_segment,
    seal_of,
    segment_path,
)
from audit.statement import Publication, Statement
from audit.store import DirectoryLock, create_file, make_directory, replace_file, sync_directory
from audit.verify import check_entry

GROUP_EVENTS = 1024
"""Appends that wait are written together until there are this many events."""
GATHER_SECONDS = 0.005
"""The longest that a leader waits for others to join its group."""
_INTERRUPTED, _CLOSED = "an append was interrupted", "it is closed"


def utc_now() -> datetime:
    """The time of the system clock."""
    return datetime.now(UTC)


class _Request:
    """One caller's events, and what became of them; `wake` is held until it is done, or its turn to lead."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.numbers: list[int] = []
        self.lines: list[bytes] = []
        self.error: AuditError | None = None
        self.recorded = self.done = self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()


@dataclass(frozen=True)
class Health:
    """A log's state: entries, seconds since the last one, why it refuses or None, whether the reserve is held."""

    size: int
    idle_seconds: float
    refusal: str | None
    reserve: bool


class AuditLog:
    """An append-only log in a directory, with one writer at a time. Use `open`; several threads may append.

    No record, no action: do what an event permits only after `append` has returned. Where it raises
    AuditWriteError the log refuses everything until it is opened again, which sorts out what was left half
    done. An entry of a failed append that had reached the disk whole is kept and signed then: it says that
    something was decided, not that it was done. Appends that wait for one another are written together.
    """

    def __init__(
        self,
        folder: Path,
        lock: DirectoryLock,
        key: Ed25519PrivateKey,
        verifier: VerifierKey,
        clock: Callable[[], datetime],
        rotation: Rotation,
        found: Recovered,
    ) -> None:
        self._folder, self._dir_lock, self._key, self._verifier = folder, lock, key, verifier
        self._clock, self._rotation = clock, rotation
        self._last_time = parse_time(found.last_time) if found.last_time else None
        self._mutex, self._pid = threading.Lock(), os.getpid()
        self._queue, self._led = threading.Lock(), False  # whether some thread writes for those that wait
        self._waiting: deque[_Request] = deque()
        self._group: list[_Request] = []  # those that the leader took from the queue, and which wait for its write
        self._gathering: _Request | None = None  # the leader that waits for others to join its group
        self._last_group, self._last_seconds, self._last_done = 1, 0.0, float("-inf")
        self._refusal: str | None = None  # why nothing more can be appended
        self._checkpoint, self._signed = found.checkpoint, found.tree.size - found.entries_adopted
        self._stored = StoredHashes(folder, found.starts)
        self._tree = HashTree(self._stored)
        self._read_tree(found)
        self._live = LiveSegment(folder, found.segment, _first_time(folder, found.segment))
        self._seal: Sealed | None = None  # of the segment before the live one, until an entry says it
        if found.segment == found.tree.size > 0:
            before = max(start for start in found.starts if start < found.segment)
            self._seal = seal_of(folder, before, found.segment)
        self._reserve = Reserve(folder)
        self._appended = time.monotonic()

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        origin: str,
        key: Ed25519PrivateKey,
        clock: Callable[[], datetime] = utc_now,
        rotation: Rotation | None = None,
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
                log = cls(folder, lock, key, verifier, clock, rotation or Rotation(), found)
                undo.pop_all()
                undo.callback(log.close)
                if not exists:
                    log._sign(log._tree)
                log._reserve.hold()
            except OSError as error:
                raise AuditWriteError(f"cannot open the log in {folder}: {error.strerror or error}") from error
            if not found.clean:  # until this is written, the adopted entries stay unsigned
                log.append(_recovery_event(origin, found))
            undo.pop_all()
        return log

    @property
    def folder(self) -> Path:
        """The log's directory."""
        return self._folder

    @property
    def origin(self) -> str:
        """The name under which the log signs."""
        return self._verifier.name

    @property
    def verifier(self) -> VerifierKey:
        """The verifier key."""
        return self._verifier

    @property
    def vkey(self) -> str:
        """The verifier key to hand to auditors."""
        return str(self._verifier)

    @property
    def size(self) -> int:
        """The number of entries, all of them signed."""
        return self._signed

    @property
    def root(self) -> bytes:
        """The Merkle root over all entries."""
        return self._tree.root_at(self._signed)

    @property
    def checkpoint(self) -> str:
        """The latest signed checkpoint."""
        return self._checkpoint

    @property
    def health(self) -> Health:
        """What an operator has to know of the log."""
        return Health(self.size, time.monotonic() - self._appended, self._refusal, self._reserve.held)

    def append(self, *events: Event) -> list[int]:
        """Record the events durably, in order and all under one checkpoint, and return their numbers."""
        return self._submit(events).numbers

    def publish(self, event: Event, sizes: Iterable[int] = ()) -> Publication:
        """Record one event and return the proof that it is in the log, with what `statement` gives."""
        request = self._submit([event])
        with self._mutex:
            path = self._tree.inclusion(request.numbers[0], self._signed)
            return Publication(request.lines[0][:-1], request.numbers[0], tuple(path), self._state(sizes))

    def statement(self, sizes: Iterable[int] = ()) -> Statement:
        """The latest checkpoint, with proofs that it extends the trees of those sizes; sizes beyond it have none."""
        with self._mutex:
            return self._state(sizes)

    def root_at(self, size: int) -> bytes:
        """The root over the first `size` entries; ValueError where there are fewer."""
        with self._mutex:
            return self._tree.root_at(size)

    def publication_of(self, seq: int) -> Publication:
        """The proof that an entry is in the log; LookupError where there is none, or where its segment was purged."""
        with self._mutex:
            line = self._line(seq)
            return Publication(line, seq, tuple(self._tree.inclusion(seq, self._signed)), self._state(()))

    def close(self) -> None:
        """Let go of the files and of the lock; a second call does nothing."""
        with self._mutex:
            if self._refusal == _CLOSED:
                return
            self._refusal = _CLOSED
            with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
                stack.callback(self._dir_lock.release)
                stack.callback(self._live.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- appending

    def _submit(self, events: Sequence[Event]) -> _Request:
        """Have the events written: one thread leads and writes for all that wait, then the first of those leads."""
        request = _Request(events)
        try:
            self._enqueue(request)
            if not request.leads:
                request.wake.acquire()
            if request.leads:
                self._gather(request)
                with self._mutex:
                    while not request.done:
                        self._commit(self._next_group())
        finally:
            self._hand_over(request)
        if not request.recorded:
            error = request.error or self._interrupted()
            raise type(error)(*error.args) from error
        return request

    def _enqueue(self, request: _Request) -> None:
        with self._queue:
            self._waiting.append(request)
            request.leads, self._led = not self._led, True
            if self._gathering is not None and len(self._waiting) >= self._last_group:
                self._gathering.wake.release()
                self._gathering = None

    def _gather(self, request: _Request) -> None:
        """Let those that the last group was written for join the next one, where they come back at once.

        Else the first of them would write alone, and all others wait for two writes. It waits no longer than the last
        write took, and for nobody where that is longer ago.
        """
        patience = min(self._last_seconds, GATHER_SECONDS)
        with self._queue:
            if len(self._waiting) >= self._last_group or time.monotonic() - self._last_done > patience:
                return
            self._gathering = request
        try:
            request.wake.acquire(timeout=patience)
        finally:
            with self._queue:
                self._gathering = None

    def _hand_over(self, request: _Request) -> None:
        with self._queue:
            if request in self._waiting:  # interrupted before its turn
                self._waiting.remove(request)
            if request.leads:
                self._settle()
                self._led = bool(self._waiting)
                if self._led:
                    self._waiting[0].leads = True
                    self._waiting[0].wake.release()

    def _next_group(self) -> list[_Request]:
        count = 0
        with self._queue:
            while self._waiting and count < GROUP_EVENTS:
                self._group.append(self._waiting[0])
                count += len(self._waiting.popleft().events)
        return self._group

    def _settle(self) -> None:
        """Wake all of the group. One whose write did not come to its end is not recorded, whatever interrupted it."""
        while self._group:
            request = self._group[-1]
            request.done = True
            if not request.leads and request.wake.locked():  # not where this was interrupted and is done once more
                request.wake.release()
            self._group.pop()

    def _commit(self, group: list[_Request]) -> None:
        """Write one group; each request is done when this returns, in whatever way, and recorded only by a whole write.

        Anything but an AuditError is the leader's own and goes on to its caller; the others learn that they were
        interrupted.
        """
        began = time.monotonic()
        try:
            self._check_usable()
            times = [[self._clock() for _ in request.events] for request in group]
            self._refusal = (
                _INTERRUPTED  # cleared last, so that whatever interrupts us in between leaves the log closed
            )
            batch = Batch(self._tree, self._last_time)
            self._rotate(batch, next((time for each in times for time in each), None))
            for request, each in zip(group, times, strict=True):
                self._encode(batch, request, each)
            if any(request.numbers for request in group):
                self._write_or_refuse(batch, [event for request in group for event in request.events])
            for request in group:
                request.recorded = request.error is None
            self._refusal = None
        except AuditError as error:
            for request in group:
                request.error = request.error or error
        finally:
            self._last_group, self._last_done = len(group), time.monotonic()
            self._last_seconds = self._last_done - began
            self._settle()

    def _interrupted(self) -> AuditWriteError:
        return AuditWriteError(f"cannot record in {self._folder}: {_INTERRUPTED} that this one was to be written with")

    def _encode(self, batch: Batch, request: _Request, times: Sequence[datetime]) -> None:
        start = len(batch.lines)
        try:
            request.numbers = batch.add(request.events, times)
            request.lines = batch.lines[start:]
        except AuditEventError as error:  # of this caller alone
            request.error = error

    def _check_usable(self) -> None:
        if self._refusal is not None:
            raise AuditWriteError(f"the log in {self._folder} refuses to append: {self._refusal}; open it again")
        if self._pid != os.getpid():
            raise AuditWriteError(f"the log in {self._folder} belongs to process {self._pid}, which forked this one")

    def _write_or_refuse(self, batch: Batch, events: Sequence[Event]) -> None:
        try:
            self._write(batch)
        except AuditTampered as error:
            self._refusal = str(error)
            raise
        except OSError as error:
            self._refusal = f"an append failed: {error.strerror or error}"
            if error.errno in OUT_OF_SPACE:
                self._record_full(batch, events)
            raise AuditWriteError(
                f"cannot record in {self._folder}: {error.strerror or error}; mend it and open it again"
            ) from error

    def _write(self, batch: Batch) -> None:
        self._live.check()
        for seq, data in batch.payloads.items():
            create_file(payload_path(self._folder, seq), data, mode=0o600)
        if batch.payloads:
            sync_directory(self._folder / "payloads")
        self._live.append(b"".join(batch.lines), b"".join(batch.hashes), batch.first_time)
        # From here on the entries are in the log, signed or not: opened again, it would keep them.
        for item in batch.hashes:
            self._tree.append(item)
        self._last_time, self._seal, self._appended = batch.last_time, None, time.monotonic()
        self._sign(self._tree)

    def _sign(self, tree: Frontier) -> None:
        note = sign_note(Checkpoint(self.origin, tree.size, tree.root()).text, self.origin, self._key)
        replace_file(self._folder / "checkpoint", note.encode(), mode=0o644)
        self._checkpoint, self._signed = note, tree.size

    def _record_full(self, lost: Batch, events: Sequence[Event]) -> None:
        """Give up the reserve for one last entry: that the disk is full and what was refused for it."""
        with contextlib.suppress(OSError, AuditError):
            self._reserve.release()
            self._live.cut_back()
            for seq in lost.payloads:
                if seq >= self._tree.size:
                    payload_path(self._folder, seq).unlink(missing_ok=True)
            batch = Batch(self._tree, self._last_time)
            batch.add([_full_event(self.origin, events)], [self._clock()])
            self._write(batch)

    # -- rotation

    def _rotate(self, batch: Batch, now: datetime | None) -> None:
        """Begin a new segment where one is due, and have the first entry in it name the one before."""
        size = self._tree.size
        if now is None or now.tzinfo is None:
            return
        # A segment never begins beyond what is signed: where entries were adopted, their own segment goes on.
        if self._signed == size and self._live.is_due(self._rotation, now):
            self._seal = self._live.sealed(size)
            try:
                create_segment(self._folder, size)
                following = LiveSegment(self._folder, size, None)
            except OSError as error:
                self._refusal = f"a new segment cannot be begun: {error.strerror or error}"
                if error.errno in OUT_OF_SPACE:
                    with contextlib.suppress(OSError):
                        remove_segment(self._folder, size)  # the last entry goes into the segment before it
                        self._record_full(batch, [])
                raise AuditWriteError(f"cannot record in {self._folder}: {self._refusal}") from error
            self._live.close()
            self._live = following
            self._stored.add(size)
        if self._seal is not None:
            batch.add([_rotation_event(self.origin, self._seal)], [now])

    # -- reading back

    def _state(self, sizes: Iterable[int]) -> Statement:
        present = self._signed
        wanted = sorted({size for size in sizes if 0 < size < present})[: LIMITS.statement_proofs]
        proofs = {size: tuple(self._tree.consistency(size, present)) for size in wanted}
        return Statement(self._checkpoint, proofs)

    def _line(self, seq: int) -> bytes:
        if not 0 <= seq < self._signed:
            raise LookupError(f"got entry {seq}, expected one of 0..{self._signed - 1}")
        start = self._stored.segment_of(seq)
        try:
            with segment_path(self._folder, start, "jsonl").open("rb") as file:
                return next(islice(file, seq - start, None)).removesuffix(b"\n")
        except FileNotFoundError:
            raise LookupError(f"entry {seq} was purged with its segment") from None

    def _read_tree(self, found: Recovered) -> None:
        step = 1 << 16
        for start in range(0, found.tree.size, step):
            hashes = self._stored(start, min(start + step, found.tree.size))
            for at in range(0, len(hashes), 32):
                self._tree.append(hashes[at : at + 32])
        if self._tree.root() != found.tree.root():
            raise AuditCorrupt(f"{self._folder}: the stored hashes changed while the log was opened")


def _first_time(folder: Path, start: int) -> datetime | None:
    with segment_path(folder, start, "jsonl").open("rb") as file:
        line = file.readline(LIMITS.entry + 2)
    return parse_time(str(check_entry(line, start)["time"])) if line else None


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


def _rotation_event(origin: str, sealed: Sealed) -> Event:
    return Event(
        actor=origin,
        action="log.rotated",
        resource=f"segments/{sealed.start:012d}.jsonl",
        detail={"first": sealed.start, "entries": sealed.entries, "sha256": sealed.sha256},
    )


def _full_event(origin: str, events: Sequence[Event]) -> Event:
    refused = ",".join(dict.fromkeys(event.action for event in events))[:2000]
    return Event(
        actor=origin,
        action="log.full",
        resource=origin,
        decision="deny",
        rule="log.space",
        reason="the disk is full: what was to be recorded was refused, and so is all that follows",
        detail={"refused": refused or "log.rotated", "events": len(events)},
    )
