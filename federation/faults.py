"""What nobody foresaw, in the program or in what it was given: it is said where the program runs, and dealt with.

Promise 2 makes it a refusal wherever something is decided; a thread that watches goes on watching.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def attempt(do: Callable[[], T], otherwise: Callable[[str], T], *stops: type[Exception]) -> T:
    """What `do` gives; where it fails, but by one of `stops`, what `otherwise` gives of the kind of the failure.

    The place of the failure goes to this process's own log. Its words go nowhere: they may be somebody else's.
    """
    try:
        return do()
    except stops:
        raise
    except Exception as error:  # noqa: BLE001  what nobody foresaw must be a refusal, and must not end the process
        return otherwise(report(error))


def report(error: Exception) -> str:
    """Log where an error nobody foresaw came from; returns what may be said of it: its kind."""
    logging.getLogger("concordat").error("met a fault that nobody foresaw; please report it", exc_info=error)
    return f"an error of type {type(error).__name__}"
