"""A verified view of one log at one checkpoint: what is read from it is what was signed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.merkle import Frontier, leaf_hash
from audit.note import open_checkpoint as open_signed
from audit.note import parse_note
from audit.note import parse_vkey as read_vkey
from audit.paths import AuditPaths
from audit.verify import (
    VerificationFailure,
    check_entry,
    choose_key,
    open_checkpoint,
    parse_vkey,
    read_plain,
    read_segments,
    verify,
)


@dataclass(frozen=True)
class Entry:
    """One entry: its number, its bytes as they are hashed (without the line feed), its fields."""

    seq: int
    line: bytes
    fields: Mapping[str, Any]
    segment: int = 0  # number of the first entry in the same file


@dataclass(frozen=True)
class Leaf:
    """A place in the tree, and the entry there unless its retention has ended and it was purged."""

    seq: int
    segment: int
    hash: bytes
    entry: Entry | None


@dataclass(frozen=True)
class Snapshot:
    """A log whose entries, signature and payloads were verified. Later growth is left out."""

    directory: Path
    vkey: str
    key_given: bool  # by whoever takes the snapshot; otherwise it lay beside the log
    note: bytes  # the signed checkpoint, as it stands
    size: int
    root: bytes
    witnessed: tuple[bytes, ...] = ()  # checkpoints of this log that it and other parties hold, signed by witnesses

    @property
    def origin(self) -> str:
        """The name under which the log signs."""
        return self.vkey.partition("+")[0]

    def leaves(self) -> Iterator[Leaf]:
        """Every leaf, hashed once more on the way; one whose entry was purged by its stored hash.

        Whoever reads to the end has read what was signed: VerificationError is raised there, or earlier, if
        the files have changed since they were verified.
        """
        tree = Frontier()
        try:
            kept = read_segments(self.directory, "hashes")
            for seq, (start, line) in enumerate(islice(read_segments(self.directory, "jsonl"), self.size)):
                stored = next(kept, (0, b""))[1]
                entry = Entry(seq, line[:-1], check_entry(line, seq), start) if line else None
                leaf = Leaf(seq, start, leaf_hash(entry.line) if entry else stored, entry)
                tree.append(leaf.hash)
                yield leaf
        except VerificationFailure as failure:
            raise VerificationError(f"{self.directory}: {failure}") from None
        except OSError as error:
            raise VerificationError(f"cannot read {error.filename or self.directory}: {error.strerror}") from error
        if (tree.size, tree.root()) != (self.size, self.root):
            raise VerificationError(f"{self.directory} changed while it was read: verify it again")

    def entries(self) -> Iterator[Entry]:
        """Every entry that was not purged, on the conditions of `leaves`."""
        for leaf in self.leaves():
            if leaf.entry is not None:
                yield leaf.entry

    def paths(self, visit: Callable[[Entry], None] = lambda _: None) -> AuditPaths:
        """The audit paths of all leaves; `visit` sees each entry that was not purged on the way."""
        hashes = bytearray()
        for leaf in self.leaves():
            hashes += leaf.hash
            if leaf.entry is not None:
                visit(leaf.entry)
        return AuditPaths(hashes)

    def payload(self, seq: int) -> bytes | None:
        """The file of one payload, as it stands, or None where it was erased; its commitment is not checked here."""
        try:
            return read_plain(self.directory / "payloads" / f"{seq:012d}.json", LIMITS.payload + 128)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VerificationError(f"cannot read {error.filename}: {error.strerror}") from error
        except VerificationFailure as failure:
            raise VerificationError(str(failure)) from None


def take(directory: str | os.PathLike[str], keys: Sequence[str] = ()) -> Snapshot:
    """Verify the log in `directory` and return its snapshot; VerificationError names what is wrong.

    Where `keys` are given, the log must be signed with the one of its name; where none is, the key beside the log
    is taken, which shows that the log is consistent and not who wrote it.
    """
    folder = Path(directory)
    if (folder / "audit" / "checkpoint").exists() and not (folder / "checkpoint").exists():
        raise VerificationError(f"{folder} is a member's home: its log is {folder / 'audit'}")
    try:
        note = read_plain(folder / "checkpoint", LIMITS.note)
        vkey = choose_key(keys, note.partition(b"\n")[0].decode("latin-1"))
        if vkey is None:
            vkey = read_plain(folder / "log.vkey", 1024).decode("latin-1").removesuffix("\n")
        name, key_id, public = parse_vkey(vkey)
        size, root = open_checkpoint(note, name, key_id, public)
        report = verify(folder, vkey)
        if report.size < size:
            raise VerificationError(f"{folder} went back from {size} to {report.size} entries while it was read")
    except VerificationFailure as failure:
        raise VerificationError(f"{folder}: {failure}") from None
    except OSError as error:
        raise VerificationError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    return Snapshot(folder, vkey, bool(keys), note, size, root)


def take_all(directories: Sequence[str | os.PathLike[str]], keys: Sequence[str] = ()) -> list[Snapshot]:
    """Snapshots of several parties' logs, each verified; two of one origin are refused, and a key without its log."""
    notes = witness_notes(directories)  # first, since the logs may grow meanwhile: none may be ahead of its log
    snapshots = [take(directory, keys) for directory in directories]
    snapshots = [replace(item, witnessed=_signed_by(item.vkey, notes)) for item in snapshots]
    origins = [snapshot.origin for snapshot in snapshots]
    for origin in origins:
        if origins.count(origin) > 1:
            raise VerificationError(f"got two logs of {origin}, expected one of each party: compare them with `diff`")
    for key in keys:
        if key.partition("+")[0] not in origins:
            raise VerificationError(f"got a key of {key.partition('+')[0]}, of which no log was given")
    return snapshots


