"""Reads ahead: the next item is made by a thread while the one before is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(source: Iterator[Item]) -> Generator[Item]:
    """The items of `source` in their order, one of them made ahead; what making one raises is raised in its place.

    Closing it waits for the item that is being made.
    """
    with ThreadPoolExecutor(1) as maker:
        waiting = maker.submit(next, source, None)
        while (item := waiting.result()) is not None:
            waiting = maker.submit(next, source, None)
            yield item
