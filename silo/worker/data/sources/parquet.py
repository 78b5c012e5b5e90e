"""Parquet: one file, or a directory of files whose partitions are named `column=value`."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.dataset as pa_dataset

from silo.dataset.limits import LIMITS
from silo.dataset.sources import ParquetFiles
from silo.worker.data.regular import require_regular_in
from silo.worker.errors import DataError


def names_of(source: ParquetFiles) -> list[str]:
    """The names of the columns; raises DataError."""
    require_regular_in(source.path)
    try:
        return list(pa_dataset.dataset(source.path, format="parquet", partitioning="hive").schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{source.path.name}: it cannot be read as Parquet ({type(error).__name__})") from None


def chunks(source: ParquetFiles, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows in the order of the files' paths; raises DataError."""
    file = source.path.name
    require_regular_in(source.path)
    try:
        if not source.path.exists():
            raise DataError(f"{file}: the file of the data source is missing")
        found = pa_dataset.dataset(source.path, format="parquet", partitioning="hive")
        for name in names:
            if name not in found.schema.names:
                raise DataError(f"{file}: row 0, column {name}: got no column of this name, expected one")
        batches = found.to_batches(
            columns=list(names), batch_size=LIMITS.chunk_rows, batch_readahead=1, fragment_readahead=1
        )
        for batch in batches:
            for column in batch.columns:
                if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                    column.validate(full=True)  # a file may call any bytes a text
            if len(batch):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        kind = type(error).__name__
        raise DataError(
            f"{file}: row 1, column {names[0]}: the file cannot be read as Parquet ({kind}): it may be cut off"
        ) from None
