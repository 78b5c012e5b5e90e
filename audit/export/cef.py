r"""CEF version 0 (ArcSight Common Event Format), one event a line.

In the header `\` and `|` are escaped and a line break becomes a space; in values `\` and `=` are escaped and line
breaks are written as `\n` and `\r`, so that an entry can neither end its line nor invent a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from audit.export.rendering import Source, product_version
from audit.merkle import leaf_hash
from audit.snapshot import Entry

_SEVERITY = {"allow": 3, "record": 2, "deny": 7}
_OUTCOME = {"allow": "allowed", "record": "recorded", "deny": "refused"}


def render(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """One line an entry. `externalId` is the entry's number, `cs1` to `cs6` are named by their labels."""
    version = product_version()
    for entry in entries:
        fields = entry.fields
        decision = str(fields["decision"])
        name = f"{fields['action']} {_OUTCOME[decision]}"
        head = ("Concordat", "Concordat", version, str(fields["action"]), name, str(_SEVERITY[decision]))
        header = "|".join(["CEF:0", *(escape_header(part) for part in head)])
        values = {
            "rt": str(int(datetime.fromisoformat(fields["time"]).timestamp() * 1000)),
            "externalId": str(fields["seq"]),
            "act": fields["action"],
            "outcome": _OUTCOME[decision],
            "suser": fields["actor"],
            "dvchost": source.origin,
            "request": fields["resource"],
            "reason": fields["reason"],
            "msg": _detail(fields["detail"]),
        }
        custom = (
            ("rule", fields["rule"]),
            ("policy", fields["policy"]),
            ("run", fields["run"]),
            ("leafHash", leaf_hash(entry.line).hex()),
            ("treeRoot", source.root),
            ("payloadCommitment", fields["payload_commitment"]),
        )
        for place, (label, value) in enumerate(custom, 1):
            if value is not None:
                values |= {f"cs{place}Label": label, f"cs{place}": value}
        if fields["round"] is not None:
            values |= {"cn1Label": "round", "cn1": str(fields["round"])}
        extension = " ".join(f"{name}={escape_value(str(value))}" for name, value in values.items() if value)
        yield f"{header}|{extension}\n"


def escape_header(text: str) -> str:
    """A part of the header."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def escape_value(text: str) -> str:
    r"""A value of the extension; other control characters are written as `\\xNN`, as text."""
    text = text.replace("\\", "\\\\").replace("=", "\\=").replace("\n", "\\n").replace("\r", "\\r")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode().replace("\\", "\\\\") for c in text)


def _detail(detail: dict[str, object]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in sorted(detail.items()))
