"""A silo's pull that waits at the door until there is work, the door closes, or the silo leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from flwr.proto import fleet_pb2

from coordinator.gateway import (
    PULL_MESSAGES,
)
from federation.wire import Envelope, Kind

from .gateway_door import Door, door_fixture, knock_fixture, pull_of  # noqa: F401  two are fixtures


class Waiting:
    """A silo whose pull waits at the door."""

    def __init__(self, door: Door, knock: Any, federation: Any, headers_of: Any, node: Any) -> None:
        self.door, self.knock, self.home, self.headers_of = door, knock, federation.homes["silo-a"], headers_of
        self.node = node(door.link, self.home).activate()
        self.run = door.link.open_run("concordat/test", b"app", hash_of(b"app"), lambda _: None)

    def post(self) -> None:
        self.door.link.send(self.run, Kind.TRAIN, Envelope({"round": 1}), {"silo-a": self.node.id}, 600.0, "1")

    async def pull(self) -> tuple[Any, asyncio.Task[None]]:
        """Begin to pull, and go on once the request waits for what comes."""
        self.door.application._loop = asyncio.get_running_loop()
        exchange = self.knock.exchange(self.home, PULL_MESSAGES, "POST", pull_of(self.node), self.headers_of(self.home))
        waits = asyncio.Event()
        receive = exchange.receive

        async def noticing() -> dict[str, Any]:
            if exchange.read:
                waits.set()
            return dict(await receive())

        exchange.receive = noticing
        task = self.knock.run(exchange)
        await asyncio.wait({task, asyncio.ensure_future(waits.wait())}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        return exchange, task


def hash_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def waiting(door: Door, knock: Any, federation: Any, headers_of: Any, node: Any) -> Waiting:
    kind = type(node("silo-a"))
    return Waiting(door, knock, federation, headers_of, kind)


def messages(exchange: Any) -> int:
    response = fleet_pb2.PullMessagesResponse()
    response.ParseFromString(exchange.answer.body)
    return len(response.messages_list)


def test_a_pull_is_answered_at_once_where_work_waits(waiting: Waiting):
    async def go() -> Any:
        waiting.post()
        exchange, task = await waiting.pull()
        await task
        return exchange

    assert messages(asyncio.run(go())) == 1


def test_a_waiting_pull_is_woken_by_a_message(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 600.0)

    async def go() -> Any:
        exchange, task = await waiting.pull()
        assert not task.done()
        await asyncio.to_thread(waiting.post)
        await asyncio.wait_for(task, 60)
        return exchange

    exchange = asyncio.run(go())
    assert (exchange.answer.status, messages(exchange)) == (200, 1)


def test_a_waiting_pull_is_answered_empty_after_a_while(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 0.0)

    async def go() -> Any:
        exchange, task = await waiting.pull()
        await asyncio.wait_for(task, 60)
        return exchange

    exchange = asyncio.run(go())
    assert (exchange.answer.status, exchange.answer.body) == (200, b"")


def test_a_message_is_not_lost_to_a_peer_that_is_gone(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 600.0)

    async def go() -> tuple[Any, Any]:
        left, task = await waiting.pull()
        left.gone.set()
        await asyncio.wait_for(task, 60)
        await asyncio.to_thread(waiting.post)
        again, task = await waiting.pull()
        await asyncio.wait_for(task, 60)
        return left, again

    left, again = asyncio.run(go())
    assert not left.started.is_set()
    assert messages(again) == 1


def test_a_message_and_a_leaving_peer_at_the_same_moment(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 600.0)

    async def go() -> tuple[Any, Any]:
        left, task = await waiting.pull()
        waiting.post()
        left.gone.set()
        await asyncio.wait_for(task, 60)
        again, task = await waiting.pull()
        again.gone.set()
        await asyncio.wait_for(task, 60)
        return left, again

    left, again = asyncio.run(go())
    assert messages(left) + messages(again) == 1


def test_the_door_closing_lets_waiting_pulls_go(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 600.0)

    async def go() -> list[Any]:
        first, task = await waiting.pull()
        waiting.door.application.close()
        await asyncio.wait_for(task, 60)
        second, task = await waiting.pull()
        await asyncio.wait_for(task, 60)
        return [first, second]

    assert [(e.answer.status, e.answer.body) for e in asyncio.run(go())] == [(200, b"")] * 2


def test_a_refused_pull_is_answered_at_once(waiting: Waiting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("coordinator.gateway.LONG_POLL_SECONDS", 600.0)

    async def go() -> Any:
        waiting.node.node.node_id += 1
        exchange, task = await waiting.pull()
        await asyncio.wait_for(task, 60)
        return exchange

    assert asyncio.run(go()).answer.status == 401
