"""The text in an app bundle: what a person sees of it is all there is, and Python reads the same characters."""

from __future__ import annotations

import io
import re
import tokenize
import unicodedata

from federation.errors import BundleError

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_CLOSE = "remove them: reviewers are to see each line where they look"
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_AWAY = (
    (re.compile(r"(?<![^\S\r\n])[^\S\r\n]{201}"), "more than 200 blanks in a row"),
    (re.compile(r"(?:\A|\S[^\S\n]*\n)(?:[^\S\n]*\n){101}"), "more than 100 empty lines in a row"),
)
"""What pushes the text after it out of sight, to the right or down."""
_RUN = re.compile(r"[^\S\n]{21,}")
_FAR = 100
"""The column from which on a line of Python that begins there is as good as an empty one."""
_LONE_STYLE = re.compile("(?:\\A|[\\x00-\\x7f\ufe0f])\ufe0f(?!\u20e3)")
"""The mark that a sign before it is shown in colours, where there is no such sign: it shows nothing."""
_UNSEEN = ((0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
           (0xFE00, 0xFE0E), (0xFFA0, 0xFFA0), (0xFFFC, 0xFFFC), (0x16FE4, 0x16FE4), (0x1D159, 0x1D159),
           (0xE0000, 0xE0FFF))  # fmt: skip
"""Letters and marks that show nothing, of which whole programs have been made inside a string."""


def check_text(name: str, content: bytes) -> None:
    """Raise BundleError unless a file is UTF-8 text without anything unseen; a Python file, code as it looks."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise BundleError(f"{name!a} is not UTF-8 text, so reviewers cannot read it", advice="leave it out") from None
    found = _first_unseen(text)
    if found is not None:
        line = text.count("\n", 0, found) + 1
        character = f"U+{ord(text[found]):04X}"
        raise BundleError(
            f"{name!a} holds a character in line {line} that is not seen or moves text ({character})",
            advice="remove it; text is UTF-8 without a byte order mark, and lines end with a line feed",
        )
    for gap, what in _AWAY:
        away = gap.search(text)
        if away is not None:
            line = text.count("\n", 0, away.start()) + 1
            raise BundleError(
                f"{name!a} has {what} at line {line}, so that what follows is out of sight", advice=_CLOSE
            )
    if name.endswith(".py"):
        _check_in_sight(name, text)
        _check_python(name, content, text)


def _check_in_sight(name: str, text: str) -> None:
    """Raise BundleError where many gaps, none of which is long, push Python code out of sight together."""
    empty = 0
    for number, line in enumerate(text.expandtabs().removesuffix("\n").split("\n"), 1):
        empty = 0 if line[:_FAR].strip() else empty + 1
        if empty > 100 or sum(map(len, _RUN.findall(line))) > 200:
            what = "more than 100 lines in a row that begin out of sight" if empty > 100 else "more than 200 blanks"
            raise BundleError(
                f"{name!a} has {what} at line {number}, so that what follows is out of sight", advice=_CLOSE
            )


def _first_unseen(text: str) -> int | None:
    """Where the first character is that a person cannot see or that ends a line for some readers alone."""
    control = _CONTROL.search(text)
    places = [control.start()] if control else []
    if not text.isascii():
        lone = _LONE_STYLE.search(text)
        places += [lone.end() - 1] if lone else []
        places += [text.index(character) for character in set(text) if _is_unseen(character)]
    return min(places, default=None)


def _is_unseen(character: str) -> bool:
    if character.isascii():
        return False
    category = unicodedata.category(character)
    code = ord(character)
    return category[0] == "C" or category in ("Zl", "Zp") or any(low <= code <= high for low, high in _UNSEEN)


def _check_python(name: str, content: bytes, text: str) -> None:
    for line in content.split(b"\n", 2)[:2]:
        cookie = _COOKIE.match(line)
        if cookie and cookie[1].lower().replace(b"_", b"-") not in (b"utf-8", b"utf8"):
            raise BundleError(f"{name!a} declares another encoding than UTF-8", advice="remove the declaration")
    if text.isascii():
        return
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if not token.string.isascii() and _misleads(token):
                raise BundleError(
                    f"{name!a} names something with other letters than A to Z in line {token.start[0]}",
                    advice="use ASCII outside of strings and comments: letters that look alike are not the same",
                )
    except (tokenize.TokenError, SyntaxError):
        raise BundleError(f"{name!a} cannot be read as Python", advice="run it, and mend what Python says") from None


def _misleads(token: tokenize.TokenInfo) -> bool:
    """Whether a token that is not ASCII is code, or a string whose code holds letters that Python reads as others."""
    if token.type == tokenize.COMMENT:
        return False
    is_string = token.type == tokenize.STRING
    if not is_string and not tokenize.tok_name[token.type].startswith("FSTRING"):
        return True
    formatted = not is_string or token.string.lower().startswith(("f", "rf", "fr"))
    return formatted and any(map(_reads_as_ascii, token.string))


def _reads_as_ascii(character: str) -> bool:
    """Whether Python reads this character in a name as another one, an ASCII letter or digit (it normalises, NFKC)."""
    if character.isascii() or not f"a{character}".isidentifier():
        return False
    return any(one.isascii() for one in unicodedata.normalize("NFKC", character))
