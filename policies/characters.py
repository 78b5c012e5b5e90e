"""What a YAML text must not hold, whatever it says: directives, spaces that are no spaces, what nobody sees."""

import re
import unicodedata
from collections.abc import Iterator

from policies.tree import Position

HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that show nothing, or change how those beside them are shown."""

_LINE = re.compile(r"[^\r\n]*(\r\n?|\n|\Z)")
_BREAK = re.compile(r"\r\n?|\n")
_VERSION = re.compile(r"%YAML[ \t]+1\.2[ \t]*(#.*)?")
_FOREIGN_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def foreign_directive(text: str) -> tuple[Position, str] | None:
    """The first directive that is not `%YAML 1.2`, or comes after it; None where there is none."""
    versions = 0
    for number, line in enumerate(lines(text), 1):
        if line.startswith("%"):
            versions += 1
            if versions > 1 or not _VERSION.fullmatch(line):
                return (number, 1), line
        elif line.strip(" \t") and not line.startswith("#"):
            return None
    return None


def foreign_space(text: str, origin: Position = (1, 1)) -> tuple[Position, str] | None:
    """The first space that YAML takes for a letter, in a text that begins at `origin`, and what it is called."""
    found = _FOREIGN_SPACE.search(text)
    if found is None:
        return None
    name = unicodedata.name(found[0]).lower()
    article = "an" if name[0] in "aeio" else "a"
    return place(text, found.start(), origin), f"{article} {name} (U+{ord(found[0]):04X})"


def hidden_character(text: str) -> str | None:
    """The first character that nobody sees; line feeds and tabs are seen."""
    return next((c for c in text if unicodedata.category(c) in HIDDEN and c not in "\n\t"), None)


def hidden_place(text: str) -> tuple[Position, str] | None:
    """The first character of a whole document that nobody sees, comments among it."""
    for number, line in enumerate(lines(text), 1):
        if not line.isprintable():
            hidden = hidden_character(line)
            if hidden is not None:
                return (number, line.index(hidden) + 1), hidden
    return None


def place(text: str, offset: int, origin: Position = (1, 1)) -> Position:
    """The line and column of an offset of a text that begins at `origin`, both from 1."""
    line, column = origin
    start = 1 - column
    for found in _BREAK.finditer(text, 0, offset):
        line, start = line + 1, found.end()
    return line, offset - start + 1


def lines(text: str) -> Iterator[str]:
    """The lines of a text as YAML 1.2 breaks them, without their ends."""
    for found in _LINE.finditer(text):
        yield found[0].rstrip("\r\n")
