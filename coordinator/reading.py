"""Reads what one silo sent: a fault in our code about it costs that silo, and never the run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from audit.errors import AuditError
from federation.errors import ConcordatError, WireError


@contextmanager
def reading(silo: str) -> Iterator[None]:
    """Turn a fault in the code of this block into a WireError that names the silo; the run's own errors pass.

    What is read is one silo's choice: a number or text that nobody thought of must not stop the others. The log gets
    the places in our code and not the words of the error, which may repeat what the silo sent.
    """
    try:
        yield
    except (ConcordatError, AuditError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it came of one silo's answer
        _note(silo, error)
        raise WireError(f"the coordinator cannot read the answer of {silo}: {type(error).__name__}") from None


def _note(silo: str, error: Exception) -> None:
    places = "".join(traceback.format_tb(error.__traceback__))
    logging.getLogger("concordat").error("reading the answer of %s: %s at\n%s", silo, type(error).__name__, places)
