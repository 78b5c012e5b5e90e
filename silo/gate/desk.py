"""What a gate's handler lends to those who answer for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from policies.decision import Decision
from policies.document import Document
from policies.model import SiloPolicy
from silo.gate.journal import Journal
from silo.gate.session import Session


class Admit(Protocol):
    """Whether a run is admitted, or goes on (`again`), by the policy and the facts of now."""

    def __call__(self, session: Session, now: datetime, *, again: bool = False) -> Decision:
        """Decide it."""
        ...


@dataclass(frozen=True)
class Desk:
    """The handler's lock, its policy of now, how it decides, records and refuses, and its session."""

    deciding: AbstractContextManager[object]
    policy: Callable[[], Document[SiloPolicy]]
    journal: Journal
    admission: Admit
    going_on: Callable[[Session], None]
    """Raises the Refusal of a run that a newer policy refused; else notes that it goes on."""
    running: Callable[[], int]
    """How many other runs are in progress here."""
    end_session: Callable[[], None]
