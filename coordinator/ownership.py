"""Whose a run is: the silos admitted it with the operator who signed it as a party, and with no other operator.

What of a run tells something of the silos' data goes to that operator. Another operator gets the model from silos that
release it to that operator by their own policies, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from coordinator.recorded import read_owner
from federation.errors import ConcordatError, RefusedError
from federation.identity import Peer


class Kept(Protocol):
    """A run and the directory in which it is kept."""

    run_id: str
    directory: Path


def is_own(run: Kept, operator: Peer) -> bool:
    """Whether a run is this operator's; one whose operator cannot be read is nobody's."""
    try:
        return read_owner(run.directory) == operator.name
    except ConcordatError:
        return False


def require_own(run: Kept, operator: Peer) -> None:
    """Raise RefusedError unless a run is this operator's."""
    owner = read_owner(run.directory)
    if owner != operator.name:
        raise RefusedError(
            f"got {operator.name}, expected {owner}, who submitted {run.run_id}",
            advice=f"ask {owner} for it: the silos admitted the run with {owner} as the only operator",
        )
