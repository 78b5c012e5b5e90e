"""Where a dataset's rows lie: CSV, Parquet, a database, a FHIR export."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from policies.document import Closed
from policies.scalars import Misfit, Text, Unique, misfit, misfits

OneCharacter = Annotated[str, Field(min_length=1, max_length=1)]


class CsvFile(Closed):
    """A table in a CSV file, compressed by gzip where its name ends in `.gz`."""

    format: Literal["csv"]
    path: Path
    columns: Annotated[tuple[Text, ...], Unique] | None = None
    """Names of the columns, where the file has no header."""
    encoding: Literal["utf-8", "windows-1252", "iso-8859-1", "iso-8859-15"] = "utf-8"
    separator: OneCharacter = ","
    quote: OneCharacter = '"'
    missing: Annotated[tuple[str, ...], Unique] = ("", "NA", "NaN")
    """Texts that mean a missing value, in every column."""


class ParquetFiles(Closed):
    """A table in a Parquet file, or in a directory of them with partitions named `column=value`."""

    format: Literal["parquet"]
    path: Path


def _url(value: str) -> str:
    parts = urlsplit(value)
    if "@" in value or "password" in parse_qs(parts.query):
        advice = "put them into the file under credentials"
        raise misfit("a database's URL without user and password", advice=advice, secret=True)
    if parts.scheme == "sqlite":
        if len(parts.path) < 2 or parts.netloc or parts.query:
            raise misfit("sqlite:///FILE")
        return value
    if parts.scheme not in {"postgresql", "postgresql+psycopg"}:
        raise misfit("a URL that begins with postgresql: or sqlite:")
    # Readers of URLs differ about these.
    plain = value.isprintable() and not set(value) & set(" #\\")
    asked = parse_qs(parts.query)
    try:
        sound = plain and parts.port != 0
    except ValueError:
        sound = False
    if parts.hostname:
        sound &= len(parts.path) > 1 and set(asked) <= {"hostaddr"} and len(asked.get("hostaddr", [""])) == 1
        sound &= "hostaddr" not in asked or _is_address(asked["hostaddr"][0])
    else:
        # What else the driver would take, such as hostaddr, leads it elsewhere than to the socket.
        hosts, ports = asked.get("host", []), asked.get("port", ["5432"])
        sound &= set(asked) <= {"host", "port"} and len(hosts) == 1 and re.fullmatch("/[^,]*", hosts[0]) is not None
        sound &= len(ports) == 1 and re.fullmatch("[0-9]{1,5}", ports[0]) is not None
    if not sound:
        raise misfit(
            "postgresql:///DATABASE?host=/DIRECTORY or postgresql://HOST:PORT/DATABASE",
            advice="a Unix socket's directory, or one host and port, with ?hostaddr=ADDRESS where names do not resolve",
        )
    return value


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


class SqlQuery(Closed):
    """The rows of a query, read in a read-only transaction."""

    format: Literal["sql"]
    url: Annotated[str, Field(max_length=1000), AfterValidator(_url)]
    query: Annotated[str, Field(min_length=1, max_length=8000)]
    """One SELECT whose columns have the names that the contract gives them."""
    credentials: Path | None = None
    """A file of mode 0600 with two lines, the user and the password."""
    authority: Path | None = None
    """PEM certificate of the authority that issued the database's, for TLS; needed but for a loopback address."""

    @model_validator(mode="after")
    def _secured(self) -> SqlQuery:
        if self.authority is not None and self.host is None:
            misfits([Misfit("no authority without a host", ("authority",))])
        if self.authority is None and self.host is not None and not _is_loopback(self.hostaddr or self.host):
            advice = "name the certificate of the authority that issued the database's"
            misfits([Misfit("an authority for a database over TCP", ("authority",), advice=advice)])
        return self

    @property
    def host(self) -> str | None:
        """The host of a database over TCP, as its certificate names it."""
        return urlsplit(self.url).hostname

    @property
    def hostaddr(self) -> str | None:
        """Its address, where the URL gives it."""
        return parse_qs(urlsplit(self.url).query).get("hostaddr", [None])[0]

    @property
    def address(self) -> str | None:
        """Where to connect, `host:port`; None for a database that is not reached over TCP."""
        host = self.hostaddr or self.host
        if host is None or self.host is None:
            return None
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def port(self) -> int:
        """The port, PostgreSQL's own where the URL has none."""
        return urlsplit(self.url).port or 5432

    @property
    def database(self) -> str:
        """The database's name."""
        return urlsplit(self.url).path.removeprefix("/")

    @property
    def socket(self) -> str | None:
        """The directory of the database's Unix socket; None for a database in a file."""
        hosts = parse_qs(urlsplit(self.url).query).get("host", [])
        return hosts[0] if hosts else None

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database."""
        parts = urlsplit(self.url)
        return Path(parts.path.removeprefix("/")) if parts.scheme == "sqlite" else None


class Flattened(Closed):
    """What of a patient's resources becomes a column."""

    resource: Literal["Patient", "Observation", "Condition"]
    field: Annotated[str, Field(pattern=r"^[A-Za-z]+(\.([A-Za-z]+|[0-9]{1,3}))*$", max_length=200)] | None = None
    """Patient: the element, such as `birthDate` or `address.0.postalCode`."""
    code: Annotated[str, Field(pattern=r"^[^|]+\|[^|]+$", max_length=400)] | None = None
    """Observation and Condition: `system|code`; a condition becomes true or false."""
    take: Literal["latest", "first"] = "latest"
    """Observation: which of several, by effectiveDateTime."""
    unit: Text | None = None
    """Observation: the UCUM code that its quantity must have."""

    @model_validator(mode="after")
    def _fits(self) -> Flattened:
        misfits(self._misfits())
        return self

    def _misfits(self) -> Iterator[Misfit]:
        of_patient = self.resource == "Patient"
        if (self.field is None) is of_patient:
            yield Misfit("a field for a Patient, and for nothing else", ("field",))
        if (self.code is None) is not of_patient:
            yield Misfit("a code for an Observation or a Condition, and for nothing else", ("code",))
        if self.unit is not None and self.resource != "Observation":
            yield Misfit("a unit for an Observation alone", ("unit",))


