"""The rows of a query, fetched chunk by chunk in a read-only transaction."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from policies.files import open_regular
from silo.dataset.limits import LIMITS
from silo.dataset.sources import SqlQuery, name_of
from silo.worker.data.cells import refused
from silo.worker.data.regular import require_regular
from silo.worker.data.sources.remote import reached
from silo.worker.errors import DataError

FETCHED_ROWS = 20_000


def names_of(source: SqlQuery) -> list[str]:
    """The names of the result's columns; raises DataError."""
    with _result(source) as result:
        return list(map(str, result.keys()))


def chunks(source: SqlQuery, names: tuple[str, ...]) -> Iterator[pa.Table]:
    """The rows in the query's own order; raises DataError that holds neither data nor credentials."""
    with _result(source) as result:
        keys = list(result.keys())
        for name in names:
            if keys.count(name) != 1:
                raise DataError(f"{name_of(source)}: row 0, column {name}: got {keys.count(name)}, expected one")
        places = [keys.index(name) for name in names]
        before = 0
        for rows in result.partitions(FETCHED_ROWS):
            yield _table(rows, places, names, name_of(source), before)
            before += len(rows)


@contextmanager
def _result(source: SqlQuery) -> Iterator[Any]:
    """What the database answers to the query, fetched as it is read; raises DataError."""
    import sqlalchemy  # noqa: PLC0415

    happened = "the database cannot be reached, or does not let this user in"
    try:
        way = nullcontext() if source.address is None else reached(source)
        with way as directory, _engine(source, directory).connect() as plain:
            happened = "the database refused the query"
            connection = plain.execution_options(stream_results=True, yield_per=FETCHED_ROWS)
            if source.file is None:
                connection = connection.execution_options(postgresql_readonly=True)
            # As the driver's own text: a colon in it is not a parameter.
            yield connection.exec_driver_sql(source.query)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise DataError(f"{name_of(source)}: {happened}: {_reason(error)}") from None
    except ImportError:
        raise DataError(
            "the driver for this database is not installed: run pip install '.[postgresql]' in a checkout of Concordat"
        ) from None


def _engine(source: SqlQuery, directory: str | None) -> Any:
    import sqlalchemy  # noqa: PLC0415
    from sqlalchemy.pool import NullPool  # noqa: PLC0415

    if source.file is not None:
        if not source.file.exists():
            raise DataError(f"{source.file.name}: the file of the data source is missing")
        require_regular(source.file)
        # Read-only by SQLite's own URI, in which a path must not be taken for more than a path: no query can write.
        url = sqlalchemy.URL.create(
            "sqlite", database=f"file:{quote(str(source.file))}", query={"mode": "ro", "uri": "true"}
        )
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, hide_parameters=True)
        sqlalchemy.event.listen(engine, "connect", _this_file_alone)
        return engine
    url = sqlalchemy.make_url(source.url).set(drivername="postgresql+psycopg")
    if directory is not None:
        url = sqlalchemy.URL.create("postgresql+psycopg", database=source.database, query={"host": directory})
    if source.credentials is not None:
        user, password = credentials(source.credentials)
        url = url.set(username=user, password=password)
    options = "-c default_transaction_read_only=on -c statement_timeout=0"
    return sqlalchemy.create_engine(
        url, poolclass=NullPool, hide_parameters=True, connect_args={"options": options, "connect_timeout": 10}
    )


def _this_file_alone(connection: Any, _record: object) -> None:
    """Have SQLite refuse what reaches beyond its file, whose mode is no other's: ATTACH and VACUUM INTO make files."""
    beyond = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in beyond else sqlite3.SQLITE_OK)


def credentials(path: Path) -> tuple[str, str]:
    """User and password from a file that only its owner can read; raises DataError."""
    try:
        with open_regular(path) as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise DataError("the credentials of the database may be read by others; set their mode to 0600")
            lines = file.read(LIMITS.credentials + 1).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the credentials of the database cannot be read: {type(error).__name__}") from None
    if len(lines) != 2 or not all(lines):
        raise DataError(f"the credentials of the database have {len(lines)} lines, expected two: user and password")
    return lines[0], lines[1]


def _table(rows: Sequence[Any], places: list[int], names: tuple[str, ...], source: str, before: int) -> pa.Table:
    columns = {}
    for place, name in zip(places, names, strict=True):
        values = [row[place] for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            first = next((type(value) for value in values if value is not None), type(None))
            index = next((at for at, value in enumerate(values) if value is not None and type(value) is not first), 0)
            found = type(values[index]).__name__
            if index == 0:
                message = f"got {found}, which is no number, text, truth value or date; have the query cast it"
                raise refused(source, before + index + 1, name, message) from None
            raise refused(source, before + index + 1, name, f"got {found} beside {first.__name__}") from None
    return pa.table(columns)


def _reason(error: Exception) -> str:
    """The kind of failure; a driver's words may hold data, a path or a name, and are not repeated."""
    origin = getattr(error, "orig", None)
    state = getattr(origin, "sqlstate", None)
    kind = type(origin or error).__name__
    return f"{kind}, SQLSTATE {state}" if state else kind
