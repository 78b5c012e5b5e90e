"""What nobody foresaw, in the program or in what it was given: it is said where the program runs, and dealt with.

Promise 2 makes it a refusal wherever something is decided; a thread that watches goes on watching.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(do: Callable[[], T], otherwise: Callable[[str], T], *stops: type[Exception]) -> T:
    """What `do` gives; where it fails, but by one of `stops`, what `otherwise` gives of the kind of the failure."""
    try:
        return do()
    except stops:
        raise
    except Exception as error:  # noqa: BLE001  what nobody foresaw must be a refusal, and must not end the process
        return otherwise(report(error))


def report(error: Exception, doing: str = "the work") -> str:
    """Log where an error that nobody foresaw came from; returns what may be said of it: its kind.

    The log gets the places in our code and not the words of the error, which may repeat what a peer sent.
    """
    kind = type(error).__name__
    places = "".join(traceback.format_tb(error.__traceback__))
    logging.getLogger("concordat").error(
        "a fault that nobody foresaw ended %s; report it: %s at\n%s", doing, kind, places
    )
    return f"an error of type {kind}"
