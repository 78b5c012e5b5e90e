"""Reads what a worker says, field by field: app code may hold its end of the channel, so nothing is taken on trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from federation.limits import LIMITS
from silo.gate.worker_link import WorkerError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME_CHARACTERS = 200


class Account:
    """The fields of one answer; `what` is what a person is told of it. Each method raises WorkerError."""

    def __init__(self, what: str, fields: Mapping[str, Any]) -> None:
        self._what, self._fields = what, fields

    def wrong(self, problem: str) -> WorkerError:
        """The error for an account that cannot be."""
        return WorkerError(f"{self._what} cannot be: {problem}")

    def whole(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number from `least` to `most`; `default` where it is not told."""
        value = self._fields.get(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"got {shown(value)} for {name}, expected a whole number from {least} to {most}")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A number of rows, which may be 0."""
        return self.whole(name, 0, LIMITS.examples, default)

    def rate(self, name: str, most: float) -> float | None:
        """A number above 0, at most `most`; None where it is not told."""
        value = self._fields.get(name)
        if value is not None and not (isinstance(value, float) and 0 < value <= most):
            raise self.wrong(f"got {shown(value)} for {name}, expected a number above 0, at most {most:g}")
        return value

    def digest(self, name: str) -> str:
        """A digest."""
        value = self.optional_digest(name)
        if value is None:
            raise self.wrong(f"{name} is missing, expected a digest")
        return value

    def optional_digest(self, name: str) -> str | None:
        """A digest; None where it is not told."""
        value = self._fields.get(name)
        if value is not None and not (isinstance(value, str) and _DIGEST.fullmatch(value)):
            raise self.wrong(f"{name} is no digest, expected sha256: and 64 hex digits")
        return value

    def text(self, name: str, most: int, default: str | None = None) -> str:
        """A text of at most so many characters."""
        value = self._fields.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise self.wrong(f"got {shown(value)} for {name}, expected a text of at most {most} characters")
        return value

    def optional_name(self, name: str) -> str | None:
        """The name of a column; None where it is not told."""
        return None if self._fields.get(name) is None else self.text(name, _NAME_CHARACTERS)

    def names(self, name: str, most: int) -> tuple[str, ...]:
        """Names of columns, at most so many; none where they are not told."""
        value = self._fields.get(name, [])
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(f"got {shown(value)} for {name}, expected a list of at most {most} names")
        if not all(isinstance(one, str) and len(one) <= _NAME_CHARACTERS for one in value):
            raise self.wrong(f"got a name among {name} that is none of a column")
        return tuple(value)

    def numbers(self, name: str, most: int) -> dict[str, float]:
        """Numbers by name, at most so many; NaN and infinities are for the policy to refuse."""
        value = self._fields.get(name)
        if not isinstance(value, dict) or len(value) > most:
            raise self.wrong(f"got {shown(value)} for {name}, expected at most {most} numbers by name")
        found = {}
        for key, number in value.items():
            if len(key) > _NAME_CHARACTERS or isinstance(number, bool) or not isinstance(number, int | float):
                raise self.wrong(f"got {shown(number)} among {name}, expected a number with a short name")
            try:
                found[key] = float(number)
            except OverflowError:
                raise self.wrong(f"got {shown(number)} among {name}, which no float holds") from None
        return found

    def pairs(self, name: str, count: int) -> list[tuple[int, int]]:
        """Exactly so many pairs of counts."""
        value = self._fields.get(name)
        if not isinstance(value, list) or len(value) != count or not all(_is_pair(one) for one in value):
            raise self.wrong(f"{name} are no {count} pairs of whole numbers from 0 to {LIMITS.examples}")
        return [(first, second) for first, second in value]

    def given(self, name: str) -> Any:
        """Whatever stands under a name, for a reader of its own."""
        if name not in self._fields:
            raise WorkerError(f"{self._what} lack a field: {name}")
        return self._fields[name]


def shown(value: object) -> str:
    """A worker's value for a sentence: short, without control characters, whatever it is."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"
    return ascii(value[:20]) if isinstance(value, str) else f"a {type(value).__name__}"


def _is_pair(value: object) -> bool:
    fits = isinstance(value, list) and len(value) == 2
    return fits and all(type(one) is int and 0 <= one <= LIMITS.examples for one in value)  # type: ignore[attr-defined]
