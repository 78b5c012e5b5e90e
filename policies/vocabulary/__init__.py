"""Dated lists of codes: countries, blocs of countries, purposes. The data is in the YAML files beside."""

from functools import cache
from pathlib import Path
from typing import Literal

from policies.document import Closed, Kind, load_document
from policies.scalars import IsoDate, Text

_FOLDER = Path(__file__).parent


class CountryCodes(Kind):
    """The country codes of ISO 3166-1 alpha-2."""

    kind: Literal["CountryCodes"]
    as_of: IsoDate
    source: Text
    confused: dict[str, str]
    countries: dict[str, str]


class Bloc(Closed):
    """A group of countries that a policy may name by one code."""

    name: Text
    members: tuple[str, ...]


class Blocs(Kind):
    """The blocs by their codes."""

    kind: Literal["Blocs"]
    as_of: IsoDate
    source: Text
    blocs: dict[str, Bloc]


class Permission(Closed):
    """A data use permission: its term, its label and the permission that contains it."""

    term: Text
    label: Text
    within: str | None = None
    disease: bool = False


class DataUse(Kind):
    """The permissions and modifiers of the Data Use Ontology."""

    kind: Literal["DataUse"]
    as_of: IsoDate
    source: Text
    permissions: dict[str, Permission]
    modifiers: dict[str, str]


@cache
def country_codes() -> CountryCodes:
    """The list of countries."""
    return load_document(_FOLDER / "countries.yaml", CountryCodes).model


@cache
def blocs() -> Blocs:
    """The list of blocs."""
    return load_document(_FOLDER / "blocs.yaml", Blocs).model


@cache
def data_use() -> DataUse:
    """The data use permissions."""
    return load_document(_FOLDER / "duo.yaml", DataUse).model
