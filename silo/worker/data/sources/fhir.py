"""FHIR R4 Bulk Data: NDJSON files of Patient, Observation and Condition, flattened to one row a patient.

Bulk Data Access IG 2.0.0, export files; FHIR R4 (4.0.1), Patient, Observation and Condition.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from silo.dataset.limits import LIMITS
from silo.dataset.sources import FhirExport, Flattened
from silo.worker.data.cells import refused
from silo.worker.data.regular import require_regular
from silo.worker.errors import DataError

CHUNK = 50_000
NOT_MEANT = frozenset({"entered-in-error", "cancelled"})
"""Statuses of an observation, and verification statuses of a condition, that say it does not hold."""
NOT_HELD = frozenset({"entered-in-error", "refuted"})


@dataclass
class _Found:
    """What is known of one patient: a value for each column, and when an observation was made."""

    values: dict[str, Any] = field(default_factory=dict)
    times: dict[str, dt.datetime] = field(default_factory=dict)


def chunks(source: FhirExport, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """One row for each patient, in the order of the Patient files; raises DataError with file, line and column.

    Memory holds one value a patient and column, which is the view, and one resource at a time.
    """
    wanted = {name: source.columns[name] for name in names}
    patients: dict[str, _Found] = {}
    for file, line, resource in resources(source.path, "Patient", names[0]):
        identity = resource.get("id")
        if not isinstance(identity, str) or identity in patients:
            raise refused(file, line, "id", "got no id or one that another patient has, expected one of its own")
        if len(patients) >= LIMITS.patients:
            raise refused(file, line, "id", f"got more than {LIMITS.patients} patients, expected fewer")
        found = patients[identity] = _Found()
        for name, flat in wanted.items():
            if flat.resource == "Patient":
                found.values[name] = _scalar(resource, flat, file, line, name)
            elif flat.resource == "Condition":
                found.values[name] = False
    for kind in ("Observation", "Condition"):
        asked = {name: flat for name, flat in wanted.items() if flat.resource == kind}
        for file, line, resource in resources(source.path, kind, names[0]) if asked else ():
            owner = patients.get(subject_of(resource))
            if owner is None:
                continue
            for name, flat in asked.items():
                if kind == "Condition":
                    owner.values[name] |= _has_code(resource, flat) and status_of(resource) not in NOT_HELD
                else:
                    _observe(owner, resource, flat, file, line, name)
    yield from _tables(list(patients.values()), names, source.path.name)


def _tables(patients: list[_Found], names: tuple[str, ...], source: str) -> Iterator[pa.Table]:
    for start in range(0, len(patients), CHUNK):
        part = patients[start : start + CHUNK]
        columns = {}
        for name in names:
            values = [one.values.get(name) for one in part]
            kinds = {type(value) for value in values if value is not None}
            if len(kinds - {int, float}) and len(kinds) > 1:
                first = next(type(value) for value in values if value is not None)
                index = next(at for at, value in enumerate(values) if value is not None and type(value) is not first)
                raise refused(source, start + index + 1, name, "got a value of another kind than those before")
            numbers = bool(kinds) and kinds <= {int, float}
            columns[name] = pa.array(map(_float, values), pa.float64()) if numbers else pa.array(values)
        yield pa.table(columns)


def _float(value: float | None) -> float | None:
    """A number as any other of its column; one that is too large is infinite, which no column takes."""
    try:
        return None if value is None else float(value)
    except OverflowError:
        return math.inf


def resources(directory: Path, kind: str, column: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """File name, line and resource, of every file named after the type; raises DataError."""
    if not directory.is_dir():
        raise DataError(f"{directory.name}: the directory of the data source is missing")
    paths = sorted(path for path in directory.glob(f"*{kind}*.ndjson"))
    if not paths:
        raise DataError(f"{directory.name}: row 1, column {column}: got no {kind} file (*{kind}*.ndjson), expected one")
    for path in paths:
        require_regular(path)
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LIMITS.fhir_line + 1):
                number += 1
                if len(line) > LIMITS.fhir_line:
                    raise refused(path.name, number, column, f"got a line of more than {LIMITS.fhir_line} bytes")
                if line.strip():
                    yield path.name, number, _parsed(line, kind, path.name, number, column)


def _parsed(line: bytes, kind: str, file: str, number: int, column: str) -> dict[str, Any]:
    try:
        resource = json.loads(line)
        if b"\\u" in line:
            json.dumps(resource, ensure_ascii=False).encode()  # an escape can bring half a character, which has no form
    except UnicodeError:
        raise refused(file, number, column, "got bytes that are not utf-8, expected a resource") from None
    except (ValueError, RecursionError):
        raise refused(file, number, column, "got a line that is not JSON, or cut off, expected a resource") from None
    if not isinstance(resource, dict) or resource.get("resourceType") != kind:
        raise refused(file, number, column, f"got another resource, expected a {kind}")
    return resource


def _scalar(resource: Any, flat: Flattened, file: str, line: int, name: str) -> str | int | float | bool | None:
    for part in (flat.field or "").split("."):
        if isinstance(resource, list) and part.isdigit():
            resource = resource[int(part)] if int(part) < len(resource) else None
        elif isinstance(resource, dict):
            resource = resource.get(part)
        elif resource is not None:
            break
    if resource is None or isinstance(resource, str | int | float | bool):
        return resource
    raise refused(file, line, name, "got an element with parts, expected a single value; name one of its parts")


def subject_of(resource: dict[str, Any]) -> str:
    """The id of the patient whom a resource is about; empty where it names none."""
    subject = resource.get("subject")
    reference = subject.get("reference") if isinstance(subject, dict) else None
    return reference.rpartition("/")[2] if isinstance(reference, str) else ""


def codings(concept: Any) -> list[Any]:
    """The codings of a CodeableConcept; none where it is not one."""
    found = concept.get("coding") if isinstance(concept, dict) else None
    return found if isinstance(found, list) else []


def _has_code(resource: dict[str, Any], flat: Flattened) -> bool:
    given = (one for one in codings(resource.get("code")) if isinstance(one, dict))
    return any(f"{one.get('system')}|{one.get('code')}" == flat.code for one in given)


def is_void(observation: dict[str, Any]) -> bool:
    """Whether an observation's status says that it does not hold."""
    return str(observation.get("status")) in NOT_MEANT


