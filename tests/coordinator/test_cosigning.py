"""Exchanges about logs alone: who answers is heard, who is silent is left out, and nothing is left behind."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from coordinator.asides import Asides, ask_once
from coordinator.cosigning import EXCHANGES, IdleCosigning
from coordinator.superlink import Reply, SuperLink
from federation.errors import RunFailedError
from federation.wire import EVIDENCE, Envelope, Kind

Nodes = Callable[[str], Any]


class Scribe:
    """Says and hears what the coordinator's part in witnessing does, and keeps both."""

    def __init__(self) -> None:
        self.called: list[list[str]] = []
        self.taken: list[tuple[str, object]] = []
        self.behind = False

    def call(self, silos: Iterable[str], *, everyone: bool = False) -> str:
        assert everyone
        self.called.append(sorted(silos))
        return f"call {len(self.called)}"

    def take(self, silo: str, text: object) -> None:
        if self.behind:
            raise RunFailedError("the coordinator does not act")
        self.taken.append((silo, text))


class Silo:
    """A node that answers what it pulls, in a thread of its own."""

    def __init__(self, node: Any, says: str) -> None:
        self.node, self.says = node, says
        self.kinds: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.wait(0.01):
            for message in self.node.pull().messages_list:
                self.kinds.append(message.metadata.message_type)
                self.node.reply(message.metadata, Envelope({"status": "ok", EVIDENCE: self.says}))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def next_of(replies: queue.Queue[Reply | None]) -> Callable[[float], Reply | None]:
    def wait(deadline: float) -> Reply | None:
        try:
            return replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    return wait


def test_who_answers_is_heard_and_who_is_silent_left_out(link: SuperLink, node: Nodes) -> None:
    replies: queue.Queue[Reply | None] = queue.Queue()
    run = link.open_run("concordat/test", b"", hashlib.sha256(b"").hexdigest(), replies.put)
    scribe, silent = Scribe(), node("silo-b")
    silo = Silo(node("silo-a"), "evidence of a")
    try:
        nodes = {"silo-a": silo.node.id, "silo-b": silent.id}
        heard = ask_once(link, run, scribe, Kind.WITNESS, Envelope(), nodes, next_of(replies), 1.0)  # type: ignore[arg-type]
    finally:
        silo.stop()
    assert set(heard) == {"silo-a"}
    assert scribe.taken == [("silo-a", "evidence of a")]
    assert silo.kinds == [Kind.WITNESS]
    assert not silent.pull().messages_list, "what nobody waits for is taken back"


def test_nobody_is_asked_where_nobody_is_there(link: SuperLink) -> None:
    scribe = Scribe()
    assert ask_once(link, 1, scribe, Kind.WITNESS, Envelope(), {}, lambda _: None, 1.0) == {}  # type: ignore[arg-type]
    assert scribe.called == []


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def idle(link: SuperLink, said: list[str]) -> Any:
    """What cosigns between runs, with a scribe, and whether no run is executed."""
    scribe, state = Scribe(), {"idle": True}
    asides = Asides(link, scribe, lambda: state["idle"], threading.Lock())  # type: ignore[arg-type]
    cosigning = IdleCosigning(asides, link.online, lambda: state["idle"], said.append)
    cosigning.start()
    yield scribe, state
    cosigning.stop()


def test_a_silo_that_connects_has_its_log_cosigned_without_any_run(link: SuperLink, node: Nodes, idle: Any) -> None:
    scribe, _ = idle
    silo = Silo(node("silo-a"), "evidence")
    try:
        until(lambda: len(scribe.taken) == EXCHANGES + 1)
    finally:
        silo.stop()
    assert scribe.called == [["silo-a"]] * (EXCHANGES + 1), "and once more, for what came back to be told"


def test_while_a_run_is_executed_nothing_is_asked_beside_it(link: SuperLink, node: Nodes, idle: Any) -> None:
    scribe, state = idle
    state["idle"] = False
    first = Silo(node("silo-a"), "evidence")
    state["idle"] = True
    second = Silo(node("silo-b"), "evidence")
    try:
        until(lambda: ["silo-a", "silo-b"] in scribe.called)
    finally:
        first.stop()
        second.stop()
    assert ["silo-a"] not in scribe.called


def test_a_coordinator_that_is_behind_says_so_once_and_goes_on(
    link: SuperLink, node: Nodes, idle: Any, said: list[str]
) -> None:
    scribe, _ = idle
    scribe.behind = True
    first = Silo(node("silo-a"), "evidence")
    until(lambda: said != [])
    second = Silo(node("silo-b"), "evidence")
    try:
        until(lambda: len(scribe.called) >= 2)
        scribe.behind = False
    finally:
        first.stop()
        second.stop()
    assert said == ["logs are not cosigned: the coordinator does not act\n"]
