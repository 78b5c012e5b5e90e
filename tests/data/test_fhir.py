"""A FHIR R4 bulk export becomes one row a patient, by the contract's own mapping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fhir.resources.R4B.condition import Condition
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.patient import Patient

from silo.dataset.contract import Contract
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

from .conftest import Write

LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
SOURCE = f"""\
source:
  format: fhir
  path: export
  columns:
    pid: {{resource: Patient, field: id}}
    born: {{resource: Patient, field: birthDate}}
    zip: {{resource: Patient, field: address.0.postalCode}}
    systolic: {{resource: Observation, code: "{LOINC}|8480-6", unit: "mm[Hg]"}}
    first: {{resource: Observation, code: "{LOINC}|8480-6", take: first}}
    smoker: {{resource: Observation, code: "{LOINC}|72166-2"}}
    diabetes: {{resource: Condition, code: "{SNOMED}|73211009"}}
"""
COLUMNS = """\
columns:
  pid: {type: text, sensitivity: medical_record}
  born: {type: date, sensitivity: date}
  zip: {type: text, sensitivity: geography}
  systolic: {type: number, sensitivity: none, range: [0, 400]}
  first: {type: number, sensitivity: none}
  smoker: {type: text, sensitivity: none, values: ["never", "449868002"]}
  diabetes: {type: boolean, sensitivity: none}
"""
NAMES = ("pid", "born", "zip", "systolic", "first", "smoker", "diabetes")


def patient(who: str, **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": who, "birthDate": "1970-01-02", **fields}


def pressure(who: str, value: float, when: str, status: str = "final", unit: str = "mm[Hg]") -> dict[str, Any]:
    """A blood pressure as it is exported: a panel whose component is the systolic pressure."""
    code = {"coding": [{"system": LOINC, "code": "8480-6"}]}
    part = {"code": code, "valueQuantity": {"value": value, "code": unit, "system": "http://unitsofmeasure.org"}}
    panel = {"coding": [{"system": LOINC, "code": "85354-9"}]}
    return observation(who, code=panel, component=[part], effectiveDateTime=when, status=status)


def observation(who: str, **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "subject": {"reference": f"Patient/{who}"}, **fields}


def condition(who: str, verified: str = "confirmed") -> dict[str, Any]:
    status = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    return {
        "resourceType": "Condition",
        "subject": {"reference": f"Patient/{who}"},
        "code": {"coding": [{"system": SNOMED, "code": "73211009"}]},
        "verificationStatus": {"coding": [{"system": status, "code": verified}]},
    }


SMOKER = observation(
    "b",
    code={"coding": [{"system": LOINC, "code": "72166-2"}]},
    valueCodeableConcept={"coding": [{"system": SNOMED, "code": "449868002"}]},
)
PATIENTS = [patient("a", address=[{"postalCode": "02139"}]), patient("b", birthDate="1969-12-31"), patient("c")]
OBSERVATIONS = [
    pressure("a", 120, "2024-05-01T10:00:00+02:00"),
    pressure("a", 140, "2024-05-01T09:30:00Z"),
    pressure("a", 90, "2024"),
    pressure("a", 300, "2025-01-01", status="entered-in-error"),
    pressure("stranger", 130, "2024-01-01"),
    SMOKER,
]
CONDITIONS = [condition("a"), condition("b", verified="refuted")]


def export(path: Path, **files: list[dict[str, Any]] | bytes) -> None:
    (path / "export").mkdir(exist_ok=True)
    for kind, resources in {"Patient": PATIENTS, "Observation": OBSERVATIONS, "Condition": CONDITIONS, **files}.items():
        lines = resources if isinstance(resources, bytes) else "\n".join(map(json.dumps, resources)).encode()
        (path / "export" / f"{kind}.000.ndjson").write_bytes(lines)


def test_the_examples_are_valid_resources() -> None:
    for one in PATIENTS:
        Patient.model_validate(one)
    for one in OBSERVATIONS:
        Observation.model_validate(one)
    for one in CONDITIONS:
        Condition.model_validate(one)


def test_one_row_a_patient(contract: Write, tmp_path: Path) -> None:
    export(tmp_path)
    (rows,) = typed_chunks(contract(SOURCE, COLUMNS), NAMES)
    assert rows["pid"].to_pylist() == ["a", "b", "c"]
    assert rows["born"].tolist() == [1, -1, 1]
    assert rows["zip"].to_pylist() == ["02139", None, None]
    # 09:30 in UTC is later than 10:00 two hours east of it; the year alone is earliest; the error is no value.
    np.testing.assert_array_equal(rows["systolic"], [140, np.nan, np.nan])
    np.testing.assert_array_equal(rows["first"], [90, np.nan, np.nan])
    assert rows["smoker"].to_pylist() == [None, "449868002", None]
    assert rows["diabetes"].tolist() == [1, 0, 0]


def test_only_what_is_asked_for_is_opened(contract: Write, tmp_path: Path) -> None:
    export(tmp_path, Observation=b"not JSON", Condition=b"not JSON")
    (rows,) = typed_chunks(contract(SOURCE, COLUMNS), ("born",))
    assert rows["born"].tolist() == [1, -1, 1]


def refusal(contract: Contract, names: tuple[str, ...] = NAMES) -> str:
    with pytest.raises(DataError) as caught:
        list(typed_chunks(contract, names))
    return str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"Patient": b""}, "export: row 1, column pid: got no rows"),
        ({"Patient": b'{"resourceType": "Pat'}, "Patient.000.ndjson: row 1, column pid: got a line that is not JSON"),
        (
            {"Patient": b'{"resourceType": "\xff"}'},
            "Patient.000.ndjson: row 1, column pid: got bytes that",
        ),
        ({"Patient": b"[" * 100_000}, "Patient.000.ndjson: row 1, column pid: got a line that is not JSON"),
        ({"Patient": [patient("a"), patient("a")]}, "Patient.000.ndjson: row 2, column id: got no id or one that"),
        ({"Patient": [SMOKER]}, "Patient.000.ndjson: row 1, column pid: got another resource, expected a Patient"),
        ({"Patient": [patient("a", birthDate="1970")]}, "export: row 1, column born: got a number, expected a date"),
        (
            {"Patient": [patient("a", birthDate={})]},
            "Patient.000.ndjson: row 1, column born: got an element",
        ),
        ({"Observation": [pressure("a", 401, "2024")]}, "export: row 1, column systolic: got a value outside"),
        (
            {"Observation": [pressure("b", 12, "2024", unit="kPa")]},
            "Observation.000.ndjson: row 1, column systolic: got a quantity in another unit, expected mm[Hg]",
        ),
    ],
    ids=range(10),
)
def test_an_export_that_does_not_fit(contract: Write, tmp_path: Path, files: dict[str, Any], message: str) -> None:
    export(tmp_path, **files)
    assert refusal(contract(SOURCE, COLUMNS)).startswith(message)


def test_an_export_without_a_file_of_a_type(contract: Write, tmp_path: Path) -> None:
    found = contract(SOURCE, COLUMNS)
    assert "the directory of the data source is missing" in refusal(found)
    export(tmp_path)
    (tmp_path / "export" / "Condition.000.ndjson").unlink()
    assert "got no Condition file" in refusal(found)
