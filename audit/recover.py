"""Creating a log's directory, and reading one back after a stop or a crash."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from audit import verify
from audit.errors import AuditCorrupt, VerificationError
from audit.limits import LIMITS
from audit.merkle import Frontier, leaf_hash
from audit.note import VerifierKey, open_checkpoint
from audit.segments import create_segment, segment_path
from audit.store import make_directory, replace_file, sync_directory

_SEGMENT = re.compile(r"([0-9]{12})\.hashes")
_PAYLOAD = re.compile(r"([0-9]{12})\.json")


@dataclass
class Recovered:
    """A log as found: its tree, the start of its live segment, and what its last writer left unfinished."""

    tree: Frontier
    segment: int
    last_time: str | None
    checkpoint: str  # the signed note as it stands in its file, or empty
    starts: tuple[int, ...] = (0,)  # of all segments
    entries_adopted: int = 0  # complete, but not covered by the last checkpoint
    bytes_removed: int = 0  # of a torn tail
    payloads_removed: int = 0  # of entries that were never written

    @property
    def clean(self) -> bool:
        """Whether the last writer finished what it began."""
        return not (self.entries_adopted or self.bytes_removed or self.payloads_removed)


def payload_path(folder: Path, seq: int) -> Path:
    """The file of the payload of entry `seq`."""
    return folder / "payloads" / f"{seq:012d}.json"


def create(folder: Path, key: VerifierKey) -> Recovered:
    """Lay out an empty log; AuditCorrupt where entries lie there without the checkpoint that signs them."""
    for name in ("segments", "payloads"):
        make_directory(folder / name)
    for suffix in ("jsonl", "hashes"):
        path = segment_path(folder, 0, suffix)
        if path.exists() and path.stat().st_size:
            raise AuditCorrupt(f"{path} holds data, but there is no checkpoint: restore the checkpoint")
    create_segment(folder, 0)
    if any((folder / "payloads").iterdir()):
        raise AuditCorrupt(f"{folder}/payloads is not empty, but there is no checkpoint: restore the checkpoint")
    _settle_vkey(folder, key)
    return Recovered(Frontier(), 0, None, "")


def read_back(folder: Path, key: VerifierKey) -> Recovered:
    """Read all entries, check what was signed, keep or cut what comes after it."""
    _settle_vkey(folder, key)
    _settle_segments(folder)
    note = _read_note(folder)
    try:
        checkpoint = open_checkpoint(note, key)
    except VerificationError as error:
        raise AuditCorrupt(f"{folder}/checkpoint: {error}") from error
    report = verify.Report(checkpoint.origin, checkpoint.size, checkpoint.root.hex(), "given")
    try:
        signed, segment, offset, _ = verify.walk(folder, report, payloads=False)
    except verify.VerificationFailure as failure:
        raise AuditCorrupt(f"{folder}: {failure}", failure.seq) from failure
    except FileNotFoundError as error:
        raise AuditCorrupt(f"{folder}: {error.filename} is missing") from error
    names = (_SEGMENT.fullmatch(path.name) for path in (folder / "segments").iterdir())
    starts = tuple(sorted(int(name[1]) for name in names if name))
    live = starts[-1]
    if live > signed.size:
        raise AuditCorrupt(f"{folder}: segment {live} starts after the signed entries end", signed.size)
    found = Recovered(Frontier(signed.size, signed.peaks), live, report.last_time, note.decode(), starts)
    _settle_tail(folder, found, offset if live == segment else 0)
    _remove_orphans(folder, found)
    return found


def _read_note(folder: Path) -> bytes:
    with (folder / "checkpoint").open("rb") as file:
        return file.read(LIMITS.note + 1)


def _settle_vkey(folder: Path, key: VerifierKey) -> None:
    path, line = folder / "log.vkey", f"{key}\n".encode()
    try:
        with path.open("rb") as file:
            found = file.read(1024)
    except FileNotFoundError:
        replace_file(path, line, mode=0o644)
        return
    if found != line:
        raise AuditCorrupt(f"{path} is not the verifier key of {key.name}: a log keeps its origin and its key")


def _settle_segments(folder: Path) -> None:
    """Remove the empty file of a segment that was about to begin when its writer stopped."""
    for path in (folder / "segments").glob("*.hashes"):
        if not path.with_suffix(".jsonl").exists() and path.stat().st_size == 0:
            path.unlink()
            sync_directory(path.parent)


def _settle_tail(folder: Path, found: Recovered, offset: int) -> None:
    path, start = segment_path(folder, found.segment, "jsonl"), found.tree.size
    with path.open("r+b") as lines, segment_path(folder, found.segment, "hashes").open("r+b") as hashes:
        hashes.seek(32 * (start - found.segment))
        hashes.truncate()
        lines.seek(offset)
        while line := lines.readline(LIMITS.entry + 2):
            try:
                entry = verify.check_entry(line, found.tree.size)
            except verify.VerificationFailure:
                break  # nothing from here on was acknowledged to anyone
            hashes.write(leaf_hash(line[:-1]))
            found.tree.append(leaf_hash(line[:-1]))
            found.last_time = str(entry["time"])
            offset += len(line)
        found.entries_adopted = found.tree.size - start
        found.bytes_removed = lines.seek(0, os.SEEK_END) - offset
        lines.truncate(offset)
        for file in (lines, hashes):
            file.flush()
            os.fsync(file.fileno())


def _remove_orphans(folder: Path, found: Recovered) -> None:
    make_directory(folder / "payloads")
    with os.scandir(folder / "payloads") as files:
        orphans = [
            Path(file.path)
            for file in files
            if (name := _PAYLOAD.fullmatch(file.name)) and int(name[1]) >= found.tree.size
        ]
    for path in orphans:
        path.unlink()
    found.payloads_removed = len(orphans)
    if orphans:
        sync_directory(folder / "payloads")
