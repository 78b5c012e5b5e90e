"""A contract is closed and consistent; each mistake is told with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import DocumentError
from silo.dataset.loading import load_contract

from .conftest import COLUMNS, CSV, Write

PLAIN = "columns: {a: {type: integer, sensitivity: none}, t: {type: text, sensitivity: other}}\n"
FHIR = "source: {format: fhir, path: export, columns: {%s}}\n"
SQL = "source: {format: sql, url: '%s', query: SELECT 1}\n"


def problem(write: Write, source: str, columns: str) -> str:
    with pytest.raises(DocumentError) as caught:
        write(source, columns)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        (CSV, PLAIN + "label: b\n", 'heart.dataset.yaml:6:8: got "b", expected the name of a column'),
        (CSV, PLAIN.replace("sensitivity: none", "kind: x"), "unknown field"),
        (CSV, PLAIN.replace("sensitivity: other", "sensitivity: secret"), "expected a class of identifiers"),
        (CSV, PLAIN.replace("none}", "none, range: [5, 1]}"), "expected the smaller number first"),
        (CSV, PLAIN.replace("other}", "other, range: [1, 5]}"), "no range for a column of type text"),
        (CSV, PLAIN.replace("other}", "other, values: [1, 2]}"), "values of the column's type, text"),
        (CSV, PLAIN.replace("other}", "other, generalise: {bands: 5}}"), "no bands for such a column of type text"),
        (CSV, COLUMNS + "  d: {type: date, sensitivity: date, generalise: {shift_days: 9}}\n", "mapping"),
        (CSV, PLAIN.replace("text", "date").replace("other}", "date, generalise: {shift_days: 9}}"), "there is a key"),
        (CSV, PLAIN.replace("text", "number") + "key: t\n", "expected a column of type integer or text"),
        ("source: {format: csv, path: x.csv, columns: [a]}\n", PLAIN, "a column that the source gives"),
        (SQL % "postgresql://db.example/heart", PLAIN, "expected an authority for a database over TCP"),
        (SQL % "postgresql://u:p@/heart?host=/run/postgresql", PLAIN, "without user and password"),
        (SQL % "postgresql:///heart?host=db.example", PLAIN, "?host=/DIRECTORY"),
        (SQL % "mysql:///heart", PLAIN, "begins with postgresql: or sqlite:"),
        (SQL % "sqlite://", PLAIN, "expected sqlite:///FILE"),
        (FHIR % "a: {resource: Patient, code: 's|c'}", PLAIN, "a field for a Patient"),
        (FHIR % "a: {resource: Condition, field: code}", PLAIN, "a code for an Observation or a Condition"),
        (FHIR % "a: {resource: Patient, field: birthDate}", PLAIN, "a column that the source gives"),
    ],
    ids=range(19),
)
def test_a_contract_that_does_not_fit(contract: Write, source: str, columns: str, words: str) -> None:
    assert words in problem(contract, source, columns)


def test_paths_are_relative_to_the_contract_and_the_digest_is_of_its_bytes(contract: Write, tmp_path: Path) -> None:
    found = contract()
    assert found.dataset.source.path == tmp_path / "heart.csv"
    assert found.name == "heart"
    assert load_contract(found.path).digest == found.digest
    found.path.write_text(found.path.read_text() + "# other\n")
    assert load_contract(found.path).digest != found.digest


def test_what_a_reader_may_open_is_named_by_the_source(contract: Write, tmp_path: Path) -> None:
    from silo.dataset.sources import files_of

    assert files_of(contract().dataset.source) == (tmp_path,)
    sql = contract("source: {format: sql, url: 'sqlite:///x.db', query: q, credentials: db.txt}\n").dataset.source
    assert files_of(sql) == (tmp_path, tmp_path / "db.txt")
