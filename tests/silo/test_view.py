"""From a file to the policy view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federation.run import Run, load_run
from silo.config import CsvSource, ParquetSource
from silo.worker.data.view import build_view, read_columns
from silo.worker.errors import DataError

RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: sick-or-not}
purpose: HMB
dataset: heart
features: [age, sex]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 3}
validation: {fraction: 0.3}
seed: 7
"""


def _run(**changes: Any) -> Run:
    return load_run(RUN).model.model_copy(update=changes)


def _csv(path: Path, text: str, **options: Any) -> CsvSource:
    file = path / "table.csv"
    file.write_text(text)
    return CsvSource(format="csv", path=file, **options)


# -- reading


def test_a_csv_file_with_a_header(tmp_path: Path) -> None:
    source = _csv(tmp_path, "name,age,sex,sick\nAda,36,1,0\nBob,41.5,0,1\n")
    frame = read_columns(source, ("age", "sick"))
    assert frame.to_dict("list") == {"age": [36.0, 41.5], "sick": [0, 1]}


def test_the_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    source = _csv(tmp_path, "a,b,c\n1,2,3\n")
    assert list(read_columns(source, ("c", "a")).columns) == ["c", "a"]
    assert read_columns(source, ("c", "a")).iloc[0].tolist() == [3, 1]


def test_a_csv_file_without_a_header(tmp_path: Path) -> None:
    source = _csv(tmp_path, "36;1;0\n41;0;1\n", columns=("age", "sex", "sick"), separator=";")
    assert read_columns(source, ("sick", "age")).to_dict("list") == {"sick": [0, 1], "age": [36, 41]}


def test_missing_codes_are_missing_and_only_those(tmp_path: Path) -> None:
    text = "age,sex\n36,?\n-9,1\n,0\n"
    frame = read_columns(_csv(tmp_path, text, missing=("?", "-9", "")), ("age", "sex"))
    assert frame["age"].isna().tolist() == [False, True, True]
    assert frame["sex"].isna().tolist() == [True, False, False]
    with pytest.raises(DataError, match="column sex holds text, expected numbers; declare its missing-value codes"):
        read_columns(_csv(tmp_path, text, missing=("",)), ("age", "sex"))


def test_the_usual_missing_codes_need_not_be_declared(tmp_path: Path) -> None:
    frame = read_columns(_csv(tmp_path, "age,sex\n1,NA\n2,NaN\n3,\n4,1\n"), ("age", "sex"))
    assert frame["sex"].isna().tolist() == [True, True, True, False]


def test_a_text_column_is_refused_without_a_word_of_its_content(tmp_path: Path) -> None:
    source = _csv(tmp_path, "age,sick\n36,0\nSECRET,1\n")
    with pytest.raises(DataError, match="column age holds text") as raised:
        read_columns(source, ("age", "sick"))
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert read_columns(source, ("sick",)).to_dict("list") == {"sick": [0, 1]}, "other columns may hold what they will"


@pytest.mark.parametrize("columns", [("age", "height"), ("height",)])
def test_an_absent_column_is_refused(tmp_path: Path, columns: tuple[str, ...]) -> None:
    table = pd.DataFrame({"age": [1.0], "sick": [0]})
    table.to_parquet(tmp_path / "t.parquet")
    for source in (
        _csv(tmp_path, "age,sick\n36,0\n"),
        ParquetSource(format="parquet", path=tmp_path / "t.parquet"),
    ):
        with pytest.raises(DataError, match="has not the columns"):
            read_columns(source, columns)


def test_a_parquet_file(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["Ada", "Bob"], "age": [36.0, np.nan], "sick": [0, 1]})
    table.to_parquet(tmp_path / "t.parquet")
    frame = read_columns(ParquetSource(format="parquet", path=tmp_path / "t.parquet"), ("sick", "age"))
    assert list(frame.columns) == ["sick", "age"]
    assert frame["age"].isna().tolist() == [False, True]
    with pytest.raises(DataError, match="column name holds text"):
        read_columns(ParquetSource(format="parquet", path=tmp_path / "t.parquet"), ("name",))


def test_a_parquet_column_that_was_not_asked_for_is_not_read(tmp_path: Path) -> None:
    """The other column's pages are broken in the file: reading them would fail."""
    path = tmp_path / "t.parquet"
    marker = 1234567890123456789
    table = pd.DataFrame({"age": np.arange(4.0), "secret": np.full(4, marker)})
    table.to_parquet(path, compression=None, use_dictionary=False, write_statistics=False)
    content = path.read_bytes()
    needle = np.int64(marker).tobytes()
    first = content.index(needle)
    # The page's head lies before its values; without it nothing of the page can be read.
    path.write_bytes(content[: first - 24] + b"\xff" * 24 + content[first:])
    source = ParquetSource(format="parquet", path=path)
    with pytest.raises(DataError):
        read_columns(source, ("age", "secret"))
    assert read_columns(source, ("age",))["age"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("age,sex\n36,1,9\n41,0,9\n", {}),  # pandas would take the first column for the rows' names
        ("36,1,9\n41,0,9\n", {"columns": ("age", "sex")}),
    ],
)
@pytest.mark.parametrize("columns", [("age",), ("sex",), ("age", "sex")])
def test_rows_longer_than_the_header_do_not_shift_the_columns(
    tmp_path: Path, text: str, options: dict[str, Any], columns: tuple[str, ...]
) -> None:
    frame = read_columns(_csv(tmp_path, text, **options), columns)
    expected = {"age": [36, 41], "sex": [1, 0]}
    assert frame.to_dict("list") == {name: expected[name] for name in columns}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"age,sick\n1,2\n1,2,3,4,5\n" * 3, b"\x00" * 100])
