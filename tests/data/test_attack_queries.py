"""A hostile contract's query and database: nothing is written, no other file opened, and no secret repeated."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.errors import PolicyError
from silo.dataset.contract import Contract
from silo.dataset.sources import SqlQuery, resolved
from silo.worker.data.sources import sql, typed_chunks
from silo.worker.errors import DataError

Write = Callable[..., Contract]
COLUMNS = "columns:\n  age: {type: number, sensitivity: none}\n"


def refusal(contract: Contract) -> str:
    with pytest.raises(DataError) as raised:
        list(typed_chunks(contract, ("age",)))
    return str(raised.value)


def database(path: Path) -> None:
    with sqlite3.connect(path) as made:
        made.executescript(
            "CREATE TABLE heart (age REAL);"
            "CREATE TABLE spied (age REAL);"
            "INSERT INTO heart VALUES (50);"
            "CREATE VIEW shown AS SELECT age FROM heart;"
            "CREATE TRIGGER spy INSTEAD OF INSERT ON shown BEGIN INSERT INTO spied VALUES (new.age); END;"
        )
    made.close()


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO shown VALUES (1)",
        "SELECT age FROM heart; DROP TABLE heart",
        "ATTACH DATABASE 'made.db' AS other",
        "ATTACH DATABASE 'file:made.db?mode=rwc' AS other",
        "VACUUM INTO 'made.db'",
        "SELECT load_extension('/tmp/evil.so')",
        "SELECT writefile('made.db', 'x') AS age",
        "SELECT readfile('/etc/passwd') AS age",
        "CREATE TEMP TABLE t AS SELECT 1 AS age",
        "PRAGMA writable_schema = 1",
        "SELECT edit('x') AS age",
        "REPLACE INTO heart VALUES (7)",
        "SELECT age FROM heart WHERE",
        "\0",
    ],
)
def test_no_query_writes_opens_or_loads_anything(
    contract: Write, tmp_path: Path, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    database(tmp_path / "h.db")
    before = (tmp_path / "h.db").read_bytes()
    source = f"source: {{format: sql, url: 'sqlite:///h.db', query: {json.dumps(query)}}}\n"
    try:
        found = contract(source, COLUMNS)
    except PolicyError:
        pass
    else:
        words = refusal(found)
        assert "passwd" not in words
    assert (tmp_path / "h.db").read_bytes() == before
    assert not (tmp_path / "made.db").exists()


def test_a_view_reads_and_its_triggers_stay_silent(contract: Write, tmp_path: Path) -> None:
    database(tmp_path / "h.db")
    (chunk,) = typed_chunks(
        contract("source: {format: sql, url: 'sqlite:///h.db', query: SELECT age FROM shown}\n", COLUMNS), ("age",)
    )
    assert chunk["age"].tolist() == [50.0]


@pytest.mark.parametrize("name", ["h?mode=rwc&x=.db", "h%3fmode=rwc.db", "h#x.db", "h%00.db", "h .db"])
def test_a_files_name_is_no_part_of_the_databases_uri(tmp_path: Path, name: str) -> None:
    """The directory of the contract may have any name; the contract's own URL has no query and no fragment."""
    folder = tmp_path / name
    folder.mkdir()
    database(folder / "h.db")
    before = (folder / "h.db").read_bytes()
    source = SqlQuery(format="sql", url="sqlite:///h.db", query="DELETE FROM heart")
    with pytest.raises(DataError):
        list(sql.chunks(resolved(source, folder), ("age",)))  # type: ignore[arg-type]
    assert (folder / "h.db").read_bytes() == before


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///h.db?mode=rwc",
        "sqlite:///h.db?uri=true",
        "sqlite://host/h.db",
        "sqlite:///",
        "mysql://h/x",
        "postgresql://h/x?options=-c",
        "postgresql:///x?host=/a&host=/b",
        "postgresql:///x?host=/a&hostaddr=10.0.0.1",
        "postgresql:///x?host=/a,10.0.0.1",
        "postgresql:///x?host=/a%2C10.0.0.1",
        "postgresql:///x?host=/a#b&hostaddr=10.0.0.1",
        "postgresql:///x?host=/a&service=elsewhere",
        "postgresql:///x?host=/a&passfile=/etc/passwd",
        "postgresql:///x?host=/a&options=-c",
        "postgresql:///x?host=/a&port=5432,5433",
        "postgresql:///x?host=/a&ho\nstaddr=10.0.0.1",
        "postgresql://h:99999/x",
        "postgresql://user:hunter2@h/x",
        "sqlite+pysqlite:///h.db",
        "file:///etc/passwd",
    ],
)
def test_a_url_that_asks_for_more_is_refused_with_the_contract_and_keeps_its_secret(contract: Write, url: str) -> None:
    with pytest.raises(PolicyError) as raised:
        contract(f"source: {{format: sql, url: {json.dumps(url)}, query: SELECT 1}}\n")
    assert "hunter2" not in str(raised.value)
