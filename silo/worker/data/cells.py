"""Turns the columns of a chunk into numbers and texts of the contract's types; a value that does not fit has a place.

No message holds a value of the data: it names the file, the row (records count from 1, a header does not), the column,
and what was expected there.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from silo.dataset.contract import Column
from silo.dataset.limits import LIMITS
from silo.worker.errors import DataError

Numbers: TypeAlias = npt.NDArray[np.float64]
Typed: TypeAlias = Any
"""Float64 numbers with NaN for missing, or an Arrow array of strings with nulls."""

TRUE = ("1", "1.0", "true", "yes", "y")
FALSE = ("0", "0.0", "false", "no", "n")
_NUMBER = re.compile(r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_EXPECTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "yes or no, true or false, 1 or 0",
    "date": "a date as YYYY-MM-DD",
    "text": f"a text of at most {LIMITS.field} bytes",
}


@dataclass
class FaultError(Exception):
    """A value that does not fit: its place in the chunk, from 0, and what was expected."""

    index: int
    message: str


def refused(source: str, row: int, column: str, message: str) -> DataError:
    """The error that names a value's place."""
    return DataError(f"{source}: row {row}, column {column}: {message}"[:500])


def typed_columns(
    table: pa.Table, names: tuple[str, ...], columns: Mapping[str, Column], source: str, before: int
) -> dict[str, Typed]:
    """The columns of a chunk by the contract's types; `before` rows came before it. Raises DataError for the first."""
    found: dict[str, Typed] = {}
    faults: list[tuple[int, str, str]] = []
    for name in names:
        try:
            found[name] = typed(table.column(name), columns[name])
        except FaultError as fault:
            faults.append((fault.index, name, fault.message))
    if faults:
        index, name, message = min(faults)
        raise refused(source, before + index + 1, name, message)
    return found


def typed(values: pa.ChunkedArray, column: Column, *, bounds: bool = True) -> Typed:
    """One column by its contract's type; raises FaultError. Without `bounds` range and values are not looked at."""
    try:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if column.missing and _is_text(values.type):
            coded = pc.is_in(values, value_set=pa.array(column.missing, values.type))
            values = pc.if_else(coded, pa.scalar(None, values.type), values)
        found = _CONVERSIONS[column.type](values)
    except pa.ArrowException:  # a moment in a time zone that there is not; texts of which no array is made
        raise _wrong_type(values, column.type) from None
    if column.required:
        absent = found.is_null().to_numpy(zero_copy_only=False) if column.type == "text" else np.isnan(found)
        _first(absent, "got no value, expected one")
    if bounds:
        within_bounds(found, column)
    return found


def within_bounds(found: Typed, column: Column) -> None:
    """Check range and values; raises FaultError."""
    outside = out_of_bounds(found, column)
    if outside is not None:
        expected = f"{column.range[0]:g} to {column.range[1]:g}" if column.range else "one of the contract's values"
        _first(outside, f"got a value outside the contract, expected {expected}")


def out_of_bounds(found: Typed, column: Column) -> npt.NDArray[np.bool_] | None:
    """Which values are outside the range or the list of values; None where none can be."""
    if column.values is not None and column.type == "text":
        known = pc.is_in(found, value_set=pa.array(column.values, pa.string()))
        unknown: npt.NDArray[np.bool_] = pc.and_(pc.invert(known), found.is_valid()).to_numpy(zero_copy_only=False)
        return unknown
    outside = None
    if column.range is not None and len(found):
        low, high = column.range
        # A comparison with NaN is false: missing values are not outside.
        outside = (found < low) | (found > high)
    if column.values is not None:
        strange = ~np.isin(found, np.array(column.values, dtype=np.float64)) & ~np.isnan(found)
        outside = strange if outside is None else outside | strange
    return outside


def problem_of(text: str, column: Column) -> str | None:
    """What is wrong with one value as a text, where it has the wrong form; for finding the place of a fault."""
    if len(text) > LIMITS.field or len(text.encode("utf-8", "replace")) > LIMITS.field:
        return f"got a text of more than {LIMITS.field} bytes, expected fewer"
    stripped = text.strip()
    forms: dict[str, Callable[[str], bool]] = {
        "integer": lambda value: _is_number(value) and float(value).is_integer(),
        "number": _is_number,
        "boolean": lambda value: value.lower() in {*TRUE, *FALSE},
        "date": _is_date,
        "text": lambda _: True,
    }
    return None if forms[column.type](stripped) else f"got {_kind(stripped)}, expected {_EXPECTED[column.type]}"


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and np.isfinite(float(text)).item()


