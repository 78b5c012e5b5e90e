"""An app bundle as a reviewer sees it: its files, who wrote it, and what changed; nothing of it is run."""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping

from federation.app_bundle import read_bundle
from federation.errors import BundleError
from federation.terminal import printable

Files = Mapping[str, bytes]


def files_of(bundle: bytes) -> dict[str, bytes]:
    """The files of a bundle by their path, as the trainer will have them; raises BundleError."""
    return read_bundle(bundle)


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
    """The unified diff between two bundles, file by file; of a change that no line shows its kind is told."""
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
        lines = list(difflib.unified_diff(texts[0], texts[1], names[0], names[1], lineterm=""))
        yield from map(shown, lines)
        if not lines:
            yield f"{names[0]} -> {names[1]}: an empty file, or line ends alone, differ"


def _lines(text: str) -> list[str]:
    """Lines as Python and YAML break them; what else Unicode calls a line break is shown as what it is."""
    found = re.split(r"\r\n|\r|\n", text)
    return found if found[-1] else found[:-1]


def shown(text: str) -> str:
    """A line, whole, with everything that a terminal could act on, or that cannot be seen, written out.

    What a reviewer reads must be what the file holds: no cursor movement, no reordering of text.
    """
    return "\t".join(printable(part, limit=sys.maxsize) for part in text.split("\t"))