def _signed_by(vkey: str, notes: set[bytes]) -> tuple[bytes, ...]:
    """Of the notes the checkpoints of one log, joined. What its key did not sign says nothing of it, whoever holds it:
    a party that could spoil another's evidence by such a note would.
    """
    key, signed, kept = read_vkey(vkey), set[tuple[object, ...]](), set[bytes]()
    for data in notes:
        if not data.startswith(key.name.encode() + b"\n"):
            continue
        try:
            note = parse_note(data)
            own = (note.text, *(item for item in note.signatures if item[:2] == (key.name, key.key_id)))
            if own not in signed:
                open_signed(data, key)
                signed.add(own)
        except VerificationError:
            continue
        kept.add(data)
    return tuple(sorted(_joined(kept)))


def witness_notes(directories: Sequence[str | os.PathLike[str]]) -> set[bytes]:
    """The signed checkpoints that parties hold of each other's logs and of their own; none of them verified."""
    notes = set[bytes]()
    for directory in directories:
        folder = Path(directory)
        try:
            held = [*(folder / "witness").glob("*"), folder / "cosigned"]
            if len(held) > LIMITS.gossip_items:
                raise VerificationError(f"{folder / 'witness'} holds more than {LIMITS.gossip_items} files")
            notes |= {read_plain(path, LIMITS.note) for path in held if path.is_file()}
        except VerificationFailure as failure:
            raise VerificationError(str(failure)) from None
        except OSError as error:
            raise VerificationError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    return notes


def _joined(notes: set[bytes]) -> set[bytes]:
    """The notes, those of one text as one with the lines of all: hundreds of witnesses hold the same checkpoint."""
    of_text, joined = dict[bytes, list[bytes]](), set[bytes]()
    for note in notes:
        of_text.setdefault(note.rpartition(b"\n\n")[0], []).append(note)
    for text, group in of_text.items():
        lines = sorted({line for note in group for line in note[len(text) + 2 :].split(b"\n") if line})
        whole = text + b"\n\n" + b"".join(line + b"\n" for line in lines)
        fits = len(lines) <= LIMITS.note_signatures and len(whole) <= LIMITS.note
        joined |= {whole} if text and len(group) > 1 and fits else set(group)
    return joined
