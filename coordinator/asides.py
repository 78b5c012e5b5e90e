"""Questions put to silos beside any run: about logs, about the release of a model."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from coordinator.reading import reading
from coordinator.superlink import Reply, SuperLink
from coordinator.witnessing import Witnessing
from federation.errors import UsageError, WireError
from federation.wire import EVIDENCE, Envelope

NO_APP = b""
LOOK_SECONDS = 0.5

NextReply = Callable[[float], Reply | None]
"""Waits for a reply until a time on the monotonic clock; None where none came."""


def ask_once(
    superlink: SuperLink,
    run: int,
    witnessing: Witnessing,
    kind: str,
    question: Envelope,
    silos: Mapping[str, int],
    next_reply: NextReply,
    seconds: float,
) -> dict[str, Envelope]:
    """Ask silos once, with what is said of logs; returns the answers of those that gave one in time.

    Raises RunFailedError where a silo shows that the coordinator's own log is behind.
    """
    if not silos:
        return {}
    evidence = witnessing.call(silos, everyone=True)
    question = replace(question, config={**question.config, EVIDENCE: evidence})
    asked = superlink.send(run, kind, question, silos, seconds, "aside")
    answers: dict[str, Envelope] = {}
    deadline = time.monotonic() + seconds
    try:
        while asked:
            reply = next_reply(deadline)
            if reply is None:
                break
            silo = asked.pop(reply.reply_to, None)
            if silo is None:
                continue
            try:
                with reading(silo):
                    answer = superlink.take(reply)
                    witnessing.take(silo, answer.config.get(EVIDENCE))
            except WireError:
                continue
            answers[silo] = answer
    finally:
        superlink.withdraw(set(asked))
    return answers


class Asides:
    """Asks silos while no run is executed; `hold` is kept meanwhile, and a run begins after it.

    A run that is to be executed does not wait for a silo that is silent.
    """

    def __init__(
        self, superlink: SuperLink, witnessing: Witnessing, is_idle: Callable[[], bool], hold: threading.Lock
    ) -> None:
        self._superlink, self._witnessing = superlink, witnessing
        self._is_idle, self._hold = is_idle, hold
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have whatever waits for an answer give up."""
        self._stopping.set()

    @contextmanager
    def opened(self) -> Iterator[Callable[[str, Envelope, Mapping[str, int], float], dict[str, Envelope]]]:
        """A way to ask: kind, question, silos with their nodes, seconds; raises UsageError while a run is executed."""
        with self._hold:
            if not self._is_idle():
                raise UsageError("a run is executing", advice="wait for its end")
            replies: queue.Queue[Reply] = queue.Queue()
            no_app = hashlib.sha256(NO_APP).hexdigest()
            run = self._superlink.open_run("concordat/aside", NO_APP, no_app, replies.put)

            def next_reply(deadline: float) -> Reply | None:
                while not self._stopping.is_set() and self._is_idle():
                    left = deadline - time.monotonic()
                    try:
                        return replies.get(timeout=max(0.0, min(left, LOOK_SECONDS)))
                    except queue.Empty:
                        if left <= LOOK_SECONDS:
                            break
                return None

            def ask(kind: str, question: Envelope, silos: Mapping[str, int], seconds: float) -> dict[str, Envelope]:
                return ask_once(self._superlink, run, self._witnessing, kind, question, silos, next_reply, seconds)

            try:
                yield ask
            finally:
                self._superlink.close_run(run, completed=True)
