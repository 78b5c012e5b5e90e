"""An Open Data Contract Standard file (ODCS 3.1.0, Bitol, 2025-12-08) taken as a dataset's contract.

What it demands of the values is held or refused; what it says to people (team, price, service levels) is read over.
What the standard has no field for stands in `customProperties`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from policies.document import Closed, Document
from policies.errors import DocumentError, Problem
from policies.tree import PathKey
from policies.wording import shown
from silo.dataset.contract import Dataset

KIND = "DataContract"
TYPES = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text", "date": "date"}
FOR_PEOPLE = frozenset(
    {
        "id", "businessName", "physicalName", "physicalType", "tags", "authoritativeDefinitions", "classification",
        "encryptedName", "examples", "criticalDataElement", "transformSourceObjects", "transformLogic",
        "transformDescription", "partitioned", "partitionKeyPosition", "primaryKeyPosition", "relationships",
    }
)  # fmt: skip
"""Fields of a column that demand nothing of its values."""
BOUNDS = {"minimum", "maximum"}
OF_COLUMN = ("sensitivity", "unit", "missing", "generalise", "clip")
OF_DATASET = ("label", "consent", "partition", "missing")
Path = tuple[PathKey, ...]


class Lenient(Closed):
    """A part of the standard of which only some fields bear on what may be trained on."""

    model_config = ConfigDict(extra="ignore")


class CustomProperty(Lenient):
    """A name and a value of the user's own."""

    property: str
    value: Any = None


class Quality(Lenient):
    """A rule on values; only a list of valid ones can be held."""

    type: str = "library"
    metric: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    must_be: float | None = Field(default=None, alias="mustBe")


class Property(Lenient):
    """A column."""

    name: str
    logical_type: str | None = Field(default=None, alias="logicalType")
    options: dict[str, Any] = Field(default_factory=dict, alias="logicalTypeOptions")
    description: str = ""
    required: bool = False
    unique: bool = False
    primary_key: bool = Field(default=False, alias="primaryKey")
    quality: tuple[Quality, ...] = ()
    custom: tuple[CustomProperty, ...] = Field(default=(), alias="customProperties")


class Schema(Lenient):
    """A table."""

    name: str
    properties: tuple[Property, ...] = ()
    quality: tuple[Quality, ...] = ()


class Server(Lenient):
    """Where the data lie."""

    server: str
    type: str
    path: str | None = None
    format: str | None = None
    delimiter: str | None = None


class OpenContract(Lenient):
    """The root of a file of the standard."""

    api_version: Literal["v3.1.0"] = Field(alias="apiVersion")
    kind: Literal["DataContract"]
    id: str
    name: str | None = None
    version: str
    status: str
    tables: tuple[Schema, ...] = Field(default=(), alias="schema")
    servers: tuple[Server, ...] = ()
    custom: tuple[CustomProperty, ...] = Field(default=(), alias="customProperties")


