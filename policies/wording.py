"""Text for people: values shortened and made printable, lists, nearest names."""

import difflib
from collections.abc import Iterable, Sequence

from policies.limits import LIMITS

SHOWN_HEX = 12


def shown(value: object) -> str:
    """A value as one printable line, shortened to `LIMITS.shown_characters`."""
    text = str(value)[: LIMITS.shown_characters + 1]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LIMITS.shown_characters else text[:-1] + "..."


def visible(value: object) -> str:
    """A value as one line, whole, with each character that nobody sees written out."""
    text = str(value)
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def short_digest(digest: str) -> str:
    """A digest cut to the first twelve hex digits, its algorithm kept."""
    algorithm, colon, value = digest.rpartition(":")
    cut = value if len(value) <= SHOWN_HEX else value[:SHOWN_HEX] + "..."
    return shown(f"{algorithm}{colon}{cut}")


def listed(items: Iterable[object], none: str = "nothing") -> str:
    """Items with commas, at most `LIMITS.shown_items` of them."""
    every = [shown(item) for item in items]
    text = ", ".join(every[: LIMITS.shown_items])
    rest = len(every) - LIMITS.shown_items
    return (f"{text} and {rest} more" if rest > 0 else text) or none


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one."""
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun[:-1]}ies" if noun.endswith(("cy", "ty")) else f"{number} {noun}s"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name a misspelt word most likely means, if any is close."""
    names: Sequence[str] = list(known)
    folded = {name.casefold(): name for name in names}
    word = word[: LIMITS.shown_characters].casefold()
    if word in folded:
        return folded[word]
    matches = difflib.get_close_matches(word, folded, n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def suggestion(word: str | None) -> str:
    """The ending `; did you mean "word"?`, or nothing."""
    return f'; did you mean "{word}"?' if word else ""


def values_named(count: int) -> str:
    """`1 value` or `n values`."""
    return counted(count, "value")


def size_named(count: int) -> str:
    """A number of bytes, with the binary unit when it is a whole number of it."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power} {unit}"
    return counted(count, "byte")
