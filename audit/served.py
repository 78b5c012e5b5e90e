"""Reading a log that is being written to, for somebody else: everything up to one signed checkpoint, nothing beyond."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.note import Checkpoint, parse_note

_SEGMENT = re.compile(r"([0-9]{12})\.(jsonl|hashes)")


def read_checkpoint(folder: Path) -> tuple[bytes, Checkpoint]:
    """The signed note as it stands, and what it says; nothing is verified here."""
    with (folder / "checkpoint").open("rb") as file:
        note = file.read(LIMITS.note + 1)
    return note, Checkpoint.parse(parse_note(note).text)


def segment_names(folder: Path, size: int) -> list[str]:
    """The files of the segments that hold any of the first `size` entries, and those of an empty log."""
    names = [path.name for path in (folder / "segments").iterdir()]
    found = [(name, match) for name in names if (match := _SEGMENT.fullmatch(name))]
    return sorted(name for name, match in found if int(match[1]) < max(size, 1))


def read_segment(folder: Path, name: str, size: int) -> bytes:
    """A segment's file as far as it holds the first `size` entries; raises VerificationError, FileNotFoundError."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        raise VerificationError(f"got {name[:80]!r}, expected the name of a segment's file")
    count = max(0, size - int(match[1]))
    with (folder / "segments" / name).open("rb") as file:
        return b"".join(islice(file, count)) if match[2] == "jsonl" else file.read(32 * count)
