"""Summarises the rows of a policy view, chunk by chunk, in the process that reads them; no app is near."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.statistics.summary import Floats, Layout, Tally, to_fields
from silo.worker.errors import DataError

CHUNK_ROWS = 65_536


class Tables:
    """For each column how often each value occurs, as long as there are few."""

    def __init__(self, columns: int, most: int) -> None:
        self._most = most
        self._found: list[dict[float, int] | None] = [{} for _ in range(columns)]

    def add(self, values: Floats) -> None:
        """Take in rows, (rows, columns)."""
        for column, found in enumerate(self._found):
            if found is None:
                continue
            for value, count in zip(*np.unique(values[:, column], return_counts=True), strict=True):
                found[float(value)] = found.get(float(value), 0) + int(count)
                if len(found) > self._most:
                    self._found[column] = None
                    break

    def fields(self) -> list[list[int]]:
        """For each column the number of values, one more than `most` for any larger, and the rows of the rarest."""
        return [[self._most + 1, 0] if one is None else [len(one), min(one.values())] for one in self._found]


def summarise(
    chunks: Iterable[npt.NDArray[np.float32]],
    layout: Layout,
    cell: int,
    ranges: tuple[Floats, Floats] | None = None,
) -> dict[str, Any]:
    """The statistics of complete rows that come in chunks, (rows, columns) in the order of the layout.

    `cell` is the policy's smallest cell. Where `ranges` are given values are first cut to them. Raises DataError.
    """
    tally, tables = Tally(layout), Tables(layout.width, cell)
    digest = hashlib.sha256("\0".join(layout.names).encode())
    for whole in chunks:
        for start in range(0, len(whole), CHUNK_ROWS):
            part = np.ascontiguousarray(whole[start : start + CHUNK_ROWS], dtype="<f4")
            digest.update(part.data.cast("B"))
            values = part.astype(np.float64)
            if ranges is not None:
                values = np.clip(values, *ranges)
            if not np.isfinite(values).all():
                column = layout.names[int(np.flatnonzero(~np.isfinite(values).all(axis=0))[0])]
                raise DataError(f"column {column} holds a value that is infinite, which has no statistics")
            tally.add(values)
            tables.add(values)
    try:
        summary = tally.summary()
    except ValueError:
        raise DataError("the view has no complete row, which has no statistics") from None
    fields = {"summary": to_fields(summary, layout), "tables": tables.fields()}
    return {**fields, "rows": summary.rows, "view_digest": "sha256:" + digest.hexdigest()}
