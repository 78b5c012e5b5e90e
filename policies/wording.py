"""Text for people: values shortened and made printable, lists, nearest names."""

import difflib
from collections.abc import Iterable, Sequence

from policies.limits import LIMITS

SHOWN_HEX = 12


def shown(value: object) -> str:
    """A value as one printable line, shortened to `LIMITS.shown_characters`."""
    text = str(value)[: LIMITS.shown_characters + 1]
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LIMITS.shown_characters else text[:-1] + "..."


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
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
