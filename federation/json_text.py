"""JSON that somebody else wrote: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import codecs
import json
from typing import Any, NoReturn


def without_mark(content: bytes) -> bytes:
    """The content without the byte order mark that some editors put before UTF-8."""
    return content.removeprefix(codecs.BOM_UTF8)


def parse_json(content: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON in UTF-8, also after a byte order mark; raises ValueError for anything else.

    No name comes twice in an object, and text has a UTF-8 form, so that it can be recorded. Numbers are finite, unless
    `finite` is false: the loss of a run that diverged is shown as it is.
    """
    text = without_mark(content).decode() if isinstance(content, bytes) else content
    try:
        if finite:
            found = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=once)
        else:
            found = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate, which only an escape can bring, has no form
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"got {name}, expected a finite number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("got a number that is too large, expected a finite one")
    return value


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these names and values, for `json.loads`; raises ValueError if a name comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("got a name twice in an object")
    return found