def status_of(resource: dict[str, Any]) -> str:
    """The verification status of a condition; empty where it has none."""
    given = codings(resource.get("verificationStatus"))
    return str(given[0].get("code")) if given and isinstance(given[0], dict) else ""


def _observe(owner: _Found, resource: dict[str, Any], flat: Flattened, file: str, line: int, name: str) -> None:
    """Take an observation's value, or that of one of its components, where it is the one that is asked for."""
    if is_void(resource):
        return
    components = resource.get("component")
    parts = [resource, *(components if isinstance(components, list) else [])]
    part = next((one for one in parts if isinstance(one, dict) and _has_code(one, flat)), None)
    if part is None:
        return
    value = _value(part, flat, file, line, name)
    time = _moment(str(resource.get("effectiveDateTime", "")))
    known = owner.times.get(name)
    if value is not None and (known is None or (time >= known if flat.take == "latest" else time < known)):
        owner.values[name], owner.times[name] = value, time


def _moment(text: str) -> dt.datetime:
    """A FHIR dateTime, which may be a year or a month alone; the earliest moment for none."""
    padded = text + "0001-01-01"[len(text) :] if len(text) in {0, 4, 7} else text
    try:
        found = dt.datetime.fromisoformat(padded)
    except ValueError:
        found = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _value(part: dict[str, Any], flat: Flattened, file: str, line: int, name: str) -> str | int | float | bool | None:
    quantity = part.get("valueQuantity")
    if isinstance(quantity, dict):
        if flat.unit is not None and quantity.get("code") != flat.unit:
            raise refused(file, line, name, f"got a quantity in another unit, expected {flat.unit}")
        found = quantity.get("value")
    elif "valueCodeableConcept" in part:
        given = codings(part["valueCodeableConcept"])
        found = given[0].get("code") if given and isinstance(given[0], dict) else None
    else:
        found = next((part[key] for key in ("valueInteger", "valueBoolean", "valueString") if key in part), None)
    if found is None or isinstance(found, str | int | float | bool):
        return found
    raise refused(file, line, name, "got a value that is no number, text or boolean")