class _Reader:
    """Collects what cannot be held, each with its place."""

    def __init__(self, document: Document[OpenContract]) -> None:
        self._document = document
        self.problems: list[Problem] = []

    def refuse(self, path: Path, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(*self._document.root.locate(path), message, self._document.source))

    def custom(self, entries: tuple[CustomProperty, ...], known: tuple[str, ...]) -> dict[str, Any]:
        """The properties of the user's own that this kit reads."""
        return {entry.property: entry.value for entry in entries if entry.property in known}

    def source(self, servers: tuple[Server, ...]) -> dict[str, Any] | None:
        """The one server that can be read: a local file."""
        if len(servers) != 1:
            self.refuse(("servers",), f"got {len(servers)} servers, expected one: the file that the worker reads")
            return None
        (server,) = servers
        if server.type != "local" or server.path is None or server.format not in {"csv", "parquet"}:
            message = "expected type: local with a path and the format csv or parquet; a query needs kind: Dataset"
            self.refuse(("servers", 0), f"got a server of type {shown(server.type)}, {message}")
            return None
        separator = {"separator": server.delimiter} if server.delimiter and server.format == "csv" else {}
        return {"format": server.format, "path": server.path, **separator}

    def column(self, found: Property, path: Path) -> dict[str, Any]:
        """One column in the kit's own form."""
        for name in self._unknown(path):
            self.refuse((*path, name), f"got the unknown field {shown(name)}, which cannot be held: remove it")
        kind = TYPES.get(found.logical_type or "")
        if kind is None:
            expected = ", ".join(TYPES)
            self.refuse((*path, "logicalType"), f"got {shown(found.logical_type)}, expected one of {expected}")
        if found.unique and not found.primary_key:
            self.refuse((*path, "unique"), "got unique, which cannot be held: remove it, or name the primary key")
        column = {"type": kind, "required": found.required, "description": found.description[:1000]}
        column |= self.custom(found.custom, OF_COLUMN)
        if "sensitivity" not in column:
            self.refuse(path, "got no sensitivity, expected customProperties with sensitivity and a class, or none")
        column |= dict(self._bounds(found, path))
        for index, rule in enumerate(found.quality):
            column |= self._rule(rule, (*path, "quality", index))
        return column

    def _unknown(self, path: Path) -> list[str]:
        """The fields of a column, as written, that neither are read here nor are for people alone."""
        read = {info.alias or name for name, info in Property.model_fields.items()}
        node = self._document.root
        for key in path:
            child = node.child(key)
            if child is not None:
                node = child[1]
        return [name for name in node.entries or () if name not in read | FOR_PEOPLE]

    def _bounds(self, found: Property, path: Path) -> Iterator[tuple[str, Any]]:
        for name in found.options:
            is_plain_date = name == "format" and found.options[name] == "yyyy-MM-dd" and found.logical_type == "date"
            is_width = name == "format" and found.logical_type in {"integer", "number"}
            bounds_a_number = name in BOUNDS and found.logical_type in {"integer", "number"}
            if not (is_plain_date or is_width or bounds_a_number):
                self.refuse((*path, "logicalTypeOptions", name), f"got {shown(name)}, which cannot be held: remove it")
        if set(found.options) >= BOUNDS:
            yield "range", [found.options["minimum"], found.options["maximum"]]
        elif BOUNDS & set(found.options):
            self.refuse((*path, "logicalTypeOptions"), "got one bound, expected minimum and maximum")

    def _rule(self, rule: Quality, path: Path) -> dict[str, Any]:
        """A list of valid values, or nothing; nulls are what `required` says."""
        values = rule.arguments.get("validValues")
        if rule.type == "library" and rule.must_be == 0:
            if rule.metric == "invalidValues" and isinstance(values, list) and set(rule.arguments) == {"validValues"}:
                return {"values": values}
            if rule.metric == "nullValues":
                return {"required": True}
        self.refuse(path, "got a rule that cannot be held, expected invalidValues with validValues, mustBe: 0")
        return {}


def dataset_of(document: Document[OpenContract]) -> Dataset:
    """The contract that a file of the standard describes; raises DocumentError with every problem and its place."""
    found, reader = document.model, _Reader(document)
    if len(found.tables) != 1:
        reader.refuse(("schema",), f"got {len(found.tables)} tables, expected one")
        raise DocumentError(reader.problems)
    (table,) = found.tables
    for index in range(len(table.quality)):
        reader.refuse(("schema", 0, "quality", index), "got a rule on the whole table, which cannot be held: remove it")
    source = reader.source(found.servers)
    custom = reader.custom(found.custom, OF_DATASET)
    missing = custom.pop("missing", None)
    if source is not None and missing is not None:
        source["missing"] = missing
    places: list[Path] = [("schema", 0, "properties", index) for index in range(len(table.properties))]
    columns = {one.name: reader.column(one, place) for one, place in zip(table.properties, places, strict=True)}
    keys = [one.name for one in table.properties if one.primary_key]
    if len(keys) > 1:
        reader.refuse(("schema", 0, "properties"), f"got a primary key of {len(keys)} columns, expected one")
    if reader.problems:
        raise DocumentError(reader.problems)
    content = {
        "apiVersion": "concordat/v1",
        "kind": "Dataset",
        "metadata": {"name": table.name, "version": _version(found.version)},
        "source": source,
        "columns": columns,
        "key": keys[0] if keys else None,
        **custom,
    }
    try:
        return Dataset.model_validate_json(json.dumps(content))
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            reader.refuse(*_mapped(detail["loc"], list(columns), detail))
        raise DocumentError(reader.problems) from None


def _version(text: str) -> int:
    """The first number of a version such as 2.1.0; at least 1."""
    first = text.removeprefix("v").split(".")[0]
    return max(int(first), 1) if first.isdecimal() and len(first) < 10 else 1


def _mapped(place: tuple[int | str, ...], columns: list[str], detail: Any) -> tuple[Path, str]:
    """Where in the standard's file a field of the kit's own form comes from, and what is wrong with it."""
    misfits = detail.get("ctx", {}).get("misfits", ())
    what = f"expected {misfits[0].expected}" if misfits else str(detail["msg"])
    if len(place) > 1 and place[0] == "columns" and place[1] in columns:
        return ("schema", 0, "properties", columns.index(str(place[1]))), f"{'.'.join(map(str, place[2:]))}: {what}"
    return (), f"{'.'.join(map(str, place))}: {what}"
