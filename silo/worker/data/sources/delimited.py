"""CSV files: Arrow reads them in blocks; where it stops, a slow reader finds the row and the column."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv as pa_csv

from silo.dataset.contract import Column
from silo.dataset.limits import LIMITS
from silo.dataset.sources import CsvFile
from silo.worker.ahead import ahead
from silo.worker.data.cells import problem_of, refused
from silo.worker.data.regular import require_regular
from silo.worker.errors import DataError

_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


def chunks(source: CsvFile, columns: Mapping[str, Column], names: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows of a CSV file; raises DataError with file, row and column."""
    header = _header(source, names)
    try:
        with opened(source) as file, _reader(source, file, header, columns, names) as reader:
            for batch in ahead(reader):
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, ValueError, OSError, *_BROKEN):
        _find_fault(source, header, columns, names)


def opened(source: CsvFile) -> Any:
    """The file, decompressed as it is read; raises DataError."""
    require_regular(source.path)
    try:
        if source.path.suffix == ".gz":
            return gzip.open(source.path, "rb")
        return source.path.open("rb", buffering=0)
    except FileNotFoundError:
        raise DataError(f"{source.path.name}: the file of the data source is missing") from None
    except OSError as error:
        raise DataError(f"{source.path.name}: the worker cannot read the file: {error.strerror}") from None


def _reader(
    source: CsvFile, file: Any, header: list[str], columns: Mapping[str, Column], names: tuple[str, ...]
) -> Any:
    reading = pa_csv.ReadOptions(
        column_names=header,
        skip_rows_after_names=0 if source.columns else 1,
        block_size=LIMITS.csv_block,
        encoding="utf8" if source.encoding == "utf-8" else source.encoding,
    )
    parsing = pa_csv.ParseOptions(
        delimiter=source.separator, quote_char=source.quote, double_quote=True, newlines_in_values=True
    )
    converting = pa_csv.ConvertOptions(
        column_types={name: _arrow_type(columns[name]) for name in names},
        include_columns=list(names),
        null_values=list(source.missing),
        strings_can_be_null=True,
    )
    return pa_csv.open_csv(file, reading, parsing, converting)


def _arrow_type(column: Column) -> pa.DataType:
    if column.missing or column.type in {"text", "boolean"}:
        return pa.string()
    return pa.date32() if column.type == "date" else pa.float64()


def header_of(source: CsvFile) -> list[str]:
    """The names of a file's columns; raises DataError."""
    if source.columns:
        return list(source.columns)
    with contextlib.closing(_records(source)) as records:
        for record in records:
            return [name.strip() for name in record]
    raise DataError(f"{source.path.name}: row 1, column 1: got an empty file, expected a header")


def _header(source: CsvFile, names: tuple[str, ...]) -> list[str]:
    try:
        header = header_of(source)
    except DataError as error:
        raise DataError(str(error).replace("column 1:", f"column {names[0]}:")) from None
    for name in names:
        if header.count(name) != 1:
            times = "no column of this name" if name not in header else "two columns of this name"
            raise DataError(f"{source.path.name}: row 0, column {name}: got a header with {times}, expected one")
    return header


def _find_fault(source: CsvFile, header: list[str], columns: Mapping[str, Column], names: tuple[str, ...]) -> NoReturn:
    """Read the file again, slowly, up to the first record that does not fit; raises DataError."""
    file = source.path.name
    places = [(header.index(name), name, {*source.missing, *columns[name].missing}) for name in names]
    skipped = 0 if source.columns else 1
    row = 0
    with contextlib.closing(_records(source, header)) as records:
        for row, record in enumerate(itertools.islice(records, skipped, None), 1):
            if len(record) != len(header):
                name = header[min(len(record), len(header) - 1)]
                raise refused(file, row, name, f"got {len(record)} fields, expected {len(header)}")
            for place, name, codes in places:
                text = record[place]
                if any("\udc80" <= character <= "\udcff" for character in text):
                    raise refused(file, row, name, f"got bytes that are not {source.encoding}, expected text")
                problem = None if text in codes else problem_of(text, columns[name])
                if problem is not None:
                    raise refused(file, row, name, problem)
    raise refused(file, row, names[-1], "the file cannot be read as the contract describes it")


def _records(source: CsvFile, header: list[str] | None = None) -> Generator[list[str], None, None]:
    """Every record, the header too, blank lines left out; raises DataError where the file breaks off."""
    pending: list[str] = []
    done = 0 if source.columns else -1
    csv.field_size_limit(LIMITS.csv_block)
    with opened(source) as raw:
        lines = _lines(source, raw, pending)
        reader = csv.reader(lines, delimiter=source.separator, quotechar=source.quote, strict=True)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except (csv.Error, *_BROKEN, OSError) as error:
                place = _columns_so_far(source, pending)
                column = header[min(place, len(header)) - 1] if header else str(place)
                what = "a broken compressed file" if not isinstance(error, csv.Error) else _spoken(str(error))
                raise refused(source.path.name, max(done + 1, 0), column, f"got {what}") from None
            pending.clear()
            if record:
                done += 1
                yield record


def _lines(source: CsvFile, raw: Any, pending: list[str]) -> Iterator[str]:
    with io.BufferedReader(raw) as file:
        first = True
        while line := file.readline(LIMITS.csv_block + 1):
            text = line.decode(source.encoding, "surrogateescape")
            if first:
                text, first = text.removeprefix("\ufeff"), False
            pending.append(text)
            if len(line) > LIMITS.csv_block:
                raise csv.Error("field larger than field limit")
            yield text


def _columns_so_far(source: CsvFile, pending: list[str]) -> int:
    """The number of the column in which a record broke off."""
    text = "".join(pending)[: LIMITS.csv_block]
    records = csv.reader(io.StringIO(text), delimiter=source.separator, quotechar=source.quote)
    try:
        return max(len(next(records, [])), 1)
    except csv.Error:
        return 1


def _spoken(error: str) -> str:
    if "unexpected end" in error:
        return "the end of the file within quotes, expected the closing quote"
    if "field limit" in error:
        return f"a field of more than {LIMITS.csv_block} bytes, expected at most {LIMITS.field}"
    if "NUL" in error:
        return "a NUL byte, expected text"
    return f"a record that is not CSV ({error[:80]})"
