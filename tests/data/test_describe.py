"""`concordat data describe` of a query and of a FHIR export: a contract that these data satisfy, and nothing rare."""

from __future__ import annotations

import datetime as dt
import json
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from federation.cli import command
from policies.errors import DocumentError
from silo.dataset.contract import Contract
from silo.dataset.loading import load_contract
from silo.dataset.sources import CsvFile, FhirExport
from silo.worker.data.owner.check import check
from silo.worker.data.owner.describe import draft
from silo.worker.data.owner.locating import located
from silo.worker.errors import DataError

from .test_fhir import LOINC, SNOMED, condition, observation, patient, pressure
from .test_odcs import FILE

HEAD = "apiVersion: concordat/v1\nkind: Dataset\nmetadata: {name: ward, version: 1}\n"
RARE = "rare-word"


def concordat(*words: str | Path) -> Result:
    return CliRunner().invoke(command, ["data", *map(str, words)])


def drafted(source: Path, out: Path) -> Contract:
    """The contract that describe prints."""
    result = concordat("describe", source)
    assert result.exit_code == 0, result.output
    assert RARE not in result.output
    out.write_text(result.output)
    return load_contract(out)


def begun(path: Path, source: str) -> Path:
    path.write_text(f"{HEAD}source: {source}\n")
    return path


# -- databases


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A SQLite database of 60 rows, of which the first is like no other."""
    rows = [(f"P{n}", 20 + n % 50, "FM"[n % 2], RARE if n == 0 else "common", n % 2, f"02{n:03}") for n in range(60)]
    with sqlite3.connect(tmp_path / "ward.db") as database:
        database.execute("CREATE TABLE ward (pid TEXT, age INTEGER, sex TEXT, remark TEXT, sick INTEGER, area TEXT)")
        database.executemany("INSERT INTO ward VALUES (?, ?, ?, ?, ?, ?)", rows)
        database.execute("UPDATE ward SET age = NULL WHERE pid = 'P1'")
    database.close()
    return tmp_path


QUERY = """
  format: sql
  url: sqlite:///ward.db
  query: |
    SELECT pid, age, sex, remark, sick, area, age / 2.0 AS half
    FROM ward ORDER BY pid"""


def test_a_query_is_drafted_as_a_contract_that_its_rows_satisfy(ward: Path) -> None:
    found = drafted(begun(ward / "begun.yaml", QUERY), ward / "ward.dataset.yaml")
    assert found.name == "ward"
    columns = found.dataset.columns
    assert {name: column.type for name, column in columns.items()} == {
        "pid": "text", "age": "integer", "sex": "text", "remark": "text", "sick": "boolean", "area": "text",
        "half": "number",
    }  # fmt: skip
    assert (columns["sex"].values, columns["remark"].values, columns["age"].range) == (("F", "M"), None, (20, 70))
    assert (columns["age"].required, columns["sick"].required) == (False, True)
    assert (columns["pid"].sensitivity, columns["remark"].sensitivity) == ("medical_record", "other")
    assert check(found).ready
    # A contract that is complete can be described too, as data change.
    assert drafted(ward / "ward.dataset.yaml", ward / "again.yaml").dataset == found.dataset


def test_values_beyond_a_contracts_types_are_told_by_their_column(ward: Path) -> None:
    result = concordat("describe", begun(ward / "b.yaml", QUERY.replace("sick,", "x'00' AS picture,")))
    assert result.exit_code == 1
    assert "column picture has values that a contract has no type for" in str(result.exception)


def test_a_column_whose_chunks_differ_is_a_text_of_which_all_values_are_counted(
    ward: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of SQLite may have numbers first and texts later; both are in the draft, or neither."""
    monkeypatch.setattr("silo.worker.data.sources.sql.FETCHED_ROWS", 30)
    query = "SELECT CASE WHEN rowid <= 30 THEN rowid % 2 ELSE 'none' END AS code FROM ward ORDER BY rowid"
    source = f"{{format: sql, url: 'sqlite:///ward.db', query: \"{query}\"}}"
    found = drafted(begun(ward / "b.yaml", source), ward / "code.yaml")
    assert found.dataset.columns["code"].values == ("0", "1", "none")
    assert check(found).ready


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "{format: sql, url: 'postgresql:///ward?host=/nowhere', query: SELECT 1}",
            "the database cannot be reached, or does not let this user in: OperationalError",
        ),
        (
            "{format: sql, url: 'postgresql://127.0.0.1:1/ward', query: SELECT 1}",
            "the database cannot be reached: Conn",
        ),
        ("{format: sql, url: 'sqlite:///gone.db', query: SELECT 1}", "gone.db: the file of the data source is missing"),
        ("{format: sql, url: 'sqlite:///ward.db', query: SELECT nothing}", "refused the query: OperationalError"),
        ("{format: sql, url: 'sqlite:///ward.db', query: SELECT pid FROM ward LIMIT 0}", "the source has no rows"),
        ("{format: sql, url: 'postgresql://reader:HUSH@127.0.0.1/ward', query: SELECT 1}", "begun.yaml:4:"),
        ("{format: sql, query: SELECT 1}", "begun.yaml:4:"),
        ("{format: csv, path: gone.csv}", "gone.csv: the file of the data source is missing"),
    ],
)
def test_a_source_that_cannot_be_read_is_told(ward: Path, source: str, words: str) -> None:
    result = concordat("describe", begun(ward / "begun.yaml", source))
    assert isinstance(result.exception, DataError | DocumentError), "told in a sentence by whoever starts the command"
    assert words in str(result.exception)
    assert "HUSH" not in str(result.exception)


