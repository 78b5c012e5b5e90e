"""Segment files: the live pair of entries and leaf hashes that is appended to, and the stored hashes of all."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from audit.store import AppendFile, create_file, sync_directory


@dataclass(frozen=True)
class Rotation:
    """When the live segment is sealed and a new one begun: by its size in bytes, or by the age of its first entry."""

    max_bytes: int = 64 * 1024 * 1024
    max_age: timedelta = timedelta(days=31)


@dataclass(frozen=True)
class Sealed:
    """A segment that is not appended to any more: its start, its entries, and the SHA-256 of its file."""

    start: int
    entries: int
    sha256: str


def segment_path(folder: Path, start: int, suffix: str) -> Path:
    """The file of the segment whose first entry is `start`; the suffix is "jsonl" or "hashes"."""
    return folder / "segments" / f"{start:012d}.{suffix}"


def create_segment(folder: Path, start: int) -> None:
    """Make both files of a segment, empty, durably; files that a crash left empty are taken over."""
    for suffix in ("hashes", "jsonl"):
        path = segment_path(folder, start, suffix)
        if not path.exists():
            create_file(path, b"", mode=0o600)
    sync_directory(folder / "segments")


def remove_segment(folder: Path, start: int) -> None:
    """Take back a segment that was begun and is still empty."""
    for suffix in ("jsonl", "hashes"):
        segment_path(folder, start, suffix).unlink(missing_ok=True)
    sync_directory(folder / "segments")


def seal_of(folder: Path, start: int, stop: int) -> Sealed:
    """Describe the segment that holds entries `start` to `stop` - 1, from its file."""
    with segment_path(folder, start, "jsonl").open("rb") as file:
        return Sealed(start, stop - start, hashlib.file_digest(file, "sha256").hexdigest())


class LiveSegment:
    """The files that are appended to; `since` is the time of its first entry, or None while it has none."""

    def __init__(self, folder: Path, start: int, since: datetime | None) -> None:
        self.start, self.since = start, since
        path = segment_path(folder, start, "jsonl")
        with path.open("rb") as file:
            self._sha256 = hashlib.file_digest(file, "sha256")
        self._lines = AppendFile(path)
        self._hashes = AppendFile(segment_path(folder, start, "hashes"))
        self._mark = (self._lines.size, self._hashes.size)

    @property
    def size(self) -> int:
        """The bytes of its entries."""
        return self._mark[0]

    def sealed(self, stop: int) -> Sealed:
        """What the entry that follows its end says of it."""
        return Sealed(self.start, stop - self.start, self._sha256.hexdigest())

    def is_due(self, rotation: Rotation, now: datetime) -> bool:
        """Whether the next entry, of that time, belongs into a new segment."""
        aged = self.since is not None and now - self.since >= rotation.max_age
        return self.size > 0 and (self.size >= rotation.max_bytes or aged)

    def check(self) -> None:
        """Raise AuditTampered where someone else touched one of the files."""
        self._lines.check()
        self._hashes.check()

    def append(self, lines: bytes, hashes: bytes, time: datetime | None) -> None:
        """Write and sync; OSError where it cannot, after which `cut_back` undoes what was written."""
        self._lines.append(lines)
        self._hashes.append(hashes)
        self._lines.sync()
        self._hashes.sync()
        self.check()  # so that nothing is acknowledged that went into a file without a name
        self._sha256.update(lines)
        self.since = self.since or time
        self._mark = (self._lines.size, self._hashes.size)

    def cut_back(self) -> None:
        """Cut off what an append that failed has left."""
        self._lines.cut(self._mark[0])
        self._hashes.cut(self._mark[1])

    def close(self) -> None:
        """Close both files."""
        try:
            self._hashes.close()
        finally:
            self._lines.close()


class StoredHashes:
    """Leaf hashes read back from the segments' files, 32 bytes each."""

    def __init__(self, folder: Path, starts: Sequence[int]) -> None:
        self._folder, self._starts = folder, sorted(starts)

    def add(self, start: int) -> None:
        """Take note of a new segment."""
        self._starts.append(start)

    def segment_of(self, seq: int) -> int:
        """The start of the segment that entry `seq` is in."""
        return self._starts[bisect_right(self._starts, seq) - 1]

    def __call__(self, start: int, stop: int) -> bytes:
        """The hashes of leaves `start` to `stop` - 1; OSError where a file is gone or too short."""
        parts = []
        while start < stop:
            at = bisect_right(self._starts, start) - 1
            end = min(stop, self._starts[at + 1]) if at + 1 < len(self._starts) else stop
            path = segment_path(self._folder, self._starts[at], "hashes")
            with path.open("rb", buffering=0) as file:
                file.seek(32 * (start - self._starts[at]))
                part = file.read(32 * (end - start)) or b""
            if len(part) != 32 * (end - start):
                raise OSError(f"{path} is too short")
            parts.append(part)
            start = end
        return b"".join(parts)
