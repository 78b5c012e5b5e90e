"""What does not fit the contract is refused with file, row and column, in one sentence without its value."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from silo.dataset.contract import Contract
from silo.dataset.limits import LIMITS
from silo.worker.data.sources import typed_chunks
from silo.worker.errors import DataError

from .conftest import COLUMNS, CSV, ROWS, Write

NAMES = ("pid", "age", "sex", "sick")
PLACE = re.compile(r"^heart[\w.]*: row \d+, column \w+")


def refusal(contract: Contract) -> str:
    with pytest.raises(DataError) as caught:
        list(typed_chunks(contract, NAMES))
    message = str(caught.value)
    assert PLACE.match(message), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("data", "place", "words"),
    [
        ("", "row 1, column pid", "an empty file"),
        ("pid,age,sex,sick\n", "row 1, column pid", "no rows"),
        ("pid,age,sex\nP1,50,F\n", "row 0, column sick", "no column of this name"),
        ("pid,age,age,sex,sick\n", "row 0, column age", "two columns of this name"),
        (ROWS + "P4,old,F,no\n", "row 4, column age", "got text, expected a whole number"),
        (ROWS + "P4,50.5,F,no\n", "row 4, column age", "got a fraction"),
        (ROWS + "P4,inf,F,no\n", "row 4, column age", "number"),
        (ROWS + "P4,nan,F,no\n", "row 4, column age", "number"),
        (ROWS + "P4,1e999,F,no\n", "row 4, column age", "number"),
        (ROWS + "P4,121,F,no\n", "row 4, column age", "outside the contract, expected 0 to 120"),
        (ROWS + "P4,60,X,no\n", "row 4, column sex", "expected one of the contract's values"),
        (ROWS + "P4,60,F,perhaps\n", "row 4, column sick", "expected yes or no"),
        (ROWS + "P4,60,F,\n", "row 4, column sick", "got no value, expected one"),
        (ROWS + "P4,60\n", "row 4, column sex", "got 2 fields, expected 4"),
        (ROWS + "P4,60,F,no,more\n", "row 4, column sick", "got 5 fields, expected 4"),
        (ROWS + 'P4,60,"F\n', "row 4, column sex", "end of the file within quotes"),
        (ROWS.encode() + b"P\xff4,60,F,no\n", "row 4, column pid", "not utf-8"),
        (ROWS + f"{'x' * (LIMITS.field + 1)},60,F,no\n", "row 4, column pid", "more than 65536 bytes"),
        (ROWS + f"P4,{'7' * (LIMITS.csv_block + 1)},F,no\n", "row 4, column age", "expected a whole number"),
        (ROWS + f'P4,60,"{"line" * 7 + chr(10)}' + "F" * LIMITS.csv_block, "row 4, column sex", "more than"),
    ],
    ids=range(20),
)
def test_a_csv_file_that_does_not_fit(contract: Write, data: str | bytes, place: str, words: str) -> None:
    message = refusal(contract(data=data))
    assert message.startswith(f"heart.csv: {place}: "), message
    assert words in message
    assert not re.search("old|perhaps|121|P4", message)


def test_the_first_row_that_does_not_fit_is_named_whatever_its_column(contract: Write) -> None:
    rows = ROWS + "P4,60,X,no\n" + "P5,130,F,no\n"
    assert "row 4, column sex" in refusal(contract(data=rows))


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_a_compressed_file_that_is_cut_off(contract: Write, tmp_path: Path, kept: float) -> None:
    content = gzip.compress((ROWS + "".join(f"P{n},50,F,yes\n" for n in range(4, 3000))).encode())
    (tmp_path / "heart.csv.gz").write_bytes(content[: int(len(content) * kept)])
    assert "a broken compressed file" in refusal(contract(CSV.replace("heart.csv", "heart.csv.gz")))


def test_what_is_no_compressed_file(contract: Write, tmp_path: Path) -> None:
    (tmp_path / "heart.csv.gz").write_text(ROWS)
    assert "a broken compressed file" in refusal(contract(CSV.replace("heart.csv", "heart.csv.gz")))


def _parquet(path: Path, **columns: list[object]) -> None:
    rows: dict[str, list[object]] = {"pid": ["P1", "P2"], "age": [50, 60], "sex": ["F", "M"], "sick": [True, False]}
    pq.write_table(pa.table(rows | columns), path)


@pytest.mark.parametrize(
    ("columns", "place"),
    [
        ({"age": [50, 121]}, "row 2, column age: got a value outside"),
        ({"age": [None, "old"]}, "row 2, column age: got text, expected a whole number"),
        ({"age": [b"50", b"51"]}, "row 1, column age: got binary, expected a whole number"),
        ({"sick": [True, None]}, "row 2, column sick: got no value"),
        ({"pid": ["x", "y" * (LIMITS.field + 1)]}, "row 2, column pid: got a text of more than"),
        ({"pid": [1.5, 2.5]}, "row 1, column pid: got double, expected a text"),
        ({"sick": [1, 2]}, "row 2, column sick: got a number, expected yes or no"),
    ],
)
def test_a_parquet_file_that_does_not_fit(
    contract: Write, tmp_path: Path, columns: dict[str, list[object]], place: str
) -> None:
    _parquet(tmp_path / "heart.parquet", **columns)
    message = refusal(contract("source: {format: parquet, path: heart.parquet}\n"))
    assert message.startswith(f"heart.parquet: {place}"), message


def test_a_parquet_file_that_is_cut_off_empty_or_lacks_a_column(contract: Write, tmp_path: Path) -> None:
    path = tmp_path / "heart.parquet"
    found = contract("source: {format: parquet, path: heart.parquet}\n")
    _parquet(path)
    content = path.read_bytes()
    for size in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert "cannot be read as Parquet" in refusal(found)
    pd.DataFrame({"pid": ["P1"], "age": [1], "sex": ["F"]}).to_parquet(path)
    assert "row 0, column sick: got no column of this name" in refusal(found)
    _parquet(path, pid=[], age=[], sex=[], sick=[])
    assert "got no rows" in refusal(found)


def test_a_file_that_is_not_there_or_may_not_be_read(contract: Write) -> None:
    with pytest.raises(DataError, match=r"heart\.csv: the file of the data source is missing"):
        list(typed_chunks(contract(data=None), NAMES))


def test_a_missing_code_of_one_column_is_a_value_in_another(contract: Write) -> None:
    columns = COLUMNS.replace("unit: a", 'missing: ["-9", "?"]')
    found = next(typed_chunks(contract(columns=columns, data=ROWS + "-9,-9,F,no\nP5,?,F,no\n"), NAMES))
    assert found["pid"].to_pylist() == ["P1", "P2", "P3", "-9", "P5"]
    assert pd.isna(found["age"]).tolist() == [False, True, False, True, True]
    message = refusal(contract(columns=columns, data=ROWS + "P4,x,F,no\n"))
    assert "row 4, column age: got text" in message
