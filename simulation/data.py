"""Where simulated silos get their rows: a file each, workers' configurations, or one table dealt out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from federation.errors import UsageError
from federation.run import Run
from silo.config import ContractSource, CsvSource, ParquetSource, load_worker_config
from silo.worker.data.view import PolicyView, build_view, read_columns

_TABLES = {".csv": "csv", ".parquet": "parquet"}
_CONFIGURATIONS = {".yaml", ".yml"}


def views_of(run: Run, places: Sequence[Path], silos: int | None) -> dict[str, PolicyView]:
    """A view a silo, by name; raises UsageError or DataError.

    A directory stands for the tables in it, a table (CSV with a header, Parquet) for a silo of the file's name, a
    `kind: Worker` file for its own silo. With `silos` the rows of the one table given are dealt out to so many, by the
    run's seed.
    """
    files = [file for place in places for file in _files(place)]
    if silos is not None:
        if len(files) != 1 or files[0].suffix not in _TABLES:
            raise UsageError(f"got {len(files)} files, expected one table to deal out to {silos} silos")
        return _dealt(run, files[0], silos)
    views: dict[str, PolicyView] = {}
    for file in files:
        if file.suffix in _CONFIGURATIONS:
            config = load_worker_config(file)
            source = config.datasets.get(run.dataset)
            if source is None:
                raise UsageError(f"{file} has no dataset {run.dataset}")
            if isinstance(source, ContractSource):
                raise UsageError(f"{file} has a contract for {run.dataset}, expected a csv or parquet file")
            name = config.silo
        else:
            source, name = _source(file), file.stem
        if name in views:
            raise UsageError(f"got two silos named {name}, expected each once")
        views[name] = build_view(read_columns(source, run.columns), run, name)
    return views


def _files(place: Path) -> list[Path]:
    if not place.exists():
        raise UsageError(f"{place} does not exist")
    found = sorted(file for file in place.iterdir() if file.suffix in _TABLES) if place.is_dir() else [place]
    if not found or any(file.suffix not in {*_TABLES, *_CONFIGURATIONS} for file in found):
        raise UsageError(f"{place} holds no table", advice="give .csv or .parquet files, or workers' .yaml files")
    return found


def _source(file: Path) -> CsvSource | ParquetSource:
    if _TABLES[file.suffix] == "parquet":
        return ParquetSource(format="parquet", path=file)
    return CsvSource(format="csv", path=file)


def _dealt(run: Run, file: Path, silos: int) -> dict[str, PolicyView]:
    frame: pd.DataFrame = read_columns(_source(file), run.columns)
    if not 1 <= silos <= len(frame):
        raise UsageError(f"got {silos} silos, expected 1 to {len(frame)}, the rows of {file.name}")
    order = np.random.default_rng([run.seed, silos]).permutation(len(frame))
    width = len(str(silos - 1))
    names = [f"silo-{index:0{width}}" for index in range(silos)]
    parts = zip(names, np.array_split(order, silos), strict=True)
    return {name: build_view(frame.iloc[sorted(rows)], run, name) for name, rows in parts}
