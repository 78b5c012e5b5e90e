"""Holds data against their contract and counts; nothing is refused at the first value, and no value is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from silo.dataset.contract import Column, Contract
from silo.dataset.readiness import ColumnSummary, FoundProblem, Readiness
from silo.worker.data.building import absent, said
from silo.worker.data.cells import FaultError, Typed, out_of_bounds, problem_of, typed
from silo.worker.data.owner.fewest import MINIMUM_CELL
from silo.worker.data.sources import raw_chunks
from silo.worker.errors import DataError

DRIFT = 0.5
"""By how many standard deviations a mean may move between checks."""
MOVED_SHARE = 0.1
LEAKAGE = 0.98
"""Correlation with the label, in absolute value, from which a column is suspected to give it away."""
FEW_OF_A_CLASS = 0.05
MANY_MISSING = 0.2
MANY_CLASSES = 20
"""Values of a label from which it is a quantity and its classes are not counted."""
KEYS_REMEMBERED = 5_000_000


@dataclass
class _Running:
    """Counts and sums of one column, chunk by chunk."""

    missing: int = 0
    outside: int = 0
    wrong: int = 0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    with_label: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(6))
    values: Counter[str] = field(default_factory=Counter)

    def correlation(self) -> float:
        """With the label, over the rows that have both."""
        n, x, y, xx, yy, xy = self.with_label
        with np.errstate(over="ignore", invalid="ignore"):
            spread = (n * xx - x * x) * (n * yy - y * y)
            return float((n * xy - x * y) / np.sqrt(spread)) if n > MINIMUM_CELL and spread > 1e-9 * n * n else 0.0


@dataclass
class _State:
    rows: int = 0
    usable: int = 0
    columns: dict[str, _Running] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    partitions: Counter[str] = field(default_factory=Counter)
    keys: set[int] = field(default_factory=set)
    repeated: int = 0
    many_classes: bool = False


def check(contract: Contract, earlier: Mapping[str, ColumnSummary] | None = None) -> Readiness:
    """Read the whole source once, in bounded memory; raises DataError where it cannot be read at all."""
    dataset = contract.dataset
    state = _State(columns={name: _Running() for name in dataset.columns})
    names = tuple(dataset.columns)
    relaxed = replace(contract, dataset=dataset.model_copy(update={"columns": _as_text(contract)}))
    with np.errstate(over="ignore", invalid="ignore"):
        for table in raw_chunks(relaxed, names):
            _take(contract, table, state)
    if not state.rows:
        raise DataError(f"{contract.name}: the source has no rows")
    columns = tuple(_summary(name, dataset.columns[name], running) for name, running in state.columns.items())
    cell = _smallest_cell(dataset.partition, state)
    readiness = Readiness(
        contract.name,
        dataset.metadata.version,
        contract.digest,
        state.rows,
        state.usable,
        columns,
        _named(state.classes, None if dataset.label is None else dataset.columns[dataset.label]),
        cell,
    )
    return replace(readiness, findings=tuple(_findings(contract, readiness, state, earlier)))


def _as_text(contract: Contract) -> dict[str, Column]:
    """The columns as CSV texts, so that one value of a wrong form does not end the reading."""
    return {
        name: Column(type="text", sensitivity=column.sensitivity) for name, column in contract.dataset.columns.items()
    }


def _take(contract: Contract, table: pa.Table, state: _State) -> None:
    dataset, rows = contract.dataset, len(table)
    found: dict[str, Typed] = {}
    usable = np.ones(rows, dtype=bool)
    for name, column in dataset.columns.items():
        running = state.columns[name]
        found[name], wrong = _forgiving(table.column(name), column.model_copy(update={"required": False}))
        missing = absent(found[name])
        outside = out_of_bounds(found[name], column)
        running.wrong += int(wrong.sum())
        running.missing += int((missing & ~wrong).sum())
        if outside is not None:
            running.outside += int(outside.sum())
            usable &= ~outside
        usable &= ~missing
        _add(running, found[name], column)
    if dataset.consent is not None:
        usable &= said(found[dataset.consent], yes=True)
    if dataset.label is not None:
        _with_label(dataset.label, found, state)
        _count_classes(state, found[dataset.label])
    if dataset.partition is not None:
        state.partitions.update(_words(found[dataset.partition]))
    if dataset.key is not None:
        for key in _words(found[dataset.key]):
            state.repeated += hash(key) in state.keys
            if len(state.keys) < KEYS_REMEMBERED:
                state.keys.add(hash(key))
    state.rows += rows
    state.usable += int(usable.sum())


def _forgiving(values: pa.ChunkedArray, column: Column) -> tuple[Typed, np.ndarray[Any, Any]]:
    """The column, values of a wrong form as missing, and which these are."""
    wrong = np.zeros(len(values), dtype=bool)
    try:
        return typed(values, column, bounds=False), wrong
    except FaultError:
        pass
    if pa.types.is_string(values.type) and column.type != "text":
        codes = set(column.missing)
        texts = values.to_pylist()
        wrong = np.array([text is not None and text not in codes and bool(problem_of(text, column)) for text in texts])
        values = pa.chunked_array(
            [[None if bad else text for text, bad in zip(texts, wrong, strict=True)]], pa.string()
        )
        return typed(values, column, bounds=False), wrong
    parts: list[Typed] = []
    there = values.is_valid().to_pylist()
    for index in range(len(values)):
        try:
            one = values.slice(index, 1) if there[index] else pa.chunked_array([pa.nulls(1)])
            parts.append(typed(one, column, bounds=False)[0])
        except FaultError:
            wrong[index] = True
            parts.append(None if column.type == "text" else np.nan)
    if column.type == "text":
        return pa.array([part.as_py() if isinstance(part, pa.Scalar) else part for part in parts], pa.string()), wrong
    return np.array(parts, dtype=np.float64), wrong


def _add(running: _Running, found: Typed, column: Column) -> None:
    if isinstance(found, pa.Array):
        if column.values is not None:
            known = pc.filter(found, pc.is_in(found, value_set=pa.array(column.values, pa.string())))
            running.values.update(known.to_pylist())
        return
    there = found[~np.isnan(found)]
    running.count += len(there)
    running.total += float(there.sum())
    running.squares += float((there * there).sum())


def _with_label(label: str, found: Mapping[str, Typed], state: _State) -> None:
    y = found[label]
    if isinstance(y, pa.Array):
        return
    for name, x in found.items():
        if name != label and not isinstance(x, pa.Array):
            both = ~np.isnan(x) & ~np.isnan(y)
            a, b = x[both], y[both]
            state.columns[name].with_label += (len(a), a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum())


def _count_classes(state: _State, label: Typed) -> None:
    """Count the rows of each class, as long as the label has few values."""
    if state.many_classes:
        return
    state.classes.update(_words(label))
    if len(state.classes) > MANY_CLASSES:
        state.many_classes = True
        state.classes.clear()


def _words(found: Typed) -> Iterator[str]:
    """The values that are there, as words."""
    if isinstance(found, pa.Array):
        return (value for value in found.to_pylist() if value is not None)
    return (f"{value:g}" for value in found.tolist() if value == value)  # noqa: PLR0124  NaN is not itself


def _summary(name: str, column: Column, running: _Running) -> ColumnSummary:
    mean = deviation = shares = None
    if running.count and column.sensitivity == "none":
        mean = running.total / running.count
        deviation = max(running.squares / running.count - mean * mean, 0.0) ** 0.5
        if not np.isfinite([mean, deviation]).all():  # of numbers whose squares are none
            mean = deviation = None
    total = sum(running.values.values())
    if total and column.sensitivity == "none":
        shares = {value: count / total for value, count in sorted(running.values.items())}
    return ColumnSummary(name, column.type, running.missing, running.outside, running.wrong, mean, deviation, shares)


def _named(classes: Mapping[str, int], label: Column | None) -> dict[str, int]:
    """The rows of each class; of a label that may identify the classes are numbered, so that no value is told."""
    if label is None or label.sensitivity == "none":
        return dict(classes)
    return {f"class {number}": count for number, count in enumerate(sorted(classes.values(), reverse=True), 1)}


def _smallest_cell(partition: str | None, state: _State) -> tuple[str, int] | None:
    counts = [("class of the label", count) for count in state.classes.values()]
    counts += [(f"value of {partition}", count) for count in state.partitions.values()]
    return min(counts, key=lambda one: one[1], default=None)


def _findings(
    contract: Contract, readiness: Readiness, state: _State, earlier: Mapping[str, ColumnSummary] | None
) -> Iterator[FoundProblem]:
    dataset = contract.dataset
    for summary in readiness.columns:
        yield from _of_column(summary, dataset.columns[summary.name], readiness.rows)
        if earlier is not None:
            yield from _drift(summary, earlier.get(summary.name))
        correlation = state.columns[summary.name].correlation()
        if abs(correlation) >= LEAKAGE:
            yield FoundProblem(
                "warning",
                summary.name,
                f"correlates with the label ({correlation:+.3f})",
                "ask whether it is known before the outcome is; if not, leave it out of the policy's columns",
            )
    if state.repeated and dataset.key is not None:
        yield FoundProblem(
            "note",
            dataset.key,
            f"{state.repeated} rows have a key that came before",
            "expected where a person has several rows; otherwise remove the duplicates",
        )
    if not readiness.usable:
        yield FoundProblem("error", None, "no row is usable", "see the columns with missing and wrong values")
    if dataset.label is not None and not state.many_classes and len(readiness.classes) < 2:
        yield FoundProblem("error", dataset.label, "the label has fewer than two values", "check the query or the file")
    total = sum(readiness.classes.values())
    rarest = min(readiness.classes.values(), default=total)
    if len(readiness.classes) >= 2 and rarest < FEW_OF_A_CLASS * total:
        yield FoundProblem(
            "warning",
            dataset.label,
            f"the rarest class has {100 * rarest / total:.1f} % of the rows",
            "prefer auc to accuracy, and tell whoever designs the run",
        )
    if readiness.smallest_cell is not None and readiness.smallest_cell[1] < MINIMUM_CELL:
        what, count = readiness.smallest_cell
        yield FoundProblem(
            "warning",
            None,
            f"the smallest cell, one {what}, has {count} rows",
            f"merge it with another, or set the policy's rows.minimum and minimum_count to {MINIMUM_CELL} or more",
        )


def _of_column(summary: ColumnSummary, column: Column, rows: int) -> Iterator[FoundProblem]:
    name = summary.name
    if summary.wrong:
        yield FoundProblem(
            "error",
            name,
            f"{summary.wrong} values are not of type {column.type}",
            "correct them, or list their text under missing if it means that there is none",
        )
    if summary.outside:
        expected = f"{column.range[0]:g} to {column.range[1]:g}" if column.range else "the listed values"
        yield FoundProblem(
            "error",
            name,
            f"{summary.outside} values are outside {expected}",
            "correct them at the source, or the contract if they are right",
        )
    if summary.missing and column.required:
        yield FoundProblem(
            "error", name, f"{summary.missing} values are missing and the column is required", "fill them"
        )
    elif summary.missing > MANY_MISSING * rows:
        yield FoundProblem(
            "warning",
            name,
            f"{100 * summary.missing / rows:.0f} % of the values are missing",
            "a run that asks for this column loses these rows",
        )


def _drift(now: ColumnSummary, before: ColumnSummary | None) -> Iterator[FoundProblem]:
    remedy = "find out what changed at the source before training on both"
    if before is None:
        return
    if now.mean is not None and before.mean is not None and before.deviation:
        moved = abs(now.mean - before.mean) / before.deviation
        if moved > DRIFT:
            yield FoundProblem("warning", now.name, f"its mean moved by {moved:.2f} standard deviations", remedy)
    if now.shares is not None and before.shares is not None:
        values = now.shares.keys() | before.shares.keys()
        moved = max(abs(now.shares.get(value, 0.0) - before.shares.get(value, 0.0)) for value in values)
        if moved > MOVED_SHARE:
            yield FoundProblem("warning", now.name, f"the share of a value moved by {100 * moved:.0f} points", remedy)
