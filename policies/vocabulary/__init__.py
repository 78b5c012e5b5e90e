"""Dated lists: countries, blocs, purposes, identifiers, laws and their floors. The data is in the YAML files beside."""

from functools import cache
from pathlib import Path
from typing import Literal

from policies.calendar import IsoDuration
from policies.document import Closed, Kind, load_document
from policies.scalars import IsoDate, Name, Text

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


class Purpose(Closed):
    """A purpose: its label, the purpose that contains it, and whether it is reserved to public bodies."""

    label: Text
    within: str | None = None
    public_bodies: bool = False


class PurposeCodes(Kind):
    """A closed list of purposes by their codes."""

    kind: Literal["PurposeCodes"]
    as_of: IsoDate
    source: Text
    purposes: dict[str, Purpose]


class Identifier(Closed):
    """A class of identifiers and the paragraph that lists it."""

    paragraph: Text
    label: Text


class Identifiers(Kind):
    """The classes of identifiers by their codes."""

    kind: Literal["Identifiers"]
    as_of: IsoDate
    source: Text
    classes: dict[str, Identifier]


class Floor(Closed):
    """What a law asks a policy to say at least: one condition on one field.

    `field` is a dotted path, `*` any key. The condition is one of: the field is there (`present`); it is at least a
    duration (`at_least`); it has one item that begins with one of some texts (`any_of`), or every item of a list
    (`all_of`); its countries lie within some places (`within`) or outside them (`outside`). `unless` is a field, or a
    field and the beginning of its value after `=`, that lifts the condition.
    """

    field: Text
    present: bool = False
    at_least: IsoDuration | None = None
    any_of: tuple[str, ...] | None = None
    all_of: tuple[str, ...] | None = None
    within: tuple[str, ...] | None = None
    outside: tuple[str, ...] | None = None
    unless: tuple[str, ...] = ()
    provision: Text
    because: Text


class Law(Closed):
    """A law: its name, where it stands, how surely it was read, what may be cited, and the floors it implies."""

    name: Text
    citation: Text
    confidence: Literal["primary", "secondary", "general"]
    until: IsoDate | None = None
    replaced_by: Text | None = None
    provisions: dict[Name, Text]
    instruments: tuple[Name, ...] = ()
    floors: tuple[Floor, ...] = ()


class Laws(Kind):
    """The laws by their codes."""

    kind: Literal["Laws"]
    as_of: IsoDate
    source: Text
    laws: dict[str, Law]


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


@cache
def purpose_codes(vocabulary: Literal["ehds", "dpv"]) -> PurposeCodes:
    """The purposes of a closed vocabulary other than DUO."""
    return load_document(_FOLDER / f"{vocabulary}.yaml", PurposeCodes).model


@cache
def identifier_classes() -> Identifiers:
    """The classes of identifiers."""
    return load_document(_FOLDER / "identifiers.yaml", Identifiers).model


@cache
def law_table() -> Laws:
    """The laws."""
    return load_document(_FOLDER / "laws.yaml", Laws).model
