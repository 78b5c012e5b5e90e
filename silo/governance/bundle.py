"""An app bundle as a reviewer sees it: its files, who wrote it, and what changed; nothing of it is run."""

from __future__ import annotations

import difflib
import hashlib
import io
import lzma
import re
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from federation.errors import ConcordatError
from federation.limits import LIMITS
from federation.terminal import printable

Files = Mapping[str, bytes]


class BundleError(ConcordatError):
    """An app bundle that is too large, reaches outside its directory, or is none."""


def files_of(bundle: bytes) -> dict[str, bytes]:
    """The files of a bundle by their path, in the order of paths; raises BundleError."""
    try:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            entries = archive.infolist()
            if len(entries) > LIMITS.app_files:
                raise BundleError(f"the app has {len(entries)} files, expected at most {LIMITS.app_files}")
            if sum(entry.file_size for entry in entries) > LIMITS.app_unpacked:
                raise BundleError(f"the app unpacks to more than {LIMITS.app_unpacked} bytes")
            found: dict[str, bytes] = {}
            for entry in entries:
                path = PurePosixPath(entry.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
                    raise BundleError("the app holds a file name that reaches outside its own directory")
                if entry.is_dir():
                    continue
                if str(path) in found:
                    raise BundleError(f"the app holds {shown(str(path))} twice: reviewers could be shown another file")
                with archive.open(entry) as file:
                    found[str(path)] = file.read(entry.file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        EOFError,
        RuntimeError,
        OSError,
        ValueError,
    ):
        raise BundleError("the app is not a zip file, as a Flower App Bundle is") from None
    return dict(sorted(found.items()))


def authors_of(files: Files) -> tuple[str, ...]:
    """Who an app's pyproject.toml says wrote or published it; raises BundleError where it cannot be read."""
    try:
        project = tomllib.loads(files.get("pyproject.toml", b"").decode())
        people = project.get("project", {}).get("authors", [])
        names = [person[key] for person in people for key in ("name", "email") if key in person]
        publisher = project.get("tool", {}).get("flwr", {}).get("app", {}).get("publisher")
        names += [publisher] if publisher else []
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise BundleError("the app's pyproject.toml cannot be read") from None
    return tuple(dict.fromkeys(str(name)[:200] for name in names if name))


def listing(files: Files) -> Iterator[str]:
    """One line a file: SHA-256, size in bytes, path."""
    for path, content in files.items():
        yield f"{hashlib.sha256(content).hexdigest()}  {len(content):>9}  {shown(path)}"


def difference(before: Files, after: Files) -> Iterator[str]:
    """The unified diff between two bundles, file by file; a file that is not UTF-8 text is only named."""
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        try:
            texts = [_lines((content or b"").decode()) for content in (old, new)]
        except UnicodeDecodeError:
            yield f"binary file {shown(path)} differs"
            continue
        names = ["/dev/null" if content is None else shown(path) for content in (old, new)]
        lines = difflib.unified_diff(texts[0], texts[1], names[0], names[1], lineterm="")
        yield from (shown(line) for line in lines)


def _lines(text: str) -> list[str]:
    """Lines as Python and YAML break them; what else Unicode calls a line break is shown as what it is."""
    found = re.split(r"\r\n|\r|\n", text)
    return found if found[-1] else found[:-1]


def shown(text: str) -> str:
    """A line, whole, with everything that a terminal could act on, or that cannot be seen, written out.

    What a reviewer reads must be what the file holds: no cursor movement, no reordering of text.
    """
    return "\t".join(printable(part, limit=sys.maxsize) for part in text.split("\t"))
