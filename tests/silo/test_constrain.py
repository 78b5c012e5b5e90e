"""What the policy asks of a view is kept before anything else sees the data."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import pandas as pd
import pytest

from silo.channel import ChannelError
from silo.config import CsvSource, ParquetSource
from silo.constraint import Constraint, parse_constraint
from silo.worker.data.constrain import constrain
from silo.worker.data.view import read_columns
from silo.worker.errors import DataError

ROWS = pd.DataFrame({"age": [50.0, 60.0, 70.0, 80.0], "agreed": ["yes", "no", None, " TRUE "]})
PLAIN = Constraint(("age",))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "pseudonym.key"
    path.write_bytes(b"k" * 32)
    path.chmod(0o600)
    return path


def test_without_a_constraint_nothing_changes() -> None:
    found = constrain(ROWS[["age"]], PLAIN, None)
    assert found.withheld == 0
    pd.testing.assert_frame_equal(found.frame, ROWS[["age"]])


def test_only_rows_with_a_clear_yes_are_kept_and_the_column_is_gone() -> None:
    found = constrain(ROWS, Constraint(("age",), consent="agreed"), None)
    assert list(found.frame.columns) == ["age"]
    assert (found.frame["age"].tolist(), found.withheld) == ([50.0, 80.0], 2)


def test_only_rows_with_a_clear_no_pass_an_opt_out() -> None:
    rows = pd.DataFrame({"age": [1.0, 2.0, 3.0, 4.0, 5.0], "objected": ["0", "1", "", None, "perhaps"]})
    found = constrain(rows, Constraint(("age",), opt_out="objected"), None)
    assert (found.frame["age"].tolist(), found.withheld) == ([1.0], 4)


def test_consent_and_opt_out_together_keep_rows_that_pass_both() -> None:
    rows = pd.DataFrame({"age": [1.0, 2.0, 3.0], "agreed": [1, 1, 0], "objected": [0, 1, 0]})
    found = constrain(rows, Constraint(("age",), consent="agreed", opt_out="objected"), None)
    assert (found.frame["age"].tolist(), found.withheld) == ([1.0], 2)


def test_one_column_cannot_say_yes_and_no() -> None:
    rows = pd.DataFrame({"age": [1.0, 2.0], "both": [1, 0]})
    assert constrain(rows, Constraint(("age",), consent="both", opt_out="both"), None).withheld == 2


@pytest.mark.parametrize("values", [[True, False], [1, 0], [1.0, 0.0], ["1", "0"], ["Y", "N"], ["Yes", "No"]])
def test_yes_and_no_are_read_in_every_form_a_table_has(values: list[object]) -> None:
    rows = pd.DataFrame({"age": [1.0, 2.0], "agreed": values})
    assert constrain(rows, Constraint(("age",), consent="agreed"), None).frame["age"].tolist() == [1.0]
    assert constrain(rows, Constraint(("age",), opt_out="agreed"), None).frame["age"].tolist() == [2.0]


def test_a_pseudonym_is_the_beginning_of_the_keyed_digest(key: Path) -> None:
    rows = pd.DataFrame({"pid": ["P-1", "P-2", "P-1", None], "age": [1.0, 2.0, 3.0, 4.0]})
    found = constrain(rows, Constraint(("pid", "age"), pseudonymize=("pid",)), key).frame
    digest = hmac.new(b"k" * 32, b"pid\0P-1", hashlib.sha256).digest()
    assert found["pid"][0] == found["pid"][2] == int.from_bytes(digest[:3], "big")
    assert found["pid"][1] != found["pid"][0]
    assert pd.isna(found["pid"][3])
    assert found["age"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert found["pid"].astype("float32").astype("float64").equals(found["pid"])
    assert rows["pid"][0] == "P-1"


def test_pseudonyms_of_another_column_or_key_are_others(key: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": ["P-1"], "b": ["P-1"]})
    asked = Constraint(("a", "b"), pseudonymize=("a", "b"))
    found = constrain(rows, asked, key).frame
    assert found["a"][0] != found["b"][0]
    other = tmp_path / "other.key"
    other.write_bytes(b"o" * 32)
    other.chmod(0o600)
    assert constrain(rows, asked, other).frame["a"][0] != found["a"][0]


def test_pseudonyms_need_a_key_that_others_cannot_read(key: Path, tmp_path: Path) -> None:
    rows, asked = pd.DataFrame({"pid": ["P-1"]}), Constraint(("pid",), pseudonymize=("pid",))
    with pytest.raises(DataError, match="this worker has no key; set pseudonym_key"):
        constrain(rows, asked, None)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        constrain(rows, asked, tmp_path / "absent")
    key.chmod(0o640)
    with pytest.raises(DataError, match="set its mode to 0600"):
        constrain(rows, asked, key)
    key.chmod(0o600)
    for size in (31, 4097):
        key.write_bytes(os.urandom(size))
        with pytest.raises(DataError, match=f"has {size} bytes, expected 32 to 4096"):
            constrain(rows, asked, key)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_text_is_read_where_it_is_replaced_or_decides_and_nowhere_else(form: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"pid": ["0017", "0018"], "age": [1.5, 2.5], "agreed": ["yes", ""], "name": ["Ann", "Bob"]})
    path = tmp_path / f"table.{form}"
    source: CsvSource | ParquetSource
    if form == "csv":
        table.to_csv(path, index=False)
        source = CsvSource(format="csv", path=path)
    else:
        table.to_parquet(path)
        source = ParquetSource(format="parquet", path=path)
    found = read_columns(source, ("pid", "age", "agreed"), free=("pid", "agreed"))
    assert found["pid"].tolist() == ["0017", "0018"]
    assert list(found.columns) == ["pid", "age", "agreed"]
    with pytest.raises(DataError, match="column name holds text"):
        read_columns(source, ("name", "age"), free=("age",))


def test_a_constraint_crosses_the_socket_whole() -> None:
    asked = Constraint(("a", "b"), ("b",), "agreed", None)
    assert parse_constraint(asked.fields()) == asked
    assert asked.digest != Constraint(("a", "b"), ("b",), None, "agreed").digest
    assert asked.deciding == ("agreed",)
    assert not Constraint(("a",)).changes_rows_or_values


@pytest.mark.parametrize(
    "fields",
    [{}, {"allow": "age", "pseudonymize": []}, {"allow": [1], "pseudonymize": []}, {"allow": [], "pseudonymize": None}],
)
def test_what_is_no_constraint_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ChannelError):
        parse_constraint({"consent": None, "opt_out": None, **fields})


def test_a_deciding_column_is_a_name_or_none() -> None:
    with pytest.raises(ChannelError):
        parse_constraint({"allow": [], "pseudonymize": [], "consent": 7, "opt_out": None})


# -- in a process of its own


def test_a_table_is_read_and_constrained_apart(key: Path, tmp_path: Path) -> None:
    from silo.worker.data.reader import read_apart

    table = pd.DataFrame(
        {"pid": ["P-1", "P-2", "P-3"], "age": [1.5, None, 3.5], "agreed": ["yes", "yes", "no"], "name": ["A", "B", "C"]}
    )
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    source = CsvSource(format="csv", path=path, missing=("",))
    asked = Constraint(("pid", "age"), pseudonymize=("pid",), consent="agreed")
    found = read_apart(source, ("pid", "age", "agreed"), asked, key)
    here = constrain(read_columns(source, ("pid", "age", "agreed"), free=("pid", "agreed")), asked, key)
    assert found.withheld == here.withheld == 1
    pd.testing.assert_frame_equal(found.frame, here.frame)
    assert found.frame["age"].isna().tolist() == [False, True]


def test_what_cannot_be_read_apart_is_said_without_data(key: Path, tmp_path: Path) -> None:
    from silo.worker.data.reader import read_apart

    asked = Constraint(("pid",), pseudonymize=("pid",))
    path = tmp_path / "table.csv"
    with pytest.raises(DataError, match="the file of the data source is missing"):
        read_apart(CsvSource(format="csv", path=path), ("pid",), asked, key)
    path.write_text("pid,age\nP-1,secret\n")
    with pytest.raises(DataError, match="this worker has no key"):
        read_apart(CsvSource(format="csv", path=path), ("pid",), asked, None)
    with pytest.raises(DataError, match="column age holds text") as caught:
        read_apart(CsvSource(format="csv", path=path), ("pid", "age"), asked, key)
    assert "secret" not in str(caught.value)
