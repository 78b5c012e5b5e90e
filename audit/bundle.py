"""Everything about one run from all parties in one archive, which `verify.py` checks as it checks a log.

The archive is a ZIP without compression, so that the same logs give the same bytes everywhere and that no archive
can unpack to more than its size.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import BinaryIO, cast

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.query import SelectionError
from audit.snapshot import Entry, Snapshot

SCHEMA = "concordat/audit-bundle/v1"
README = """Evidence about the training run {run}: the transparency logs of {count} parties, whole.

Check them with one file of Python, which needs nothing else and no network:

    python3 verify.py bundle.zip --key KEY [--key KEY ...]

Take verify.py from the project's source and the verifier keys from the federation's signed manifest or from each
party, not from this archive. bundle.json names the run and the parties; it is a table of contents and no evidence.
"""


@dataclass(frozen=True)
class Bundled:
    """What was put into a bundle."""

    run: str
    logs: tuple[str, ...]  # origins
    entries: int
    about_run: int
    payloads: int


def write(snapshots: Sequence[Snapshot], run: str, path: str | os.PathLike[str], *, payloads: bool = False) -> Bundled:
    """Write a bundle; it appears whole or not at all. `payloads` adds those of the run's entries.

    Logs go in whole, up to their signed checkpoints, so that it shows that nothing about the run was left out.
    SelectionError where no log has an entry of the run, or where the file exists.
    """
    target = Path(path)
    if target.exists():
        raise SelectionError(f"{target} exists already: give a new file")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    ordered = sorted(snapshots, key=lambda item: item.origin)
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_STORED) as archive:
            contents = {"schema": SCHEMA, "run": run, "logs": [item.origin for item in ordered]}
            with _file(archive, "bundle.json") as out:
                out.write(json.dumps(contents, indent=1, sort_keys=True).encode() + b"\n")
            with _file(archive, "README.txt") as out:
                out.write(README.format(run=ascii(run)[1:-1], count=len(ordered)).encode())
            counts = [
                _add_log(archive, f"logs/{place:02d}", snapshot, run, payloads=payloads)
                for place, snapshot in enumerate(ordered)
            ]
        about, added = sum(count for count, _ in counts), sum(count for _, count in counts)
        if not about:
            raise SelectionError(f"none of the logs has an entry of run {run}: list runs with `query --action 'run.*'`")
        if partial.stat().st_size > LIMITS.bundle:
            raise SelectionError(f"the bundle is larger than {LIMITS.bundle} bytes: hand over the logs themselves")
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return Bundled(run, tuple(contents["logs"]), sum(item.size for item in ordered), about, added)


def _add_log(archive: zipfile.ZipFile, folder: str, snapshot: Snapshot, run: str, *, payloads: bool) -> tuple[int, int]:
    """Add one log; returns how many of its entries are of the run and how many payloads were added."""
    about, wanted = 0, list[int]()
    with _file(archive, f"{folder}/checkpoint") as out:
        out.write(snapshot.note)
    with _file(archive, f"{folder}/log.vkey") as out:
        out.write(snapshot.vkey.encode() + b"\n")
    for place, note in enumerate(snapshot.witnessed):
        with _file(archive, f"{folder}/witnessed/{place:04d}") as out:
            out.write(note)
    for start, leaves in groupby(snapshot.leaves(), key=lambda leaf: leaf.segment):
        hashes, first = bytearray(), next(leaves)
        if first.entry is None:  # purged: the hashes alone are left
            hashes = bytearray(b"".join(leaf.hash for leaf in chain([first], leaves)))
        else:
            with _file(archive, f"{folder}/segments/{start:012d}.jsonl") as out:
                for leaf in chain([first], leaves):
                    entry = cast("Entry", leaf.entry)
                    out.write(entry.line + b"\n")
                    hashes += leaf.hash
                    if entry.fields["run"] == run:
                        about += 1
                        wanted += [entry.seq] if _has_payload(entry) else []
        with _file(archive, f"{folder}/segments/{start:012d}.hashes") as out:
            out.write(bytes(hashes))
    added = 0
    for seq in wanted if payloads else ():
        raw = snapshot.payload(seq)
        if raw is not None:
            added += 1
            with _file(archive, f"{folder}/payloads/{seq:012d}.json") as out:
                out.write(raw)
    if len(archive.namelist()) > LIMITS.bundle_files:
        raise VerificationError(f"the bundle would hold more than {LIMITS.bundle_files} files: leave the payloads out")
    return about, added


def _has_payload(entry: Entry) -> bool:
    return entry.fields["payload_commitment"] is not None


@contextmanager
def _file(archive: zipfile.ZipFile, name: str) -> Iterator[BinaryIO]:
    """A file in the archive that holds nothing of when or by whom it was written."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    with archive.open(info, "w", force_zip64=True) as out:
        yield cast("BinaryIO", out)
