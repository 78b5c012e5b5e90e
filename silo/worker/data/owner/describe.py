"""Drafts a contract from data: names, types, ranges and missing values; no value of a column that may identify."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import LiteralScalarString

from policies.vocabulary import identifier_classes
from silo.dataset.contract import Column, Contract, Dataset, DatasetMetadata
from silo.dataset.sources import FhirExport, Source, SqlQuery, name_of
from silo.worker.data.cells import FaultError, typed
from silo.worker.data.owner.fewest import MINIMUM_CELL
from silo.worker.data.sources import names_of, raw_chunks
from silo.worker.errors import DataError

DISTINCT = 20
"""Most values that a column of codes has."""
TYPES = ("integer", "number", "boolean", "date")
MISSING = ("?", ".", "-", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "unknown")
"""Texts that mean a missing value where all others of a column have another type than text."""
UNLESS_SUSPECTED = {"text": "other", "date": "date"}
"""The class that a column of a type is drafted with where its name suggests none."""
COLUMNS = 10_000
"""The columns of a contract."""
LONGEST = 200
"""The characters of a name, or of a listed value, in a contract."""
DECIDE = "decide: a class of identifiers, or none"
HINTS = {
    "name": ("name", "surname", "vorname", "nachname"),
    "geography": ("zip", "postal", "plz", "city", "street", "address"),
    "date": ("date", "birth", "dob", "datum"),
    "telephone": ("phone", "mobile"),
    "email": ("mail",),
    "medical_record": ("mrn", "pid", "patient", "person_id"),
    "account": ("account", "iban"),
    "social_security": ("ssn", "social"),
}


@dataclass
class _Seen:
    """What is known of one column so far."""

    possible: list[str] = field(default_factory=lambda: [*TYPES, "text"])
    missing: int = 0
    marks: set[str] = field(default_factory=set)
    low: float = np.inf
    high: float = -np.inf
    counts: dict[str, int] | None = field(default_factory=dict)


def draft(source: Source, name: str) -> str:
    """The text of a contract that is to be read and completed by a person; raises DataError.

    The source is read as a worker reads it, once and chunk by chunk.
    """
    names = tuple(names_of(source))
    _require_names(source, names, name)
    texts = {column: Column(type="text", sensitivity="none") for column in names}
    metadata = DatasetMetadata(name=name, version=1)
    contract = Contract(
        Dataset(apiVersion="concordat/v1", kind="Dataset", metadata=metadata, source=source, columns=texts), "", Path()
    )
    seen = {column: _Seen() for column in names}
    rows = 0
    for table in raw_chunks(contract, names):
        rows += len(table)
        for column, known in seen.items():
            _look(known, table.column(column))
    if not rows:
        raise DataError(f"{name_of(source)}: the source has no rows")
    for column, known in seen.items():
        if not known.possible:
            raise DataError(
                f"{name_of(source)}: column {column} has values that a contract has no type for",
                advice="leave it out, or have the query cast it",
            )
    return _yaml(source, name, {column: _column(column, known) for column, known in seen.items()}, rows)


def _require_names(source: Source, columns: tuple[str, ...], name: str) -> None:
    """Raise DataError for names that a contract cannot have."""
    if not columns:
        raise DataError(f"{name_of(source)}: the source has no columns")
    if len(columns) > COLUMNS:
        raise DataError(f"{name_of(source)}: got {len(columns)} columns, expected at most {COLUMNS}")
    for number, column in enumerate(columns, 1):
        if any("\ud800" <= character <= "\udfff" for character in column):
            message = "got a name of bytes that are not text, expected UTF-8"
            raise DataError(f"{name_of(source)}: column {number}: {message}")
        if not 1 <= len(column) <= LONGEST:
            message = f"got a name of {len(column)} characters, expected 1 to {LONGEST}"
            raise DataError(f"{name_of(source)}: column {number}: {message}")
    try:
        DatasetMetadata(name=name, version=1)
    except ValidationError:
        message = f"got the name {name[:80]!r}, expected letters, digits, dots, dashes and underscores"
        raise DataError(message, advice="give another with --name") from None


def _look(known: _Seen, values: pa.ChunkedArray) -> None:
    known.missing += values.null_count
    if pa.types.is_string(values.type):
        marked = pc.is_in(values, value_set=pa.array(MISSING, values.type))
        known.marks.update(pc.unique(values.filter(marked)).to_pylist())
    if pa.types.is_string(values.type) and pc.any(pc.match_substring_regex(values, "^0[0-9]")).as_py():
        # A code, such as a ZIP code: as a number it would lose its zeros.
        known.possible = [kind for kind in known.possible if kind not in {"integer", "number"}]
    for kind in list(known.possible):
        try:
            column = Column(type=kind, sensitivity="none", missing=() if kind == "text" else MISSING)  # type: ignore[arg-type]
            found = typed(values, column, bounds=False)
        except FaultError:
            known.possible.remove(kind)
            continue
        if kind == "text":
            _count(known, found)
            continue
        there = found[~np.isnan(found)]
        if kind in {"integer", "number"} and len(there):
            known.low, known.high = min(known.low, float(there.min())), max(known.high, float(there.max()))


def _count(known: _Seen, texts: pa.Array) -> None:
    """Count how often each text occurs, as long as there are few."""
    if known.counts is None:
        return
    for one in pc.value_counts(pc.drop_null(texts)).to_pylist():
        known.counts[one["values"]] = known.counts.get(one["values"], 0) + one["counts"]
    if len(known.counts) > 50 * DISTINCT:
        known.counts = None


def suspected(name: str) -> str | None:
    """The class of identifiers that a column's name suggests."""
    words = name.casefold()
    found = next((kind for kind, hints in HINTS.items() if any(hint in words for hint in hints)), None)
    return found if found in identifier_classes().classes else None


