"""A hostile contract: paths to what is no file, names and queries that mean more than they seem, files that unfold."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.errors import PolicyError
from silo.config import CsvSource, ParquetSource
from silo.dataset.contract import Contract
from silo.dataset.limits import LIMITS
from silo.worker.data.owner.locating import located
from silo.worker.data.sources import typed_chunks
from silo.worker.data.view import read_columns
from silo.worker.errors import DataError

from .conftest import ROWS

Write = Callable[..., Contract]
NAMES = ("pid", "age", "sex", "sick")
ONE = "columns:\n  %s: {type: number, sensitivity: none}\n"


def refusal(contract: Contract, names: tuple[str, ...] = NAMES) -> str:
    with pytest.raises(DataError) as raised:
        list(typed_chunks(contract, names))
    return str(raised.value)


def sources(path: object) -> list[str]:
    """The sources that read from a path, in YAML."""
    text = json.dumps(str(path))
    return [f"source: {{format: {kind}, path: {text}}}\n" for kind in ("csv", "parquet")] + [
        f"source: {{format: sql, url: {json.dumps(f'sqlite:///{path}')}, query: SELECT 1}}\n"
    ]


# -- what a path leads to


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("kind", ["fifo", "device", "environment", "link to a fifo", "proc"])
@pytest.mark.timeout(60)
def test_what_is_no_regular_file_is_refused_before_it_is_opened(
    contract: Write, tmp_path: Path, kind: str, number: int
) -> None:
    path = tmp_path / "heart.csv"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "environment":
            path = Path("/proc/self/environ")
        case "link to a fifo":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
        case _:
            path = Path("/proc/cpuinfo")
    assert "no regular file" in refusal(contract(sources(path)[number], data=None))
    with pytest.raises(DataError, match="no regular file"):
        read_columns(ParquetSource(format="parquet", path=path), ("age",))
    if "fifo" not in kind:  # a plain CSV file is opened once, and so may come through a pipe
        with pytest.raises(DataError, match="no regular file"):
            read_columns(CsvSource(format="csv", path=path), ("age",))


def test_a_fifo_among_the_files_of_a_directory_is_refused(contract: Write, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table({"age": [1.0]}), folder / "one.parquet")
    os.mkfifo(folder / "two.parquet")
    assert "no regular file" in refusal(contract(sources(folder)[1], ONE % "age", data=None), ("age",))
    os.mkfifo(tmp_path / "Patient.ndjson")
    fhir = "source: {format: fhir, path: ., columns: {age: {resource: Patient, field: birthDate}}}\n"
    assert "no regular file" in refusal(contract(fhir, ONE % "age", data=None), ("age",))


@pytest.mark.parametrize(
    "path",
    ["http://127.0.0.1:1/heart.csv", "s3://bucket/heart.csv", "file:///etc/passwd", "hdfs://h/x", "loop.csv", "a\\0b"],
)
def test_a_path_is_a_path_whatever_it_looks_like(contract: Write, tmp_path: Path, path: str) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for kind in ("csv", "parquet"):
        source = f'source: {{format: {kind}, path: "{path}"}}\n'
        try:
            found = contract(source, ONE % "age", data=None)
        except PolicyError:
            assert "\\0" in path, "only a path that no file can have is refused with the contract"
            continue
        assert refusal(found, ("age",))


# -- what a file unfolds to


def test_a_record_that_unfolds_without_end_stops_at_the_block(contract: Write, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "heart.csv.gz", "wb") as file:
        file.write(b"pid,age,sex,sick\n")
        for _ in range(4):
            file.write(b"x" * LIMITS.csv_block)
    found = refusal(contract("source: {format: csv, path: heart.csv.gz}\n", data=None))
    assert f"a field of more than {LIMITS.csv_block} bytes" in found


@pytest.mark.parametrize("name", ["heart.csv.zip", "heart.csv.bz2", "heart.tar"])
def test_no_archive_is_unpacked(contract: Write, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("heart.csv", ROWS)
    assert refusal(contract(f"source: {{format: csv, path: {name}}}\n", data=None))
    with pytest.raises(DataError):
        read_columns(CsvSource(format="csv", path=path), ("age",))


# -- names


@pytest.mark.parametrize(
    "name",
    [
        'a"; DROP TABLE heart; --',
        "a'b",
        "%s",
        ":bind",
        "age/*",
        "é",
        "e\u0301",
        "AGE",
        "x" * 200,
        "../age",
        "=cmd|'/c calc'!A1",
    ],
)
def test_a_name_is_a_name_in_every_source(contract: Write, tmp_path: Path, name: str) -> None:
    """Names that differ by case or by normal form are different columns, and none is part of a query."""
    columns = ONE % json.dumps(name)
    others = ["age", "\u00e9" if name == "e\u0301" else "e\u0301"]
    header = ",".join('"' + one.replace('"', '""') + '"' for one in [name, *others])
    csv = contract("source: {format: csv, path: heart.csv}\n", columns, data=f"{header}\n1,2,3\n")
    (chunk,) = typed_chunks(csv, (name,))
    assert chunk[name].tolist() == [1.0]
    pq.write_table(pa.table({one: [float(at)] for at, one in enumerate([name, *others], 1)}), tmp_path / "h.parquet")
    (chunk,) = typed_chunks(contract("source: {format: parquet, path: h.parquet}\n", columns), (name,))
    assert chunk[name].tolist() == [1.0]
    query = "SELECT 1 AS " + '"' + name.replace('"', '""') + '", 2 AS "other"'
    sqlite3.connect(tmp_path / "h.db").close()
    sql = f"source: {{format: sql, url: 'sqlite:///h.db', query: {json.dumps(query)}}}\n"
    (chunk,) = typed_chunks(contract(sql, columns), (name,))
    assert chunk[name].tolist() == [1.0]


@pytest.mark.parametrize("name", ["", "x" * 201, "\u202eega", "a\0b", "a\x1b[2Jb"])
def test_a_name_that_is_none_is_refused_with_the_contract(contract: Write, name: str) -> None:
    with pytest.raises(PolicyError):
        contract(columns=ONE % json.dumps(name))


@pytest.mark.parametrize("name", ["rows", "rows.csv", "contract.yaml"])
def test_a_loop_of_links_is_a_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(DataError, match="got a link that leads nowhere"):
        located(tmp_path / name)
