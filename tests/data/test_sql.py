"""A query's rows, from a real PostgreSQL and from SQLite: read-only, by chunks, nothing of the credentials told."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from silo.constraint import Constraint
from silo.dataset.contract import Contract
from silo.dataset.loading import load_contract
from silo.worker.data.building import Asked
from silo.worker.data.owner.describe import draft
from silo.worker.data.owner.locating import located
from silo.worker.data.reader import read_view_apart
from silo.worker.data.sources import sql, typed_chunks
from silo.worker.errors import DataError

from .conftest import HEAD, Write
from .postgresql import PASSWORD, Server, server

NAMES = ("pid", "age", "sex", "sick")
OMOP = """\
source:
  format: sql
  url: %s
  credentials: reader.txt
  query: |
    SELECT p.person_source_value AS pid, 2026 - p.year_of_birth AS age,
      CASE p.gender_concept_id WHEN 8532 THEN 'F' WHEN 8507 THEN 'M' END AS sex,
      EXISTS (SELECT 1 FROM condition_occurrence c
        WHERE c.person_id = p.person_id AND c.condition_concept_id = 316866) AS sick
    FROM person p ORDER BY p.person_id
"""
"""Of the OMOP common data model 5.4: persons, and whether hypertension (concept 316866) was recorded."""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    path = Path(tempfile.mkdtemp(prefix="cc-"))
    try:
        with server(path) as found, found.connect() as owner:
            owner.execute(
                "CREATE TABLE person"
                " (person_id int, person_source_value text, year_of_birth int, gender_concept_id int)"
            )
            owner.execute("CREATE TABLE condition_occurrence (person_id int, condition_concept_id int)")
            owner.execute(
                "INSERT INTO person SELECT n, 'P' || n, 1930 + n % 60, CASE n % 2 WHEN 0 THEN 8532 ELSE 8507 END"
                " FROM generate_series(1, 50000) n"
            )
            owner.execute("INSERT INTO condition_occurrence SELECT n, 316866 FROM generate_series(1, 50000, 3) n")
            owner.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
            owner.execute("GRANT SELECT ON person, condition_occurrence TO reader")
            owner.execute("CREATE TABLE notes (text text)")
            owner.execute("GRANT ALL ON notes TO reader")
            owner.execute(
                "CREATE FUNCTION note() RETURNS text LANGUAGE sql AS"
                " $$ INSERT INTO notes VALUES ('x') RETURNING text $$"
            )
            yield found
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    path = tmp_path / "reader.txt"
    path.write_text(f"reader\n{PASSWORD}\n")
    path.chmod(0o600)
    return path


def refusal(contract: Contract) -> str:
    with pytest.raises(DataError) as caught:
        list(typed_chunks(contract, NAMES))
    everything = f"{caught.value!r} {caught.value.__context__!r}" if caught.value.__suppress_context__ is False else ""
    assert PASSWORD not in f"{caught.value} {everything}"
    return str(caught.value)


def query(contract: Write, server: Server, text: str) -> Contract:
    return contract(f"source: {{format: sql, url: '{server.url()}', credentials: reader.txt, query: \"{text}\"}}\n")


def test_omop_tables_by_a_query_from_postgresql(contract: Write, postgresql: Server, reader: Path) -> None:
    found = contract(OMOP % postgresql.url())
    chunks = list(typed_chunks(found, NAMES))
    assert len(chunks) > 1
    assert sum(len(chunk["age"]) for chunk in chunks) == 50_000
    first = chunks[0]
    assert first["pid"].to_pylist()[:3] == ["P1", "P2", "P3"]
    assert first["age"].tolist()[:3] == [95, 94, 93]
    assert first["sex"].to_pylist()[:3] == ["M", "F", "M"]
    assert first["sick"].tolist()[:4] == [1, 0, 0, 1]
    asked = Asked(found, ("age", "sex"), "sick", 0.5, Constraint(NAMES))
    view = read_view_apart(asked, None)
    assert view.features.shape == (50_000, 2)
    assert view.labels.sum() == len(range(1, 50_001, 3))


def test_a_draft_of_omop_tables_is_a_contract_that_they_satisfy(
    postgresql: Server, reader: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "begun.yaml"
    begun.write_text(HEAD + OMOP % postgresql.url())
    text = draft(*located(begun))
    assert PASSWORD not in text
    begun.write_text(text)
    found = load_contract(begun)
    types = {name: column.type for name, column in found.dataset.columns.items()}
    assert types == {"pid": "text", "age": "integer", "sex": "text", "sick": "boolean"}
    assert found.dataset.columns["sex"].values == ("F", "M")
    assert sum(len(chunk["age"]) for chunk in typed_chunks(found, NAMES)) == 50_000


def test_a_query_cannot_write_even_where_the_role_may(contract: Write, postgresql: Server, reader: Path) -> None:
    text = "SELECT note() AS pid, 1 AS age, 'F' AS sex, 1 AS sick"
    assert "ReadOnlySqlTransaction, SQLSTATE 25006" in refusal(query(contract, postgresql, text))
    with postgresql.connect() as owner:
        assert owner.execute("SELECT count(*) FROM notes").fetchone() == (0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT 'P1' AS pid, 50 AS age, 'F' AS sex", "row 0, column sick"),
        ("SELECT 'P1' AS pid, 121 AS age, 'F' AS sex, true AS sick", "row 1, column age: got a value outside"),
        ("SELECT 'P1' AS pid, 'old' AS age, 'F' AS sex, true AS sick", "row 1, column age: got text, expected a whole"),
        ("SELECT 'P1' AS pid, 50 AS age, 'F' AS sex, true AS sick WHERE false", "row 1, column pid: got no rows"),
        ("SELECT * FROM person WHERE", "SyntaxError, SQLSTATE 42601"),
        ("SELECT * FROM absent", "UndefinedTable, SQLSTATE 42P01"),
        ("SELECT 'P1' AS pid, 1/0 AS age, 'F' AS sex, true AS sick", "DivisionByZero, SQLSTATE 22012"),
    ],
    ids=range(7),
)
def test_a_query_that_does_not_fit(contract: Write, postgresql: Server, reader: Path, text: str, words: str) -> None:
    message = refusal(query(contract, postgresql, text))
    assert message.startswith("the query's result: ")
    assert words in message


def test_credentials_are_a_file_that_no_one_else_can_read(contract: Write, postgresql: Server, reader: Path) -> None:
    found = contract(OMOP % postgresql.url())
    reader.chmod(0o640)
    assert "set their mode to 0600" in refusal(found)
    reader.chmod(0o600)
    reader.write_text("reader\n")
    assert "1 lines, expected two" in refusal(found)
    reader.write_text("reader\nwrong\n")
    assert "OperationalError" in refusal(found)
    reader.unlink()
    assert "cannot be read: FileNotFoundError" in refusal(found)


def test_sqlite_is_read_only_too(contract: Write, tmp_path: Path) -> None:
    path = tmp_path / "heart.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE heart (pid TEXT, age INTEGER, sex TEXT, sick INTEGER)")
        database.executemany("INSERT INTO heart VALUES (?, ?, ?, ?)", [("P1", 50, "F", 1), ("P2", None, "M", 0)])
    database.close()
    sqlite = "source: {format: sql, url: 'sqlite:///heart.db', query: \"%s\"}\n"
    (chunk,) = typed_chunks(contract(sqlite % "SELECT * FROM heart"), NAMES)
    assert chunk["pid"].to_pylist() == ["P1", "P2"]
    assert chunk["sick"].tolist() == [1, 0]
    assert "the database refused the query: OperationalError" in refusal(contract(sqlite % "DELETE FROM heart"))
    mixed = "SELECT pid, CASE pid WHEN 'P1' THEN 1 ELSE 'old' END AS age, sex, sick FROM heart"
    assert "row 2, column age: got str beside int" in refusal(contract(sqlite % mixed))
    path.unlink()
    assert "heart.db: the file of the data source is missing" in refusal(contract(sqlite % "SELECT 1"))
    assert not path.exists()


def test_credentials_of_a_wrong_length_or_encoding(tmp_path: Path) -> None:
    path = tmp_path / "reader.txt"
    for content in (b"\xff\n\xff\n", b"x" * 10_000, b"a\n\n"):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(DataError):
            sql.credentials(path)