def _is_date(text: str) -> bool:
    try:
        dt.datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007  a calendar date has no zone
    except ValueError:
        return False
    return True


def _kind(text: str) -> str:
    return "nothing" if not text else "a number" if _is_number(text) else "text"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first(wrong: npt.NDArray[np.bool_], message: str) -> None:
    index = int(np.argmax(wrong)) if len(wrong) else 0
    if len(wrong) and wrong[index]:
        raise FaultError(index, message)


def _wrong_type(values: pa.Array, expected: str) -> FaultError:
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    return FaultError(int(np.argmax(valid)) if len(valid) else 0, f"got {values.type}, expected {_EXPECTED[expected]}")


def _by_text(values: pa.Array, target: pa.DataType, expected: str) -> pa.Array:
    try:
        return pc.cast(pc.utf8_trim_whitespace(values), target)
    except pa.ArrowInvalid:
        column = Column(type=expected, sensitivity="none")  # type: ignore[arg-type]
        for index, value in enumerate(values.to_pylist()):
            problem = None if value is None else problem_of(value, column)
            if problem is not None:
                raise FaultError(index, problem) from None
        raise FaultError(0, f"got text, expected {_EXPECTED[expected]}") from None


def _numbers(values: pa.Array, expected: str = "number") -> Numbers:
    kind = values.type
    if _is_text(kind):
        values = _by_text(values, pa.float64(), expected)
    elif pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        values = values.cast(pa.float64(), safe=False)
    else:
        raise _wrong_type(values, expected)
    found: Numbers = values.to_numpy(zero_copy_only=False)
    finite = np.isfinite(found)
    if not finite.all():
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        _first(valid & ~finite, f"got no finite number, expected {_EXPECTED[expected]}")
    return found


def _integers(values: pa.Array) -> Numbers:
    found = _numbers(values, "integer")
    with np.errstate(invalid="ignore"):
        _first(np.floor(found) < found, "got a fraction, expected a whole number")
        _first(np.abs(found) > 2.0**53, "got a number beyond 2^53, expected a smaller one, or declare it as text")
    return found


def _booleans(values: pa.Array) -> Numbers:
    kind = values.type
    if _is_text(kind):
        words = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        true, false = (pc.is_in(words, value_set=pa.array(which, words.type)) for which in (TRUE, FALSE))
        valid, yes, no = (part.to_numpy(zero_copy_only=False) for part in (values.is_valid(), true, false))
        _first(valid & ~yes & ~no, f"got text, expected {_EXPECTED['boolean']}")
        return np.where(valid, yes.astype(np.float64), np.nan)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    found = _numbers(values, "boolean")
    _first(~np.isin(found, (0.0, 1.0)) & ~np.isnan(found), f"got a number, expected {_EXPECTED['boolean']}")
    return found


def _dates(values: pa.Array) -> Numbers:
    kind = values.type
    if _is_text(kind):
        values = _by_text(values, pa.date32(), "date")
    elif pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        values = values.cast(pa.date32(), safe=False)
    elif pa.types.is_null(kind):
        values = values.cast(pa.date32())
    elif not pa.types.is_date32(kind):
        raise _wrong_type(values, "date")
    days: Numbers = values.cast(pa.int32()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    return days


def _texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_large_string(kind):
        values = values.cast(pa.string())
    elif not pa.types.is_string(kind):
        raise _wrong_type(values, "text")
    longest = pc.max(pc.binary_length(values)).as_py()
    if longest is not None and longest > LIMITS.field:
        too_long = pc.greater(pc.fill_null(pc.binary_length(values), 0), LIMITS.field)
        message = f"got a text of more than {LIMITS.field} bytes, expected fewer"
        _first(too_long.to_numpy(zero_copy_only=False), message)
    return values


_CONVERSIONS: dict[str, Callable[[pa.Array], Typed]] = {
    "text": _texts,
    "integer": _integers,
    "number": _numbers,
    "boolean": _booleans,
    "date": _dates,
}