def test_a_file_of_another_form_is_an_error_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    for source in (CsvSource(format="csv", path=path), ParquetSource(format="parquet", path=path)):
        with pytest.raises(DataError) as raised:
            read_columns(source, ("age", "height"))
        assert len(str(raised.value)) < 150


def test_a_missing_file_a_directory_and_a_forbidden_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (CsvSource, ParquetSource):
        format_name = "csv" if kind is CsvSource else "parquet"
        with pytest.raises(DataError, match="the file of the data source is missing"):
            read_columns(kind(format=format_name, path=tmp_path / "none"), ("age",))  # type: ignore[arg-type]
    with pytest.raises(DataError):
        read_columns(CsvSource(format="csv", path=tmp_path), ("age",))

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/secret-name.csv")

    monkeypatch.setattr(pd, "read_csv", forbidden)
    with pytest.raises(DataError, match=r"may not be read by the worker$"):
        read_columns(_csv(tmp_path, "age\n1\n"), ("age",))


# -- the view


def _table(positive: int, negative: int, missing: int = 0) -> pd.DataFrame:
    rows = positive + negative
    table = pd.DataFrame(
        {
            "age": np.arange(rows, dtype=np.float64),
            "sex": np.arange(rows) % 2,
            "sick": [1.0] * positive + [0.0] * negative,
        }
    )
    table.loc[: missing - 1, "age"] = np.nan
    return table


@pytest.mark.parametrize(
    ("positive", "negative", "fraction", "expected"),
    [
        (30, 70, 0.3, (9, 21)),
        (10, 10, 0.25, (2, 2)),  # 2.5, to the even number
        (3, 100, 0.3, (1, 30)),
        (1, 100, 0.3, (0, 30)),
        (7, 5, 0.5, (4, 2)),
    ],
)
def test_each_class_is_split_by_the_fraction(
    positive: int, negative: int, fraction: float, expected: tuple[int, int]
) -> None:
    run = _run(validation=_run().validation.model_copy(update={"fraction": fraction}))
    view = build_view(_table(positive, negative), run, "hospital-a")
    found = int(view.validation_y.sum()), int((view.validation_y == 0).sum())
    assert found == expected
    assert int(view.train_y.sum()) == positive - expected[0]
    assert view.rows == positive + negative
    assert len(view.train_x) == view.rows - sum(expected)


def test_every_row_is_on_one_side_with_its_own_label() -> None:
    table = _table(40, 60)
    view = build_view(table, _run(), "hospital-a")
    sides = np.concatenate([view.train_x, view.validation_x])
    labels = np.concatenate([view.train_y, view.validation_y]).ravel()
    assert sorted(sides[:, 0]) == list(range(100))
    for (age, sex), label in zip(sides, labels, strict=True):
        assert (table["sex"][int(age)], table["sick"][int(age)]) == (sex, label)
    for array, shape in ((view.train_x, (70, 2)), (view.train_y, (70, 1)), (view.validation_y, (30, 1))):
        assert (array.shape, array.dtype) == (shape, np.float32)


def test_incomplete_rows_are_dropped_and_counted() -> None:
    view = build_view(_table(20, 20, missing=7), _run(), "hospital-a")
    assert (view.dropped, view.rows) == (7, 33)
    assert np.isfinite(view.train_x).all()
    assert min(view.train_x[:, 0].min(), view.validation_x[:, 0].min()) == 7


def test_the_label_is_positive_above_its_threshold() -> None:
    table = _table(0, 8)
    table["sick"] = [0, 1, 2, 3, 4, 0, 1, 2]
    run = _run(label=_run().label.model_copy(update={"positive_above": 1.0}))
    view = build_view(table, run, "hospital-a")
    assert view.train_y.sum() + view.validation_y.sum() == 4


def test_the_same_seed_silo_and_rows_give_the_same_view() -> None:
    one, two = (build_view(_table(30, 70), _run(), "hospital-a") for _ in range(2))
    for name in ("train_x", "train_y", "validation_x", "validation_y"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.digest == two.digest


@pytest.mark.parametrize(("seed", "silo"), [(8, "hospital-a"), (7, "hospital-b")])
def test_another_seed_or_silo_splits_otherwise(seed: int, silo: str) -> None:
    one = build_view(_table(30, 70), _run(), "hospital-a")
    two = build_view(_table(30, 70), _run(seed=seed), silo)
    assert len(one.train_x) == len(two.train_x)
    assert set(one.validation_x[:, 0]) != set(two.validation_x[:, 0])
    assert one.digest != two.digest


def test_the_digest_is_of_every_value_label_and_name() -> None:
    digests = {build_view(_table(30, 70), _run(), "hospital-a").digest}
    changed = _table(30, 70)
    changed.loc[99, "age"] += 1
    relabelled = _table(30, 70)
    relabelled.loc[[0, 99], "sick"] = [0.0, 1.0]
    swapped = _table(30, 70).iloc[::-1]
    renamed = _table(30, 70).rename(columns={"sex": "smoker"})
    for table, run in (
        (changed, _run()),
        (relabelled, _run()),
        (swapped, _run()),
        (renamed, _run(features=("age", "smoker"))),
        (_table(30, 70), _run(features=("sex", "age"))),
    ):
        digests.add(build_view(table, run, "hospital-a").digest)
    assert len(digests) == 6
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


@pytest.mark.parametrize(("positive", "negative", "missing"), [(0, 0, 0), (1, 1, 0), (1, 0, 0), (10, 10, 20)])
def test_too_few_rows_are_refused(positive: int, negative: int, missing: int) -> None:
    with pytest.raises(DataError, match=f"the view has {positive + negative - missing} complete rows, too few"):
        build_view(_table(positive, negative, missing), _run(), "hospital-a")
