"""An export on disk: the entries as they stand, a form of them, their proofs, the signed checkpoint, a manifest."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit.errors import VerificationError
from audit.export import cef, fhir, ocsf, processing, spreadsheet
from audit.export.rendering import Renderer, Source, product_version
from audit.limits import LIMITS
from audit.merkle import leaf_hash, verify_inclusion
from audit.note import decode_base64, open_checkpoint, parse_vkey
from audit.query import Matcher, Selection, SelectionError
from audit.snapshot import Entry, Snapshot
from audit.verify import VerificationFailure, check_entry, open_plain, read_plain

SCHEMA = "concordat/audit-export/v1"
FORMATS: dict[str, dict[str, Renderer]] = {
    "fhir": {"AuditEvent.ndjson": fhir.render},
    "ocsf": {"ocsf.jsonl": ocsf.render},
    "cef": {"events.cef": cef.render},
    "csv": {"entries.csv": spreadsheet.render},
    "jsonl": {},
    "ropa": {"processing.json": processing.render_json, "processing.md": processing.render_text},
}
ENTRIES, PROOFS, CHECKPOINT, KEY, MANIFEST = "entries.jsonl", "proofs.jsonl", "checkpoint", "log.vkey", "manifest.json"


@dataclass(frozen=True)
class Exported:
    """What an export holds."""

    origin: str
    size: int
    root: str
    format: str
    entries: int
    key_given: bool


def write(snapshot: Snapshot, selection: Selection, form: str, directory: str | os.PathLike[str]) -> Exported:
    """Export the selected entries of a verified log into a new directory; the same log gives the same bytes.

    The directory appears whole or not at all. SelectionError where it exists, or where the form is unknown.
    """
    target = Path(directory)
    if form not in FORMATS:
        raise SelectionError(f"got the format {form}, expected one of {', '.join(FORMATS)}")
    if target.exists():
        raise SelectionError(f"{target} exists already: give a new directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        exported = _write(snapshot, selection, form, partial)
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return exported


def _write(snapshot: Snapshot, selection: Selection, form: str, folder: Path) -> Exported:
    matches, chosen = Matcher(selection), 0
    with (folder / ENTRIES).open("wb") as lines:

        def keep(entry: Entry) -> None:
            nonlocal chosen
            if matches(entry.fields):
                chosen += 1
                lines.write(entry.line + b"\n")

        paths = snapshot.paths(keep)
    source = Source(snapshot.origin, snapshot.size, snapshot.root.hex())
    with (folder / PROOFS).open("w", encoding="ascii") as proofs:
        for entry in _entries(folder):
            path = [base64.b64encode(item).decode() for item in paths.of(entry.seq)]
            proofs.write(json.dumps({"proof": path, "seq": entry.seq}, separators=(",", ":")) + "\n")
    for name, render in FORMATS[form].items():
        with (folder / name).open("w", encoding="utf-8", newline="") as out:
            out.writelines(render(_entries(folder), source))
    (folder / CHECKPOINT).write_bytes(snapshot.note)
    (folder / KEY).write_text(snapshot.vkey + "\n")
    manifest = {
        "schema": SCHEMA,
        "format": form,
        "version": product_version(),
        "origin": source.origin,
        "tree": {"size": source.size, "root": source.root},
        "selection": {name: value for name, value in asdict(selection).items() if value},
        "entries": chosen,
        "range": _range(folder),
        "files": {name: _digest(folder / name) for name in _names(form)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return Exported(source.origin, source.size, source.root, form, chosen, snapshot.key_given)


def check(directory: str | os.PathLike[str], keys: Sequence[str] = ()) -> Exported:
    """Verify an export without its log; raises VerificationError.

    Every file must be the one of the manifest, every entry must be in the signed tree by its proof, and every other
    file must be what the entries give when they are rendered again. That no entry of the selection was left out
    cannot be seen from an export.
    """
    folder = Path(directory)
    try:
        return _check(folder, keys)
    except VerificationFailure as failure:
        raise VerificationError(f"{folder}: {failure}") from None
    except OSError as error:
        raise VerificationError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VerificationError(f"{folder} is damaged: {type(error).__name__} {str(error)[:100]}") from error


def _check(folder: Path, keys: Sequence[str]) -> Exported:
    manifest = json.loads(read_plain(folder / MANIFEST, LIMITS.note))
    form = manifest["format"]
    if manifest["schema"] != SCHEMA or form not in FORMATS:
        raise VerificationError(f"{folder / MANIFEST} is not the manifest of an export")
    present = sorted(path.name for path in folder.iterdir())
    if present != sorted([MANIFEST, *_names(form)]) or sorted(manifest["files"]) != sorted(_names(form)):
        raise VerificationError(f"{folder} does not hold exactly the files of a {form} export")
    for name, expected in manifest["files"].items():
        if _digest(folder / name) != expected:
            raise VerificationError(f"{folder / name} is not the file that the manifest names")
    vkey = read_plain(folder / KEY, 1024).decode("ascii").removesuffix("\n")
    if keys and vkey not in keys:
        raise VerificationError(f"{folder} is signed with a key that was not given: {vkey}")
    checkpoint = open_checkpoint(read_plain(folder / CHECKPOINT, LIMITS.note), parse_vkey(vkey))
    source, count, last = Source(checkpoint.origin, checkpoint.size, checkpoint.root.hex()), 0, -1
    matches = Matcher(Selection(**manifest["selection"]))
    with open_plain(folder / PROOFS) as proofs:
        for entry in _entries(folder):
            proof = json.loads(proofs.readline(LIMITS.proof_file))
            path = [decode_base64(item) for item in proof["proof"]]
            if proof["seq"] != entry.seq or entry.seq <= last or not matches(entry.fields):
                raise VerificationError(f"entry {entry.seq} is out of order, or was not selected")
            verify_inclusion(leaf_hash(entry.line), entry.seq, checkpoint.size, path, checkpoint.root)
            count, last = count + 1, entry.seq
        if proofs.read(1):
            raise VerificationError(f"{folder / PROOFS} holds more proofs than there are entries")
    _check_manifest(manifest, source, count, folder)
    for name, render in FORMATS[form].items():
        _check_rendered(folder / name, render(_entries(folder), source), manifest["version"])
    return Exported(source.origin, source.size, source.root, form, count, bool(keys))


def _check_manifest(manifest: dict[str, Any], source: Source, count: int, folder: Path) -> None:
    said = (manifest["origin"], manifest["tree"], manifest["entries"], manifest["range"])
    if said != (source.origin, {"size": source.size, "root": source.root}, count, _range(folder)):
        raise VerificationError(f"{folder / MANIFEST} does not say what the export holds")


def _check_rendered(path: Path, text: Iterator[str], version: object) -> None:
    with open_plain(path) as file:
        same = all(file.read(len(part)) == part for part in (piece.encode() for piece in text))
        if same and not file.read(1):
            return
    if version != product_version():
        raise VerificationError(f"{path} was rendered by version {version}: check it with that one")
    raise VerificationError(f"{path} is not what its entries give: it was altered")


def _entries(folder: Path) -> Iterator[Entry]:
    with open_plain(folder / ENTRIES) as file:
        while line := file.readline(LIMITS.entry + 2):
            seq = json.loads(line)["seq"]
            yield Entry(seq, line[:-1], check_entry(line, seq))


def _range(folder: Path) -> dict[str, Any]:
    first: Entry | None = None
    last: Entry | None = None
    for entry in _entries(folder):
        first, last = first or entry, entry
    if first is None or last is None:
        return {}
    return {
        "first": {"seq": first.seq, "time": first.fields["time"]},
        "last": {"seq": last.seq, "time": last.fields["time"]},
    }


def _names(form: str) -> list[str]:
    return [ENTRIES, PROOFS, CHECKPOINT, KEY, *FORMATS[form]]


def _digest(path: Path) -> dict[str, Any]:
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LIMITS.export_file:
            raise VerificationError(f"{path} has {size} bytes, expected at most {LIMITS.export_file}: select less")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": size}
