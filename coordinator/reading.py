"""Reads what one silo sent: a fault in our code about it costs that silo, and never the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from audit.errors import AuditError
from federation.errors import ConcordatError, WireError
from federation.faults import report


@contextmanager
def reading(silo: str) -> Iterator[None]:
    """Turn a fault in the code of this block into a WireError that names the silo; the run's own errors pass.

    What is read is one silo's choice: a number or text that nobody thought of must not stop the others.
    """
    try:
        yield
    except WireError as error:
        # JSON can say a lone surrogate, which no log holds: an error that repeats it could not be recorded.
        said = str(error).encode("utf-8", "backslashreplace").decode()
        if said == str(error):
            raise
        raise WireError(said) from None
    except (ConcordatError, AuditError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, it came of one silo's answer
        kind = report(error, f"reading the answer of {silo}")
        raise WireError(f"the coordinator cannot read the answer of {silo}: {kind}") from None
