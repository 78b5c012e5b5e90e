"""Makes values coarser before anyone sees them: bands, three-digit ZIP codes, moved dates, clipped outliers."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from silo.dataset.contract import Column
from silo.worker.data.cells import FaultError, Numbers, Typed
from silo.worker.data.keyed import pseudonym, shift
from silo.worker.errors import DataError

SMALL_ZIP3 = (
    "036", "059", "063", "102", "203", "556", "692", "790", "821", "823", "830", "831", "878", "879", "884", "890",
    "893",
)  # fmt: skip
"""Three-digit ZIP codes with 20,000 people or fewer by the 2000 Census (HHS, Guidance Regarding Methods for
De-identification, 26 November 2012, question on 45 CFR 164.514(b)(2)(i)(B))."""
ZIP = "^[0-9]{5}(-?[0-9]{4})?$"


def viewable(name: str, column: Column, *, pseudonymized: bool, key: bool) -> None:
    """Raise DataError where a column can be no part of a view: text that is neither listed nor made coarser."""
    asked = column.generalise
    if column.type == "text" and not pseudonymized and column.values is None and (asked is None or asked.zip3 is None):
        raise DataError(
            f"column {name} is a text without a list of values",
            advice="a view has numbers: list its values in the contract, or have the policy pseudonymize it",
        )
    if asked is not None and asked.shift_days is not None and not key:
        raise DataError(f"column {name} has its dates moved by a key and this worker has none; set pseudonym_key")


def generalised(found: Typed, column: Column, identities: pa.Array | None, start: hmac.HMAC | None) -> Numbers:
    """The numbers of a view: clipped, made coarser, listed texts by their place in the list. Raises FaultError.

    Dates are days since 1970-01-01. `identities` are the row keys as text, for dates that are moved.
    """
    asked = column.generalise
    if column.type == "text":
        if column.values is not None:
            places = pc.index_in(found, value_set=pa.array(column.values, pa.string()))
            return _floats(places)
        return _zip3(found, SMALL_ZIP3 if asked is None or asked.zip3 == "us-census-2000" else tuple(asked.zip3 or ()))
    values: Numbers = found
    if column.clip is not None:
        values = np.clip(values, *column.clip)
    if asked is None:
        return values
    if asked.shift_days is not None:
        if identities is None or start is None:
            raise DataError("dates are to be moved and there is no key")
        days, keyed = asked.shift_days, start
        values = values + mapped(identities, lambda identity: float(shift(identity, days, keyed)))
    if asked.year:
        values = _first_of_year(values)
    banded = values if asked.bands is None else np.floor(values / asked.bands) * asked.bands
    return banded if asked.top is None else np.where(values >= asked.top, asked.top, banded)


def pseudonyms(found: Typed, name: str, column: Column, start: hmac.HMAC) -> Numbers:
    """A column's values as pseudonyms; missing ones stay NaN."""
    return mapped(as_text(found, column), lambda text: pseudonym(text.strip(), name, start))


def as_text(found: Typed, column: Column) -> pa.Array:
    """A column as texts: whole numbers by their digits, nulls for missing."""
    if isinstance(found, pa.Array):
        return found
    numbers = pa.array(found, from_pandas=True)
    return (numbers if column.type == "number" else numbers.cast(pa.int64())).cast(pa.string())


def mapped(texts: pa.Array, function: Callable[[str], float]) -> Numbers:
    """A function of each distinct text; NaN for a missing one."""
    encoded = texts.dictionary_encode()
    known = np.array([function(text) for text in encoded.dictionary.to_pylist()] or [np.nan])
    places: Any = encoded.indices
    missing = places.is_null().to_numpy(zero_copy_only=False)
    found: Numbers = known[pc.fill_null(places, 0).to_numpy(zero_copy_only=False)]
    return np.where(missing, np.nan, found)


def _zip3(found: pa.Array, small: tuple[str, ...]) -> Numbers:
    trimmed = pc.utf8_trim_whitespace(found)
    wrong = pc.fill_null(pc.invert(pc.match_substring_regex(trimmed, ZIP)), False).to_numpy(zero_copy_only=False)
    if wrong.any():
        raise FaultError(int(np.argmax(wrong)), "got text, expected a ZIP code of five or nine digits")
    prefixes = pc.utf8_slice_codeunits(trimmed, 0, 3)
    hidden = pc.is_in(prefixes, value_set=pa.array(small, pa.string()))
    return _floats(pc.if_else(hidden, pa.scalar("000"), prefixes).cast(pa.int32()))


def _floats(places: pa.Array) -> Numbers:
    found: Numbers = places.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def _first_of_year(days: Numbers) -> Numbers:
    known = ~np.isnan(days)
    out = np.full(len(days), np.nan)
    dates = days[known].astype("int64").astype("datetime64[D]")
    out[known] = dates.astype("datetime64[Y]").astype("datetime64[D]").astype("int64")
    return out
