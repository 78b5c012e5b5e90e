"""A made-up table that satisfies a contract, drawn from the contract alone: for writing a model without access."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from silo.dataset.contract import Column, Dataset
from silo.dataset.sources import CsvFile
from silo.worker.errors import DataError

WHOLE = 2.0**53
"""The largest whole number of a column."""
MISSING_SHARE = 0.05
OBJECTING_SHARE = 0.1
FIRST_DAY, DAYS = np.datetime64("1930-01-01"), 34_000
Drawn = Callable[[np.random.Generator, int], list[str]]


def rows(dataset: Dataset, count: int, seed: int) -> Iterator[list[str]]:
    """The header and so many records; every value within the contract, some missing where they may be."""
    names = list(dataset.columns)
    yield names
    generator = np.random.default_rng(seed)
    columns = []
    for name, column in dataset.columns.items():
        try:
            values = _key(column, count) if name == dataset.key else _drawn(column, generator, count)
        except DataError as error:
            raise DataError(f"column {name}: {error}") from None
        if name == dataset.consent and column.type == "text" and column.values is None:
            values = ["no" if share < OBJECTING_SHARE else "yes" for share in generator.random(count)]
        may_miss = not column.required and name not in {dataset.key, dataset.label, dataset.consent}
        gone = generator.random(count) < MISSING_SHARE if may_miss else np.zeros(count, dtype=bool)
        columns.append(["" if absent else value for value, absent in zip(values, gone, strict=True)])
    for record in zip(*columns, strict=True):
        yield list(record)


def _key(column: Column, count: int) -> list[str]:
    if column.range is not None:
        return [str(int(column.range[0]) + number) for number in range(count)]
    return [f"{number}" if column.type == "integer" else f"MOCK-{number:06}" for number in range(1, count + 1)]


def _drawn(column: Column, generator: np.random.Generator, count: int) -> list[str]:
    if column.values is not None:
        return [str(column.values[at]) for at in generator.integers(0, len(column.values), count)]
    low, high = column.range or (0.0, 100.0)
    if column.type == "integer":
        least, most = int(np.ceil(max(low, -WHOLE))), int(np.floor(min(high, WHOLE)))
        if least > most:
            raise DataError(f"got the range {low:g} to {high:g}, expected one with whole numbers up to 2^53")
        return [str(value) for value in generator.integers(least, most + 1, count)]
    if column.type == "number":
        middle, spread = low / 2 + high / 2, high / 6 - low / 6
        return [f"{value:.6g}" for value in np.clip(generator.normal(middle, spread, count), low, high)]
    if column.type == "boolean":
        return ["yes" if value else "no" for value in generator.integers(0, 2, count)]
    if column.type == "date":
        return [str(FIRST_DAY + int(day)) for day in generator.integers(0, DAYS, count)]
    if column.generalise is not None and column.generalise.zip3 is not None:
        return [f"{value:05}" for value in generator.integers(501, 99951, count)]
    return [f"MOCK-{value:06}" for value in generator.integers(0, 10**6, count)]


def table(dataset: Dataset, count: int, seed: int) -> str:
    """The table as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows(dataset, count, seed))
    return out.getvalue()


def contract(dataset: Dataset, file: str) -> str:
    """The contract's text for the made-up table: the same columns, its source that file."""
    source = CsvFile(format="csv", path=Path(file))
    mocked: Any = dataset.model_copy(update={"source": source}).model_dump(
        mode="json", by_alias=True, exclude_defaults=True
    )
    out = io.StringIO()
    writer = YAML()
    writer.width = 200
    writer.dump({"apiVersion": "concordat/v1", "kind": "Dataset", **mocked}, out)
    return out.getvalue()