def _column(name: str, known: _Seen) -> dict[str, Any]:
    """A column's draft: bounds are rounded outwards, values are listed where each is shared by ten rows or more."""
    kind = known.possible[0]
    if kind == "integer" and known.low >= 0 and known.high <= 1 and "boolean" in known.possible:
        kind = "boolean"
    suspicion = suspected(name)
    draft: dict[str, Any] = {"type": kind, "sensitivity": suspicion or UNLESS_SUSPECTED.get(kind, "none")}
    if suspicion is None and kind in {"integer", "number"} and np.isfinite([known.low, known.high]).all():
        reach = _outwards(known.low, known.high)
        draft |= {} if reach is None else {"range": list(reach)}
    counts = known.counts if suspicion is None and kind == "text" else None
    listed = counts is not None and all(1 <= len(value) <= LONGEST for value in counts)
    if counts and listed and len(counts) <= DISTINCT and min(counts.values()) >= MINIMUM_CELL:
        draft |= {"sensitivity": "none", "values": sorted(counts)}
    if kind != "text" and known.marks:
        draft["missing"] = sorted(known.marks)
    elif not known.missing:
        draft["required"] = True
    return draft


def _outwards(low: float, high: float) -> tuple[int | float, int | float] | None:
    """Bounds that no single value is: the next multiples of a tenth of the span's power of ten; None beyond floats."""
    with np.errstate(all="ignore"):
        step = 10.0 ** np.floor(np.log10(max(high - low, 1e-9)))
        found = np.floor(low / step) * step, (np.floor(high / step) + 1) * step
    if not np.isfinite(found).all() or not found[0] < found[1]:
        return None
    rounded = [round(float(one), 12) for one in found]
    return tuple(int(one) if one == int(one) else one for one in rounded)  # type: ignore[return-value]


def _yaml(source: Source, name: str, columns: dict[str, dict[str, Any]], rows: int) -> str:
    plain = source.model_dump(mode="json", exclude_defaults=True)
    content = CommentedMap(apiVersion="concordat/v1", kind="Dataset")
    content["metadata"] = _flow({"name": name, "version": 1})
    content["source"] = _block(plain) if isinstance(source, SqlQuery | FhirExport) else _flow(plain)
    content["columns"] = CommentedMap()
    for column, fields in columns.items():
        content["columns"][column] = _flow(fields)
        if fields["sensitivity"] != "none" or fields["type"] == "text":
            content["columns"].yaml_add_eol_comment(DECIDE, column)
    content.yaml_set_start_comment(
        f"A draft from {rows} rows. Complete it: sensitivity of every column, units, key, label, consent.\n"
    )
    out = io.StringIO()
    writer = YAML()
    writer.width = 200
    writer.dump(content, out)
    return out.getvalue()


def _flow(fields: dict[str, Any]) -> CommentedMap:
    found = CommentedMap()
    for key, value in fields.items():
        found[key] = CommentedSeq(value) if isinstance(value, list) else value
        if isinstance(value, list):
            found[key].fa.set_flow_style()
    found.fa.set_flow_style()
    return found


def _block(fields: dict[str, Any]) -> CommentedMap:
    """A mapping with a line for each entry, and a text of several lines as it was written."""
    found = CommentedMap()
    for key, value in fields.items():
        if isinstance(value, dict):
            found[key] = CommentedMap((name, _flow(one)) for name, one in value.items())
        else:
            found[key] = LiteralScalarString(value) if "\n" in str(value) else value
    return found
