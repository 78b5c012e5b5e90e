"""An Open Data Contract Standard file is a contract as far as it can be held; where it cannot, the place is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import DocumentError
from silo.dataset.contract import Contract
from silo.dataset.loading import load_contract
from silo.worker.data.sources import typed_chunks

from .conftest import ROWS

FILE = """\
apiVersion: v3.1.0
kind: DataContract
id: 53581432-6c55-4ba2-a65f-72344a91553a
name: heart
version: 2.1.0
status: active
tenant: Charité
team: {name: data, members: [{username: ada}]}
slaProperties: [{property: retention, value: 10, unit: y}]
servers:
  - {server: here, type: local, path: heart.csv, format: csv}
customProperties:
  - {property: label, value: sick}
schema:
  - name: heart
    logicalType: object
    properties:
      - name: pid
        logicalType: string
        primaryKey: true
        unique: true
        classification: restricted
        customProperties: [{property: sensitivity, value: medical_record}]
      - name: age
        logicalType: integer
        logicalTypeOptions: {minimum: 0, maximum: 120, format: i32}
        customProperties:
          - {property: sensitivity, value: none}
          - {property: generalise, value: {bands: 5, top: 90}}
      - name: sex
        logicalType: string
        quality: [{type: library, metric: invalidValues, arguments: {validValues: [F, M]}, mustBe: 0}]
        customProperties: [{property: sensitivity, value: none}]
      - name: sick
        logicalType: boolean
        required: true
        customProperties: [{property: sensitivity, value: none}]
"""


def write(directory: Path, text: str) -> Contract:
    path = directory / "heart.odcs.yaml"
    path.write_text(text)
    return load_contract(path)


def test_what_maps_is_held(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_text(ROWS)
    found = write(tmp_path, FILE)
    dataset = found.dataset
    assert (found.name, dataset.metadata.version, dataset.key, dataset.label) == ("heart", 2, "pid", "sick")
    assert dataset.columns["age"].range == (0, 120)
    assert dataset.columns["age"].generalise is not None
    assert dataset.columns["sex"].values == ("F", "M")
    assert dataset.columns["sick"].required
    assert found.digest.startswith("sha256:")
    (rows,) = typed_chunks(found, tuple(dataset.columns))
    assert rows["pid"].to_pylist() == ["P1", "P2", "P3"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v3.1.0", "v2.2.2", "heart.odcs.yaml:1:13: "),
        ("maximum: 120", "exclusiveMaximum: 120", ":26:42: got exclusiveMaximum, which cannot be held"),
        (", maximum: 120", "", ":26:9: got one bound, expected minimum and maximum"),
        ("logicalType: boolean", "logicalType: timestamp", ":35:9: got timestamp, expected one of integer"),
        ("        primaryKey: true\n", "", ":20:9: got unique, which cannot be held"),
        ("metric: invalidValues", "metric: duplicateValues", ":32:19: got a rule that cannot"),
        (
            "arguments: {validValues: [F, M]}",
            "arguments: {pattern: '^[FM]$'}",
            ":32:19: got a rule that cannot",
        ),
        ("type: local", "type: postgres", ":11:5: got a server of type postgres"),
        ("  - {property: label, value: sick}", "  - {property: label, value: ill}", "expected the name of a column"),
        ("{property: sensitivity, value: medical_record}", "{property: x, value: y}", ":18:9: got no sensitivity"),
        ("value: medical_record", "value: secret", ":18:9: sensitivity: expected a class of identifiers"),
        ("logicalTypeOptions:", "logicalTypeOption:", ":26:9: got the unknown field logicalTypeOption"),
    ],
    ids=range(12),
)
def test_what_cannot_be_held_is_refused_at_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    with pytest.raises(DocumentError) as caught:
        write(tmp_path, FILE.replace(old, new))
    assert message in str(caught.value)


def test_two_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="got 2 tables, expected one"):
        write(tmp_path, FILE + "  - {name: other}\n")
