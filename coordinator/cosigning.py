"""Has silos' logs cosigned, before a run begins and while none is executed.

Two exchanges give every silo's log the cosignatures of the others: the first brings the logs' checkpoints to the
coordinator, the second has the silos cosign them. The next message brings the cosignatures back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from coordinator.asides import LOOK_SECONDS, Asides
from federation.errors import ConcordatError
from federation.faults import attempt
from federation.wire import Envelope, Kind

EXCHANGES = 2
EXCHANGE_SECONDS = 3.0
"""How long one exchange waits for a silo; one that says nothing meanwhile is left out of the next."""
IDLE_SECONDS = 60.0
"""How often logs are cosigned while no run is executed."""

Ask = Callable[[str, Envelope, Mapping[str, int], float], Mapping[str, Envelope]]
"""Asks silos once: kind, question, silos with their nodes, seconds; gives the answers that came."""


def cosign(ask: Ask, silos: Mapping[str, int], exchanges: int = EXCHANGES) -> None:
    """Ask silos so many times for nothing but what they say of logs; who stays silent is left out from then on."""
    for _ in range(exchanges):
        heard = ask(Kind.WITNESS, Envelope(), silos, EXCHANGE_SECONDS)
        silos = {silo: node for silo, node in silos.items() if silo in heard}


class IdleCosigning:
    """A thread that has the connected silos' logs cosigned when one connects, and from time to time, between runs."""

    def __init__(
        self,
        asides: Asides,
        online: Callable[[], Mapping[str, int]],
        is_idle: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self._asides, self._online, self._is_idle, self._say = asides, online, is_idle, say
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="cosigning", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns once no exchange is under way."""
        self._stopping.set()
        self._asides.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        known: frozenset[str] = frozenset()
        said, last = "", float("-inf")
        while not self._stopping.wait(LOOK_SECONDS):
            now, connected = time.monotonic(), self._online()
            is_due = bool(connected) and (not known.issuperset(connected) or now - last >= IDLE_SECONDS)
            known = frozenset(connected)
            if not is_due or not self._is_idle():
                continue
            last = now
            problem = attempt(partial(self._exchange, connected), str)
            if problem and problem != said:
                said = problem
                self._say(f"logs are not cosigned: {problem}\n")

    def _exchange(self, connected: Mapping[str, int]) -> str:
        """Have them cosigned; returns what went wrong."""
        try:
            with self._asides.opened() as ask:
                # Once more than before a run, as no message follows.
                cosign(ask, connected, EXCHANGES + 1)
        except ConcordatError as error:
            return str(error)
        return ""
