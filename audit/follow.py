"""A log read while it grows: every checkpoint is verified against the entries before they are handed on."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import Frontier, leaf_hash
from audit.snapshot import Entry, Leaf
from audit.verify import (
    VerificationFailure,
    check_entry,
    open_checkpoint,
    open_plain,
    parse_vkey,
    read_plain,
    segment_starts,
)


class Follower:
    """Follows one log from where `tree` ends; an empty tree means from the start.

    The log is never taken at its word: what it holds now must continue the tree that was read before.
    """

    def __init__(self, directory: str | os.PathLike[str], vkey: str, tree: Frontier | None = None) -> None:
        self._folder, self._key = Path(directory), parse_vkey(vkey)
        self.tree = tree or Frontier()
        self._note = b""
        self._place: tuple[int, int] | None = None  # segment and offset of the next entry

    def poll(self) -> Iterator[Entry]:
        """The entries that were signed since the last poll; VerificationError where the log does not continue.

        They are read twice, once to verify and once to hand on, so that a long log needs no memory. `tree` moves
        with each entry that is taken.
        """
        try:
            note = self._read_checkpoint()
            if note == self._note:
                return
            size, root = open_checkpoint(note, *self._key)
            if size < self.tree.size:
                raise VerificationError(
                    f"{self._folder} has {size} entries, {self.tree.size} were read before: it was set back"
                )
            start, ahead = self._place, self.tree.copy()
            for leaf in self._leaves(size - ahead.size):
                ahead.append(leaf.hash)
            if (ahead.size, ahead.root()) != (size, root):
                raise VerificationError(
                    f"{self._folder} does not continue the {self.tree.size} entries read before as its checkpoint says"
                )
            self._place = start
            for leaf in self._leaves(size - self.tree.size):
                self.tree.append(leaf.hash)
                if leaf.entry is not None:
                    yield leaf.entry
            if self.tree.root() != root:
                raise VerificationError(f"{self._folder} changed while it was read")
            self._note = note
        except VerificationFailure as failure:
            raise VerificationError(f"{self._folder}: {failure}") from None
        except OSError as error:
            raise VerificationError(f"cannot read {error.filename or self._folder}: {error.strerror}") from error

    def _read_checkpoint(self) -> bytes:
        return read_plain(self._folder / "checkpoint", LIMITS.note)

    def _leaves(self, count: int) -> Iterator[Leaf]:
        """Up to `count` leaves from the current place on, which moves along; a purged one is known by its hash."""
        seq = self.tree.size
        start, offset = self._place or self._find(seq)
        end = seq + count
        while seq < end:
            path, purged = self._segment(start, "jsonl"), False
            if not path.exists():
                path, purged, offset = self._segment(start, "hashes"), True, 32 * (seq - start)
            with open_plain(path) as file:
                file.seek(offset)
                while seq < end and (record := file.read(32) if purged else file.readline(LIMITS.entry + 2)):
                    entry = None if purged else Entry(seq, record[:-1], check_entry(record, seq), start)
                    offset += len(record)
                    seq += 1
                    self._place = (start, offset)
                    yield Leaf(seq - 1, start, leaf_hash(entry.line) if entry else record, entry)
            if seq == start < end:
                raise VerificationError(f"{path} is empty, but the checkpoint signs entry {seq}")
            if seq < end:
                start, offset = seq, 0

    def _segment(self, start: int, suffix: str) -> Path:
        return self._folder / "segments" / f"{start:012d}.{suffix}"

    def _find(self, seq: int) -> tuple[int, int]:
        """Segment and offset of entry `seq`, which may be the next one to be written."""
        starts = [start for start, _ in segment_starts(self._folder)]
        position = bisect_right(starts, seq) - 1
        if position < 0:
            raise VerificationError(f"{self._folder} holds no segment with entry {seq}")
        start, offset = starts[position], 0
        path = self._segment(start, "jsonl")
        if path.exists():
            with open_plain(path) as file:
                for _ in range(seq - start):
                    offset += len(file.readline(LIMITS.entry + 2))
        return start, offset
