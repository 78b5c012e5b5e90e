"""Whatever lies where the data should lie ends in rows within the contract, or in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silo.dataset.contract import Contract
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

from .conftest import ROWS, Write

NAMES = ("pid", "age", "sex", "sick")
BYTES = ROWS.encode()
LIMITED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = st.sampled_from([b'"', b"\n", b"\r\n", b",", b"\0", b"\xff", b"\xef\xbb\xbf", b"'", b" ", b"1e5", b""])
FHIR = """\
source:
  format: fhir
  path: export
  columns:
    pid: {resource: Patient, field: id}
    age: {resource: Observation, code: "s|age"}
    sex: {resource: Patient, field: gender}
    sick: {resource: Condition, code: "s|c"}
"""
SUBJECT = {"reference": "Patient/a"}
RESOURCES = {
    "Patient": {"resourceType": "Patient", "id": "a", "gender": "F"},
    "Observation": {
        "resourceType": "Observation",
        "subject": SUBJECT,
        "effectiveDateTime": "2024-01-01",
        "code": {"coding": [{"system": "s", "code": "age"}]},
        "valueQuantity": {"value": 50},
    },
    "Condition": {"resourceType": "Condition", "subject": SUBJECT, "code": {"coding": [{"system": "s", "code": "c"}]}},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["coding", "code", "value"]), inner),
    max_leaves=4,
)


def held(contract: Contract) -> None:
    """Read everything: every value is within the contract, or one sentence says why not."""
    try:
        for chunk in typed_chunks(contract, NAMES):
            ages = chunk["age"][~np.isnan(chunk["age"])]
            assert ((ages >= 0) & (ages <= 120) & (ages == np.floor(ages))).all()
            assert set(chunk["sex"].to_pylist()) <= {"F", "M", None}
            assert set(chunk["sick"].tolist()) <= {0.0, 1.0}
    except DataError as error:
        told = str(error)
    else:
        told = ""
    assert "\n" not in told
    assert len(told) <= 500


@LIMITED
@given(at=st.integers(0, len(BYTES)), removed=st.integers(0, 6), piece=PIECES | st.binary(max_size=4))
def test_a_csv_file_with_any_change(contract: Write, at: int, removed: int, piece: bytes) -> None:
    held(contract(data=BYTES[:at] + piece + BYTES[at + removed :]))


@LIMITED
@given(data=st.binary(max_size=200))
def test_a_csv_file_of_any_bytes(contract: Write, data: bytes) -> None:
    held(contract(data=b"pid,age,sex,sick\n" + data))
    held(contract(data=data))


@LIMITED
@given(data=st.data())
def test_a_parquet_file_with_any_change(contract: Write, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "heart.parquet"
    pq.write_table(pa.table({"pid": ["a", "b"], "age": [1, 2], "sex": ["F", "M"], "sick": [True, False]}), path)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    held(contract("source: {format: parquet, path: heart.parquet}\n"))


@LIMITED
@given(data=st.data())
def test_a_fhir_export_with_any_value(contract: Write, tmp_path: Path, data: st.DataObject) -> None:
    export = tmp_path / "export"
    export.mkdir(exist_ok=True)
    resources = json.loads(json.dumps(RESOURCES))
    changed = resources[data.draw(st.sampled_from(sorted(resources)))]
    changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(JSON)
    for kind, resource in resources.items():
        (export / f"{kind}.ndjson").write_text(json.dumps(resource) + "\n")
    held(contract(FHIR))
