"""What every format is given: the entries, and the signed tree that they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

from audit.snapshot import Entry


@dataclass(frozen=True)
class Source:
    """The log that entries come from, at the signed tree that their proofs lead to."""

    origin: str
    size: int
    root: str  # hexadecimal

    @property
    def member(self) -> str:
        """The party's short name: the last part of the origin."""
        return self.origin.rpartition("/")[2]


Renderer: TypeAlias = Callable[[Iterable[Entry], Source], Iterator[str]]


def product_version() -> str:
    """The version of this product, as installed."""
    try:
        return version("concordat-fl")
    except PackageNotFoundError:
        return "0"
