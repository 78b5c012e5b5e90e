"""Text for a terminal: what a peer, a file or a person wrote cannot steer it, hide in it or begin a line of its own."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

from federation.limits import LIMITS

_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
"""What sets colours and boldness: the one escape sequence that tables and help are made with."""
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159")
"""Letters and marks that Unicode calls printable and nobody sees."""


def printable(text: object, limit: int = LIMITS.shown_text) -> str:
    """A text as one line of at most `limit` characters, each of which is seen as it is.

    Controls, line breaks, marks that turn or hide text, lone surrogates and characters without a meaning are written
    as escapes; every kind of space is a space.
    """
    line = str(text)[: limit + 1]
    if not (line.isascii() and line.isprintable()):
        line = "".join(map(_seen, line))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def all_printable(value: Any) -> Any:
    """The texts of a value as JSON gives it, names among them, each `printable`."""
    match value:
        case str():
            return printable(value)
        case Mapping():
            return {printable(name): all_printable(item) for name, item in value.items()}
        case list() | tuple():
            return [all_printable(item) for item in value]
        case _:
            return value


def say(text: object, *, err: bool = False) -> None:
    """Print one line, whatever is in it."""
    stream = sys.stderr if err else sys.stdout
    stream.write(printable(text) + "\n")
    stream.flush()


class Visible:
    """A stream that writes out as escapes what could steer a terminal; line feeds and tabs pass, and styles on one.

    Whoever composes a line makes its parts `printable`: this is for what nobody thought of.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        shown = _visible(text, styles=self._stream.isatty())
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        # A terminal that cannot show a letter gets its escape, and the command goes on.
        self._stream.write(shown if shown.isascii() else shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def visible_output() -> Iterator[None]:
    """Have everything that is printed meanwhile pass through `Visible`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Visible(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _visible(text: str, *, styles: bool) -> str:
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    parts = _STYLE.split(text) if styles else [text]
    # Every second part is a style.
    return "".join(part if at % 2 else "".join(map(_passed, part)) for at, part in enumerate(parts))


def _passed(character: str) -> str:
    space = character in "\n\t" or unicodedata.category(character) == "Zs"
    return character if space else _seen(character)


def _seen(character: str) -> str:
    if character.isprintable() and character not in _BLANK:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    units = character.encode("utf-16-be", "surrogatepass")
    escaped = "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
    return _NAMED.get(character, escaped)
