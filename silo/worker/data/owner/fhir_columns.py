"""Proposes which elements and codes of a FHIR export become columns: those of enough patients, whatever their values.

FHIR R4 (4.0.1), Patient, Observation and Condition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silo.dataset.sources import Flattened
from silo.worker.data.owner.fewest import MINIMUM_CELL
from silo.worker.data.sources.fhir import NOT_HELD, codings, is_void, resources, status_of, subject_of
from silo.worker.errors import DataError

CODES = 10_000
"""Codes that are followed at a time; one that comes later is not proposed."""
PROPOSED = 900
ELEMENT = re.compile("[A-Za-z]{1,100}")
POSTAL_CODE = "address.0.postalCode"
SYSTEMS = {"http://loinc.org": "loinc", "http://snomed.info/sct": "snomed"}
"""How a code's system is called in a column's name."""


@dataclass
class _Followed:
    """The first patients of whom a code is known, at most MINIMUM_CELL of them, and the units of its quantities."""

    patients: set[str] = field(default_factory=set)
    units: set[str | None] = field(default_factory=set)

    def take(self, patient: str, unit: str | None = None) -> None:
        if len(self.patients) < MINIMUM_CELL:
            self.patients.add(patient)
        if len(self.units) < 2:
            self.units.add(unit)

    @property
    def enough(self) -> bool:
        return len(self.patients) >= MINIMUM_CELL


def proposed(directory: Path) -> dict[str, Flattened]:
    """The columns by name; an observation in several units has none, so that they are not mixed. Raises DataError."""
    found: dict[str, Flattened] = {}
    for name, flat in _all(directory):
        if name not in found and len(found) < PROPOSED:
            found[name] = flat
    return found


def _all(directory: Path) -> Iterator[tuple[str, Flattened]]:
    for element in _elements(directory):
        name = "patient_id" if element == "id" else element.rpartition(".")[2]
        yield name, Flattened(resource="Patient", field=element)
    if any(directory.glob("*Observation*.ndjson")):
        for code, seen in _codes(directory, "Observation").items():
            if len(seen.units) == 1:
                (unit,) = seen.units
                yield _called(code), Flattened(resource="Observation", code=code, unit=unit)
    if any(directory.glob("*Condition*.ndjson")):
        for code in _codes(directory, "Condition"):
            yield _called(code), Flattened(resource="Condition", code=code)


def _elements(directory: Path) -> list[str]:
    """The single-valued elements of ten patients or more, and the first address's postal code; the id first."""
    counts = {"id": 0}
    for _, _, patient in resources(directory, "Patient", "id"):
        names = [
            name for name, value in patient.items() if isinstance(value, str | int | float) and ELEMENT.fullmatch(name)
        ]
        addresses = patient.get("address")
        first = addresses[0] if isinstance(addresses, list) and addresses else None
        if isinstance(first, dict) and isinstance(first.get("postalCode"), str):
            names.append(POSTAL_CODE)
        for name in names:
            if name in counts or len(counts) < CODES:
                counts[name] = counts.get(name, 0) + 1
    if counts["id"] < MINIMUM_CELL:
        raise DataError(f"{directory.name}: got {counts['id']} patients, expected {MINIMUM_CELL} or more")
    return [name for name, count in counts.items() if count >= MINIMUM_CELL and name != "resourceType"]


def _codes(directory: Path, kind: str) -> dict[str, _Followed]:
    """The codes, `system|code`, of ten patients or more, in order."""
    followed: dict[str, _Followed] = {}
    for _, _, resource in resources(directory, kind, "code"):
        patient = subject_of(resource)
        void = is_void(resource) if kind == "Observation" else status_of(resource) in NOT_HELD
        if not patient or void:
            continue
        components = resource.get("component") if kind == "Observation" else None
        for part in (resource, *(components if isinstance(components, list) else ())):
            if not isinstance(part, dict) or (
                kind == "Observation" and not any(key.startswith("value") for key in part)
            ):
                continue
            for code in _of(part):
                if code in followed or len(followed) < CODES:
                    followed.setdefault(code, _Followed()).take(patient, _unit(part))
    return {code: followed[code] for code in sorted(followed) if followed[code].enough}


def _of(part: dict[str, Any]) -> Iterator[str]:
    for one in codings(part.get("code")):
        if isinstance(one, dict) and isinstance(one.get("system"), str) and isinstance(one.get("code"), str):
            code = f"{one['system']}|{one['code']}"
            if re.fullmatch(r"[^|]{1,199}\|[^|]{1,199}", code):
                yield code


def _unit(part: dict[str, Any]) -> str | None:
    quantity = part.get("valueQuantity")
    unit = quantity.get("code") if isinstance(quantity, dict) else None
    return unit if isinstance(unit, str) and 0 < len(unit) <= 200 else None


def _called(code: str) -> str:
    system, _, number = code.partition("|")
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{SYSTEMS.get(system, 'code')}_{number}")[:100]
