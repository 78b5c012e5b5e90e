"""CSV (RFC 4180) for spreadsheets: every cell quoted, and none that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator

from audit.export.rendering import Source
from audit.merkle import leaf_hash
from audit.snapshot import Entry

COLUMNS = ("seq", "time", "decision", "action", "actor", "resource", "run", "round", "rule", "reason", "policy")
_ACTIVE = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%", "＝", "＋", "－", "＠", "'")  # noqa: RUF001  full-width forms that spreadsheets take for the plain ones


def render(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """A heading, then one record an entry; `detail` as JSON, `leaf_hash` in hexadecimal."""
    yield _record([*COLUMNS, "detail", "payload_commitment", "log", "leaf_hash"])
    for entry in entries:
        cells = ["" if entry.fields[name] is None else str(entry.fields[name]) for name in COLUMNS]
        detail = json.dumps(entry.fields["detail"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        commitment = str(entry.fields["payload_commitment"] or "")
        yield _record([*cells, detail, commitment, source.origin, leaf_hash(entry.line).hex()])


def guard(cell: str) -> str:
    """The cell with an apostrophe in front where its first character could make a spreadsheet run it.

    The characters are those of OWASP's page on CSV injection. A cell that begins with an apostrophe gets another,
    so that `unguard` gives back every text.
    """
    return "'" + cell if cell.lstrip(" ").startswith(_ACTIVE) else cell


def unguard(cell: str) -> str:
    """The text that `guard` was given."""
    return cell[1:] if cell.startswith("'") else cell


def _record(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerow([guard(cell) for cell in cells])
    return out.getvalue()
