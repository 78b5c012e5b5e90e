from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation.errors import UsageError
from federation.run import Run, load_run
from silo.worker.data.view import build_view
from simulation.data import views_of

RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: tried}
purpose: HMB
dataset: heart
features: [age, sex]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 3}
"""
PRIVACY = "privacy: {mode: example_dp, clip_norm: 1.0, delta: 1.0e-5, epsilon: 3}\n"


@pytest.fixture
def run() -> Run:
    return load_run(RUN).model


def table(rows: int, seed: int = 1) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {"age": generator.normal(size=rows), "sex": generator.integers(0, 2, rows), "sick": np.arange(rows) % 2}
    )


def write(path: Path, rows: int = 40, seed: int = 1) -> Path:
    if path.suffix == ".csv":
        table(rows, seed).to_csv(path, index=False)
    else:
        table(rows, seed).to_parquet(path)
    return path


def test_a_directory_is_a_silo_a_table(run: Run, tmp_path: Path):
    write(tmp_path / "b.csv", 40)
    write(tmp_path / "a.parquet", 60, 2)
    (tmp_path / "notes.txt").write_text("not a table")
    views = views_of(run, [tmp_path], None)
    assert {name: view.rows for name, view in views.items()} == {"a": 60, "b": 40}
    assert views["b"].digest == build_view(pd.read_csv(tmp_path / "b.csv"), run, "b").digest


def test_one_table_is_dealt_out_whole(run: Run, tmp_path: Path):
    path = write(tmp_path / "all.csv", 103)
    views = views_of(run, [path], 10)
    assert list(views) == [f"silo-{index}" for index in range(10)]
    assert sum(view.rows for view in views.values()) == 103
    ages = np.concatenate([part for view in views.values() for part in (view.train_x[:, 0], view.validation_x[:, 0])])
    assert sorted(ages.tolist()) == sorted(np.float32(table(103)["age"]).tolist())
    again = views_of(run, [path], 10)
    assert [view.digest for view in again.values()] == [view.digest for view in views.values()]


@pytest.mark.parametrize(
    ("files", "silos", "words"),
    [
        (["absent.csv"], None, "does not exist"),
        (["notes.txt"], None, "holds no table"),
        (["a.csv", "a.csv"], None, "two silos named a"),
        (["a.csv", "b.csv"], 3, "got 2 files, expected one table"),
        (["a.csv"], 41, "expected 1 to 40"),
        (["a.csv"], 0, "expected 1 to 40"),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, tmp_path: Path, files: list[str], silos: int | None, words: str):
    write(tmp_path / "a.csv")
    write(tmp_path / "b.csv")
    (tmp_path / "notes.txt").write_text("not a table")
    with pytest.raises(UsageError, match=words):
        views_of(run, [tmp_path / name for name in files], silos)


# -- a private run's split


def test_in_a_private_run_no_row_decides_where_another_goes():
    private = load_run(RUN + PRIVACY).model
    frame = table(60).astype(float)
    before = build_view(frame, private, "a")
    for place in range(60):
        other = frame.copy()
        other.loc[place, ["age", "sick"]] = [9.0, 1 - other.loc[place, "sick"]]
        assert (before.train_x != build_view(other, private, "a").train_x).any(axis=1).sum() <= 1
        other.loc[place] = np.nan
        without = build_view(other, private, "a")
        assert {tuple(row) for row in without.train_x.tolist()} <= {tuple(row) for row in before.train_x.tolist()}
        assert (len(before.train_x) - len(without.train_x)) + (
            len(before.validation_x) - len(without.validation_x)
        ) == 1


def test_a_private_run_keeps_out_the_fraction_it_asks_for():
    private = load_run(RUN + PRIVACY).model
    view = build_view(table(20_000), private, "a")
    assert abs(len(view.validation_x) / 20_000 - 0.25) < 0.015