class FhirExport(Closed):
    """A FHIR R4 Bulk Data export: NDJSON files named by their resources' type, flattened to one row a patient."""

    format: Literal["fhir"]
    path: Path
    columns: Annotated[dict[Text, Flattened], Field(min_length=1, max_length=1000)]


Source = Annotated[CsvFile | ParquetFiles | SqlQuery | FhirExport, Field(discriminator="format")]


def resolved(source: CsvFile | ParquetFiles | SqlQuery | FhirExport, base: Path) -> Source:
    """The source with its paths taken relative to a directory."""
    if not isinstance(source, SqlQuery):
        return source.model_copy(update={"path": base / source.path})
    changes: dict[str, object] = {
        "credentials": source.credentials and base / source.credentials,
        "authority": source.authority and base / source.authority,
    }
    if source.file is not None:
        changes["url"] = f"sqlite:///{base / source.file}"
    return source.model_copy(update=changes)


def files_of(source: CsvFile | ParquetFiles | SqlQuery | FhirExport) -> tuple[Path, ...]:
    """What the process that reads the source has to open, by path: directories, but for the credentials."""
    if not isinstance(source, SqlQuery):
        # A file's directory: one that takes its place later is found too.
        return (source.path if source.path.is_dir() else source.path.parent,)
    paths = (
        source.file and source.file.parent,
        source.credentials,
        source.authority,
        source.socket and Path(source.socket),
    )
    return tuple(path for path in paths if path is not None and path != "")


def name_of(source: CsvFile | ParquetFiles | SqlQuery | FhirExport) -> str:
    """How messages call the source: its file's name, or the database's kind; never where it lies."""
    if not isinstance(source, SqlQuery):
        return source.path.name
    return source.file.name if source.file else "the query's result"
