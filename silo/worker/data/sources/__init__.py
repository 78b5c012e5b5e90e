"""One module for each form of source; each gives its rows in chunks, as Arrow tables of the columns asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from silo.dataset.contract import Contract
from silo.dataset.sources import CsvFile, FhirExport, ParquetFiles, Source, SqlQuery, name_of
from silo.worker.data.cells import Typed, typed_columns
from silo.worker.data.sources import delimited, fhir, parquet, sql
from silo.worker.errors import DataError


def names_of(source: Source) -> list[str]:
    """The names of the columns that a source gives; raises DataError."""
    if isinstance(source, CsvFile):
        return delimited.header_of(source)
    if isinstance(source, ParquetFiles):
        return parquet.names_of(source)
    return sql.names_of(source) if isinstance(source, SqlQuery) else list(source.columns)


def raw_chunks(contract: Contract, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows of a contract's source, chunk by chunk, in the source's order; raises DataError with the place."""
    source, columns = contract.dataset.source, contract.dataset.columns
    if isinstance(source, CsvFile):
        return delimited.chunks(source, columns, names)
    if isinstance(source, ParquetFiles):
        return parquet.chunks(source, names)
    if isinstance(source, SqlQuery):
        return sql.chunks(source, names)
    if isinstance(source, FhirExport):
        return fhir.chunks(source, names)
    raise DataError(f"got a source of format {source.format}, which cannot be read")


def typed_chunks(contract: Contract, names: tuple[str, ...]) -> Iterator[dict[str, Typed]]:
    """The same by the contract's types, every value within the contract; raises DataError with file, row and column."""
    source = name_of(contract.dataset.source)
    before = 0
    for table in raw_chunks(contract, names):
        yield typed_columns(table, names, contract.dataset.columns, source, before)
        before += len(table)
    if not before:
        raise DataError(f"{source}: row 1, column {names[0]}: got no rows, expected at least one")
