"""Finds the source that its owner points at: a table's file, a FHIR export, or a file that names a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from federation.home import read_limited
from federation.limits import LIMITS as FILE_LIMITS
from policies.document import Kind, load_document
from silo.dataset.limits import LIMITS
from silo.dataset.loading import kind_of, load_contract
from silo.dataset.odcs import KIND
from silo.dataset.sources import CsvFile, FhirExport, ParquetFiles, Source, resolved
from silo.worker.data.owner import fhir_columns
from silo.worker.data.sources import delimited
from silo.worker.errors import DataError

EXPECTED = ".csv, .gz, .parquet, or .yaml for a file with a source"


class Begun(Kind):
    """`kind: Dataset` of which only the source is read, so that the rest may be missing."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["Dataset"]
    metadata: dict[str, Any] | None = None
    source: Source


def located(path: Path) -> tuple[Source, str]:
    """The source that a path leads to, its own paths absolute, and a name; raises DataError or DocumentError."""
    try:
        absolute = path.resolve(strict=path.is_symlink())
    except (OSError, RuntimeError):  # the latter before Python 3.13
        raise DataError(f"{path.name}: got a link that leads nowhere, expected a file or a directory") from None
    name = absolute.name.split(".")[0]
    if path.suffix in {".yaml", ".yml"}:
        return _named(absolute, name)
    if path.is_dir() and any(path.glob("*.ndjson")):
        return FhirExport(format="fhir", path=absolute, columns=fhir_columns.proposed(absolute)), name
    if path.is_dir() or path.suffix == ".parquet":
        return ParquetFiles(format="parquet", path=absolute), name
    if path.suffix in {".csv", ".tsv", ".txt", ".gz"}:
        return CsvFile(format="csv", path=absolute, separator=_separator(absolute)), name
    raise DataError(f"{path.name}: got a name that ends in {path.suffix or 'nothing'}, expected {EXPECTED}")


def _named(path: Path, name: str) -> tuple[Source, str]:
    """The source within a contract, which may be a contract's beginning alone."""
    content = read_limited(path, FILE_LIMITS.document)
    if kind_of(content, str(path)) == KIND:
        contract = load_contract(path)
        return contract.dataset.source, contract.name
    begun = load_document(content, Begun, source=str(path)).model
    given = (begun.metadata or {}).get("name")
    return resolved(begun.source, path.parent), str(given) if given else name


def _separator(path: Path) -> str:
    """The character among comma, semicolon and tab that is in the first line most often."""
    try:
        with delimited.opened(CsvFile(format="csv", path=path)) as file:
            first = file.readline(LIMITS.field).decode("utf-8", "replace")
    except (OSError, EOFError):
        return ","
    return max(",;\t", key=first.count)
