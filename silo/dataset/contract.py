"""`kind: Dataset`: the contract of one dataset, with the source of its rows and the meaning of its columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.document import Closed, Kind
from policies.scalars import Misfit, Name, PositiveInt, Text, Unique, misfits
from policies.vocabulary.identifiers import IdentifierClass
from policies.wording import nearest
from silo.dataset.sources import CsvFile, FhirExport, Source

Range = tuple[float, float]
Zip3 = Annotated[str, Field(pattern="^[0-9]{3}$")]
NUMERIC = ("integer", "number")


class DatasetMetadata(Closed):
    """What the dataset is called, whose it is, and which edition this is."""

    name: Name
    version: PositiveInt
    owner: Text | None = None
    description: Annotated[str, Field(max_length=4000)] = ""


class Generalisation(Closed):
    """How a value is made coarser before anyone sees it."""

    bands: Annotated[float, Field(gt=0)] | None = None
    """Width of the bands that a number falls into; the view has the band's lower bound."""
    top: float | None = None
    """Numbers from here up become this one, such as 90 for ages over 89."""
    zip3: Literal["us-census-2000"] | tuple[Zip3, ...] | None = None
    """A ZIP code becomes its first three digits, or 000 where these have 20,000 people or fewer."""
    shift_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    """A date is moved by up to so many days, by a keyed amount that is the same for all dates of one row key."""
    year: bool = False
    """A date becomes the first day of its year."""


class Column(Closed):
    """One column: its type, what it may hold, and whom it may identify."""

    type: Literal["integer", "number", "boolean", "text", "date"]
    sensitivity: IdentifierClass
    """Class of identifiers that it belongs to, or none."""
    description: Annotated[str, Field(max_length=1000)] = ""
    unit: Text | None = None
    range: Range | None = None
    """Smallest and largest number."""
    values: Annotated[tuple[Text | int, ...], Unique] | None = None
    """Every value there is; the view has a text's place in this list, from 0."""
    missing: Annotated[tuple[Text, ...], Unique] = ()
    """Texts that mean a missing value in this column."""
    required: bool = False
    """A missing value is refused."""
    generalise: Generalisation | None = None
    clip: Range | None = None
    """Numbers beyond these become these."""

    @model_validator(mode="after")
    def _fits(self) -> Column:
        misfits(self._misfits())
        return self

    @property
    def reach(self) -> Range | None:
        """Smallest and largest number that the column has in a view, as far as the contract says; None for others.

        Of a list of texts these are places in it, from 0; clipping, bands and a top come after the declared range.
        """
        if self.type == "boolean":
            return 0.0, 1.0
        low, high = self.range or (-math.inf, math.inf)
        if self.values is not None:
            numbers = [float(value) if isinstance(value, int) else float(at) for at, value in enumerate(self.values)]
            low, high = max(low, min(numbers)), min(high, max(numbers))
        if self.clip is not None:
            low, high = (min(max(end, self.clip[0]), self.clip[1]) for end in (low, high))
        if not low < high or math.isinf(high - low):
            return None
        if self.generalise is not None and self.generalise.bands is not None:
            if math.isinf(max(abs(low), abs(high)) / self.generalise.bands):
                return None
            low, high = (math.floor(end / self.generalise.bands) * self.generalise.bands for end in (low, high))
        if self.generalise is not None and self.generalise.top is not None:
            low, high = min(low, self.generalise.top), min(high, self.generalise.top)
        return (low, high) if low < high else None

    def _misfits(self) -> Iterator[Misfit]:
        for name, value in (("range", self.range), ("clip", self.clip)):
            if value is None:
                continue
            if self.type not in NUMERIC:
                yield Misfit(f"no {name} for a column of type {self.type}", (name,))
            elif not value[0] < value[1]:
                yield Misfit("the smaller number first", (name,))
        if self.values is not None:
            kind = {"integer": int, "text": str}.get(self.type)
            if kind is None:
                yield Misfit("values for a column of type integer or text alone", ("values",))
            elif not self.values or not all(type(value) is kind for value in self.values):
                yield Misfit(f"values of the column's type, {self.type}", ("values",))
        if self.generalise is not None:
            yield from self._generalised(self.generalise)

    def _generalised(self, asked: Generalisation) -> Iterator[Misfit]:
        fits = {
            "bands": self.type in NUMERIC,
            "top": self.type in NUMERIC,
            "zip3": self.type == "text" and self.values is None,
            "shift_days": self.type == "date",
            "year": self.type == "date",
        }
        for name, allowed in fits.items():
            if getattr(asked, name) not in {None, False} and not allowed:
                yield Misfit(f"no {name} for such a column of type {self.type}", ("generalise", name))


class Dataset(Kind):
    """`kind: Dataset`: source, columns, and what some of the columns are for."""

    kind: Literal["Dataset"]
    metadata: DatasetMetadata
    source: Source
    columns: Annotated[dict[Text, Column], Field(min_length=1, max_length=10_000)]
    key: Text | None = None
    """Column that tells rows, or the persons in them, apart."""
    label: Text | None = None
    """Column that is usually predicted; readiness is reported for it."""
    consent: Text | None = None
    """Column that says of each row whether its use is consented to."""
    partition: Text | None = None
    """Column along which the rows would naturally be split, such as a clinic."""

    @model_validator(mode="after")
    def _named(self) -> Dataset:
        misfits(self._unknown())
        return self

    def _unknown(self) -> Iterator[Misfit]:
        for name in ("key", "label", "consent", "partition"):
            column = getattr(self, name)
            if column is not None and column not in self.columns:
                yield Misfit("the name of a column", (name,), meant=nearest(column, self.columns))
        if self.key is not None and self.key in self.columns and self.columns[self.key].type not in {"integer", "text"}:
            yield Misfit("a column of type integer or text", ("key",))
        if self.key is None:
            for name, column in self.columns.items():
                if column.generalise is not None and column.generalise.shift_days is not None:
                    advice = "name the column that tells persons apart under key"
                    yield Misfit("shift_days where there is a key", ("columns", name, "generalise"), advice=advice)
        given: tuple[str, ...] | None = None
        if isinstance(self.source, FhirExport):
            given = tuple(self.source.columns)
        elif isinstance(self.source, CsvFile):
            given = self.source.columns
        for name in self.columns if given is not None else ():
            if name not in (given or ()):
                yield Misfit("a column that the source gives", ("columns", name), meant=nearest(name, given or ()))


@dataclass(frozen=True)
class Contract:
    """A contract with the digest of its file; its source's paths are absolute."""

    dataset: Dataset
    digest: str
    path: Path

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.dataset.metadata.name
