"""Values that a source may hold and nobody thought of: each command of the data's owner ends in a sentence."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from federation.cli import command
from federation.errors import ConcordatError
from silo.dataset.contract import Column
from silo.dataset.loading import load_contract
from silo.dataset.readiness import parse_summaries
from silo.worker.data.cells import FaultError, typed
from silo.worker.data.owner.check import check
from silo.worker.data.owner.describe import draft
from silo.worker.data.owner.locating import located
from silo.worker.data.owner.mock import table
from silo.worker.data.owner.page import lines, page
from silo.worker.data.owner.survey import survey
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

from .conftest import Write

PEOPLE = [f"p{number}" for number in range(12)]


def patients(**fields: object) -> list[dict[str, Any]]:
    return [{"resourceType": "Patient", "id": who, **fields} for who in PEOPLE]


def observations(**fields: object) -> list[dict[str, Any]]:
    common = {
        "resourceType": "Observation",
        "code": {"coding": [{"system": "s", "code": "c"}]},
        "valueQuantity": {"value": 1.5, "code": "u"},
        **fields,
    }
    return [{**common, "subject": {"reference": f"Patient/{who}"}} for who in PEOPLE]


def export(path: Path, people: list[dict[str, Any]], seen: list[dict[str, Any]]) -> Path:
    path.mkdir()
    for kind, found in (("Patient", people), ("Observation", seen)):
        (path / f"{kind}.ndjson").write_text("".join(json.dumps(one) + "\n" for one in found))
    return path


def described(path: Path) -> str:
    return draft(*located(path))


@pytest.mark.parametrize(
    ("people", "seen"),
    [
        (patients(gender="\ud800"), observations()),
        (patients(), observations(code={"coding": [{"system": "s", "code": "\ud800"}]})),
        (patients(), observations(valueQuantity={"value": 1, "code": "\ud800"})),
        (patients(), observations(valueQuantity={"value": 10**400, "code": "u"})),
        (patients(), observations(valueQuantity={"value": float("nan"), "code": "u"})),
    ],
)
def test_an_export_with_values_that_have_no_form_is_refused(
    tmp_path: Path, people: list[dict[str, Any]], seen: list[dict[str, Any]]
) -> None:
    with pytest.raises(DataError):
        described(export(tmp_path / "export", people, seen))


@pytest.mark.parametrize(
    "seen",
    [
        observations(status=[]),
        observations(status={}),
        observations(valueQuantity={"value": 2**60 + 1, "code": "u"}),
        observations(effectiveDateTime="0001-01-01T00:00:00+14:00") + observations(effectiveDateTime=""),
    ],
)
def test_an_export_with_odd_values_is_described_and_read(tmp_path: Path, seen: list[dict[str, Any]]) -> None:
    text = described(export(tmp_path / "export", patients(), seen))
    (tmp_path / "d.yaml").write_text(text)
    assert check(load_contract(tmp_path / "d.yaml")).rows == len(PEOPLE)


@pytest.mark.parametrize("rows", ["1e308\n", "1e308\n-1e308\n", "1e300\n", "1e15\n", "-5e-324\n"])
def test_the_largest_numbers_are_described_and_checked(tmp_path: Path, rows: str) -> None:
    (tmp_path / "d.csv").write_text("x\n" + rows * 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "d.yaml").write_text(described(tmp_path / "d.csv"))
        found = check(load_contract(tmp_path / "d.yaml"))
    json.dumps(found.fields(), allow_nan=False)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"x\xff,y\n", "column 1: got a name of bytes that are not text"),
        ("x,y\n".encode("utf-16"), "a name of bytes that are not text"),
        (",".join(f"c{number}" for number in range(10_001)).encode() + b"\n", "got 10001 columns, expected at most"),
    ],
)
def test_a_header_that_no_contract_can_have_is_a_sentence(tmp_path: Path, head: bytes, words: str) -> None:
    (tmp_path / "d.csv").write_bytes(head + b"1,1\n")
    with pytest.raises(DataError, match=words):
        described(tmp_path / "d.csv")


NO_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
NOWHERE = pa.array([0], pa.timestamp("ns", tz="Nowhere/No"))


@pytest.mark.parametrize(("values", "kind"), [(NO_TEXT, "text"), (NOWHERE, "date")])
def test_a_parquet_file_of_what_is_no_text_or_no_time_is_a_sentence(
    contract: Write, tmp_path: Path, values: pa.Array, kind: str
) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "d.parquet")
    columns = f"columns: {{x: {{type: {kind}, sensitivity: date}}}}\n"
    found = contract("source: {format: parquet, path: d.parquet}\n", columns)
    with pytest.raises(DataError):
        described(tmp_path / "d.parquet")
    with pytest.raises(DataError):
        list(typed_chunks(found, ("x",)))
    result = CliRunner().invoke(command, ["data", "check", str(found.path)])
    assert isinstance(result.exception, ConcordatError | SystemExit)


@pytest.mark.parametrize(
    ("kind", "reach", "fits"),
    [
        ("integer", "[0, 1.0e300]", True),
        ("integer", "[-1.0e300, 1.0e300]", True),
        ("integer", "[0.2, 0.8]", False),
        ("integer", "[1.0e300, 1.1e300]", False),
        ("number", "[-1.0e308, 1.0e308]", True),
        ("number", "[1.0e308, 1.7e308]", True),
    ],
)
def test_any_range_is_made_up_or_refused(contract: Write, kind: str, reach: str, fits: bool) -> None:
    columns = f"columns: {{x: {{type: {kind}, sensitivity: none, required: true, range: {reach}}}}}\n"
    dataset = contract(columns=columns).dataset
    if not fits:
        with pytest.raises(DataError, match="column x: got the range"):
            table(dataset, 100, 0)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = [float(line) for line in table(dataset, 100, 0).splitlines()[1:]]
    assert len(made) == 100
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": "a", "deviation": "b"},
        {"mean": 1, "deviation": [1]},
        {"mean": 1e999, "deviation": 1},
        {"shares": 5},
        {"shares": {"a": "b"}},
    ],
)
def test_figures_of_an_earlier_check_that_are_none_are_not_compared_with(fields: dict[str, Any]) -> None:
    summary = {"name": "x", "type": "number", "missing": 0, "outside": 0, "wrong": 0}
    assert parse_summaries(json.dumps({"columns": [summary]})) is not None
    assert parse_summaries(json.dumps({"columns": [{**summary, **fields}]})) is None


def test_bands_that_are_too_narrow_for_their_range_end_no_command(contract: Write) -> None:
    column = "{type: number, sensitivity: none, range: [0, 1.0e308], generalise: {bands: 1.0e-308}}"
    dataset = contract(columns=f"columns: {{x: {column}}}\n").dataset
    assert dataset.columns["x"].reach is None
    with pytest.raises(DataError, match="no column with a range"):
        survey(dataset, "HMB")


def test_the_classes_of_a_label_that_may_identify_are_not_told(contract: Write) -> None:
    column, rows = "{type: text, sensitivity: %s}", "who\n" + "Erika Mustermann\n" * 12 + "Max Mustermann\n"
    told = check(contract(columns=f"columns: {{who: {column % 'name'}}}\nlabel: who\n", data=rows))
    assert told.classes == {"class 1": 12, "class 2": 1}
    assert "Mustermann" not in json.dumps(told.fields()) + page(told) + "".join(lines(told))
    known = check(contract(columns=f"columns: {{who: {column % 'none'}}}\nlabel: who\n", data=rows))
    assert known.classes == {"Erika Mustermann": 12, "Max Mustermann": 1}


def test_texts_of_which_no_array_is_made_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 kB of a Parquet file are 12 GB of text: a value of 60 kB, named 200,000 times."""

    def overflow(*_: object, **__: object) -> None:
        raise pa.ArrowInvalid("Take operation overflowed binary array capacity")

    monkeypatch.setattr("pyarrow.compute.cast", overflow)
    values = pa.chunked_array([pa.array(["x"]).dictionary_encode()])
    with pytest.raises(FaultError, match="expected a text"):
        typed(values, Column(type="text", sensitivity="none"))
