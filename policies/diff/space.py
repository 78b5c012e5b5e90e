"""What two policies speak of, taken together: the values that requests are made from."""

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from typing import Any

from pydantic import BaseModel

from policies.document import Document
from policies.model import SiloPolicy
from policies.model.datasets import Dataset
from policies.vocabulary import blocs, country_codes, data_use, purpose_codes
from policies.vocabulary.places import members

ARTIFACTS = ("model_update", "metrics", "final_model", "statistics")
"""The classes of artifact under `residency.destinations`."""

OTHER = "any other"
"""The label of a value of which neither policy speaks."""

STRANGER = "other-party"
"""A name of which neither policy speaks; made longer where one does."""

SUBSETS = 6
"""Up to how many names every subset of them is asked about; beyond that, one subset of each size."""


@dataclass(frozen=True)
class Space:
    """Two policies, and the time from which ages count."""

    policies: tuple[Document[SiloPolicy], Document[SiloPolicy]]
    now: dt.datetime

    def each(self, path: str) -> tuple[Any, ...]:
        """The value of a dotted path in both policies, where it is there."""
        found = (reduce(_attribute, path.split("."), policy.model) for policy in self.policies)
        return tuple(value for value in found if value is not None)

    def union(self, path: str) -> tuple[Any, ...]:
        """The items of a list, or the keys of a mapping, of both policies, each once, in their order."""
        return tuple(dict.fromkeys(item for items in self.each(path) for item in items))

    @cached_property
    def stranger(self) -> str:
        """A name that stands in neither policy."""
        texts = {text for policy in self.policies for text in _texts(policy.model)}
        name = STRANGER
        while name in texts:
            name += "-"
        return name

    def datasets(self) -> dict[str, tuple[Dataset, ...]]:
        """The datasets of both policies with what each says of them."""
        names = self.union("datasets")
        return {
            name: tuple(policy.model.datasets[name] for policy in self.policies if name in policy.model.datasets)
            for name in names
        }

    def common_datasets(self) -> dict[str, tuple[Dataset, ...]]:
        """The datasets that both policies know."""
        return {name: found for name, found in self.datasets().items() if len(found) == len(self.policies)}

    def purposes(self) -> tuple[str, ...]:
        """Every purpose of every vocabulary, those of the policies, and one of which neither speaks."""
        duo = data_use().permissions
        known = [code for code, permission in duo.items() if not permission.disease]
        known += [f"{code}:MONDO:9999999" for code, permission in duo.items() if permission.disease]
        known += [*purpose_codes("ehds").purposes, *purpose_codes("dpv").purposes]
        return tuple(dict.fromkeys([*self.union("purposes.allow"), *known, self.stranger]))

    def countries(self) -> tuple[str, ...]:
        """Every country, and one code that is none."""
        return (*sorted(country_codes().countries), "??")

    def places_of(self, country: str) -> frozenset[str]:
        """Those of the places named by either policy as destinations in which a country lies."""
        return frozenset(code for code, inside in self._places.items() if country in inside)

    @cached_property
    def _places(self) -> dict[str, frozenset[str]]:
        codes = {code for name in ARTIFACTS for code in self.union(f"residency.destinations.{name}.countries")}
        return {code: members((code,)) for code in codes}

    def parties(self) -> tuple[str, ...]:
        """The parties that either policy names as receivers, and one that neither names."""
        named = [self.union(f"residency.destinations.{artifact}.parties") for artifact in ARTIFACTS]
        return (*dict.fromkeys(name for names in named for name in names), self.stranger)

    def operators(self) -> tuple[str, ...]:
        """The operators that either policy names, and one that neither names."""
        named = (*self.union("purposes.persons"), *self.union("purposes.public_bodies"))
        return (*dict.fromkeys(named), self.stranger)


def subsets(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """The subsets of some names; beyond `SUBSETS` names only those that take each name in turn, and one a size."""
    every = tuple(names)
    if len(every) <= SUBSETS:
        for size in range(len(every) + 1):
            yield from combinations(every, size)
        return
    yield ()
    yield from ((name,) for name in every)
    yield from (every[:size] for size in range(2, len(every) + 1))


def region(country: str) -> str:
    """A country as it is shown."""
    return country if country in country_codes().countries or country in blocs().blocs else "no country"


def _attribute(value: object, name: str) -> Any:
    """A field, or None where the section that would have it is left out."""
    return None if value is None else getattr(value, name)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel | dict):
        for key, inner in dict(value).items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, tuple):
        for inner in value:
            yield from _texts(inner)