def test_a_large_result_is_described_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "many.db"
    with sqlite3.connect(path) as database:
        count = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 200000)"
        database.execute(f"CREATE TABLE many AS {count} SELECT n, 'a text of its own: ' || n AS words FROM r")
    database.close()
    source = "{format: sql, url: 'sqlite:///many.db', query: SELECT * FROM many}"
    found, name = located(begun(tmp_path / "b.yaml", source))
    tracemalloc.start()
    text = draft(found, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "A draft from 200000 rows" in text
    assert peak < 30e6, "of some 50 bytes a text there would be more if all were kept"


# -- FHIR


def exported(path: Path, **kinds: list[dict[str, Any]]) -> Path:
    path.mkdir()
    for kind, resources in kinds.items():
        (path / f"{kind}.ndjson").write_text("".join(json.dumps(one) + "\n" for one in resources))
    return path


def sugar(who: str, value: float, unit: str) -> dict[str, Any]:
    code = {"coding": [{"system": LOINC, "code": "2339-0"}]}
    return observation(who, code=code, valueQuantity={"value": value, "code": unit}, effectiveDateTime="2020")


def ward_export(path: Path) -> Path:
    """Twelve patients; the first has a condition of his own, and glucose is in two units."""
    people = [f"{n}" for n in range(12)]
    patients = [patient(who, gender="female", address=[{"postalCode": "02139"}]) for who in people]
    patients[0]["nickname"] = RARE
    rare = {**condition("0"), "code": {"coding": [{"system": SNOMED, "code": RARE}]}}
    seen = [pressure(who, 110.5 + int(who), "2020-05-04") for who in people]
    seen += [sugar(who, 5.0, "mmol/L" if who == "3" else "mg/dL") for who in people]
    void = [{**condition(who, "refuted"), "code": {"coding": [{"system": SNOMED, "code": "void"}]}} for who in people]
    conditions = [condition(who) for who in people for _ in range(2)]
    return exported(path, Patient=patients, Observation=seen, Condition=[*conditions, *[rare] * 20, *void])


def test_an_exports_columns_are_those_of_ten_patients_and_satisfy_their_draft(tmp_path: Path) -> None:
    found = drafted(ward_export(tmp_path / "export"), tmp_path / "ward.yaml")
    columns = found.dataset.columns
    assert {name: (column.type, column.sensitivity) for name, column in columns.items()} == {
        "patient_id": ("integer", "medical_record"),
        "birthDate": ("date", "date"),
        "gender": ("text", "none"),
        "postalCode": ("text", "geography"),
        "loinc_8480_6": ("number", "none"),
        "snomed_73211009": ("boolean", "none"),
    }
    assert (columns["patient_id"].range, columns["gender"].values) == (None, ("female",))
    assert found.dataset.source.format == "fhir"
    assert found.dataset.source.columns["loinc_8480_6"].unit == "mm[Hg]"
    assert check(found).findings == ()


def test_an_export_is_described_by_a_mapping_of_ones_own(tmp_path: Path) -> None:
    ward_export(tmp_path / "export")
    mapping = f"""
  format: fhir
  path: export
  columns:
    pid: {{resource: Patient, field: id}}
    systolic: {{resource: Observation, code: "{LOINC}|8480-6", unit: "mm[Hg]", take: first}}"""
    found = drafted(begun(tmp_path / "begun.yaml", mapping), tmp_path / "ward.yaml")
    assert list(found.dataset.columns) == ["pid", "systolic"]
    assert found.dataset.columns["systolic"].range == (110, 130)
    assert check(found).ready


@pytest.mark.parametrize(
    ("patients", "words"),
    [([], "got 0 patients, expected 10 or more"), ([{"resourceType": "Group"}], "expected a Patient")],
)
def test_an_export_that_cannot_be_described(tmp_path: Path, patients: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        located(exported(tmp_path / "export", Patient=patients))


def test_an_exports_odd_names_are_left_out(tmp_path: Path) -> None:
    people = [patient(f"{n}", **{"élan": "x", "a" * 101: "x", "a-b": 1, "gender": ""}) for n in range(10)]
    found, _ = located(exported(tmp_path / "export", Patient=people))
    assert isinstance(found, FhirExport)
    assert list(found.columns) == ["patient_id", "birthDate", "gender"]
    columns = drafted(tmp_path / "export", tmp_path / "ward.yaml").dataset.columns
    assert columns["gender"].values is None, "an empty text is no value that a contract lists"


@pytest.mark.parametrize(
    ("head", "name", "words"),
    [
        (",b", "d.csv", "column 1: got a name of 0 characters, expected 1 to 200"),
        ("b" * 201, "d.csv", "column 1: got a name of 201 characters"),
        ("a,b", "my data!.csv", "expected letters, digits, dots, dashes and underscores; give another with --name"),
        ("a,a", "d.csv", "column a: got a header with two columns of this name"),
    ],
)
def test_names_that_no_contract_can_have_are_told(tmp_path: Path, head: str, name: str, words: str) -> None:
    (tmp_path / name).write_text(f"{head}\n" + "1,2\n" * 20)
    result = concordat("describe", tmp_path / name)
    assert isinstance(result.exception, DataError)
    assert words in str(result.exception)


def test_a_directory_without_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: the source has no columns"):
        draft(*located(tmp_path / "none"))


def test_an_open_data_contract_is_described_by_its_data(tmp_path: Path) -> None:
    (tmp_path / "heart.csv").write_text("pid,age,sex,sick\n" + "P1,50,F,1\n" * 20)
    (tmp_path / "heart.odcs.yaml").write_text(FILE)
    found = drafted(tmp_path / "heart.odcs.yaml", tmp_path / "drafted.yaml")
    assert (found.name, list(found.dataset.columns)) == ("heart", ["pid", "age", "sex", "sick"])


def test_a_date_is_taken_for_one_that_may_identify(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    days = "\n".join(str(dt.date(2020, 1, 1) + dt.timedelta(days=n)) for n in range(20))
    path.write_text(f"admitted\n{days}\n")
    text = draft(CsvFile(format="csv", path=path), "d")
    assert "admitted: {type: date, sensitivity: date" in text
