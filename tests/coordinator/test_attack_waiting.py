"""Requests that take long, or are asked many times at once: whoever makes them keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.proto import fleet_pb2

from coordinator.enrolment import RENEWALS_OF_ONE, Renewal
from coordinator.gateway import CONTROL_PREFIX
from coordinator.recorded import read_signed
from coordinator.superlink import FLEET_PREFIX, PULL_MESSAGES
from federation.errors import IdentityError
from federation.identity import Peer, Role
from federation.limits import LIMITS
from federation.release import request_release
from federation.renewal import RENEW_PATH
from federation.wire import weights_digest

from .conftest import Node, flower_headers
from .test_attack_other_operator import OTHER, WEIGHTS, restarted  # noqa: F401  a fixture
from .test_control import Hub, hub  # noqa: F401  a fixture

MANY = 40
"""More than the threads that serve silos."""


def asked_by(here: Hub, run: str, name: str) -> bytes:
    home = here.homes[name]
    digest = read_signed(here.homes["hub"].runs / run).digest
    certificate = home.certificate.read_bytes()
    return json.dumps(
        request_release(run, digest, weights_digest(WEIGHTS), home.private_key(), certificate).fields()
    ).encode()


def test_an_operator_who_asks_for_a_release_many_times_at_once_keeps_no_silo_waiting(
    restarted: tuple[Hub, str],  # noqa: F811
) -> None:
    here, run = restarted
    link = here.coordinator._superlink
    for silo in ("silo-a", "silo-b"):
        Node(link, here.homes[silo]).activate()
    silo = Node(link, here.homes["silo-a"])
    activation = fleet_pb2.ActivateNodeRequest(public_key=silo.key, heartbeat_interval=30).SerializeToString()
    path = f"{CONTROL_PREFIX}runs/{run}/release"
    body = asked_by(here, run, OTHER)

    async def ask() -> list[Any]:
        asked = [here.client.exchange(here.homes[OTHER], path, "POST", body) for _ in range(MANY)]
        tasks = [here.client.run(one) for one in asked]
        try:
            await asyncio.sleep(0.5)
            headers = flower_headers(silo.home)
            beat = here.client.exchange(silo.home, f"{FLEET_PREFIX}activate-node", "POST", activation, headers)
            await asyncio.wait_for(here.client.run(beat), 10)
            assert beat.answer.status == 200
        finally:
            here.coordinator._asides.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        return [one.answer for one in asked]

    answers = asyncio.run(ask())
    assert sorted(answer.status for answer in answers) == [200] + [422] * (MANY - 1)
    assert {answer.json["error"] for answer in answers if answer.status == 422} == {
        f"{OTHER} asks for a release already; wait for its answer"
    }


def test_a_silo_that_asks_for_millions_of_messages_keeps_nobody_waiting(hub: Hub) -> None:  # noqa: F811
    """Messages are handed out where all requests arrive: nobody else is served meanwhile."""
    node = Node(hub.coordinator._superlink, hub.homes["silo-a"]).activate()
    asked = fleet_pb2.PullMessagesRequest(node=node.node).SerializeToString()
    named = asked + b"\x12\0" * ((LIMITS.fleet_request - len(asked)) // 2)  # 17 million names of no characters

    async def ask() -> tuple[int, float]:
        exchange = hub.client.exchange(node.home, PULL_MESSAGES, "POST", named, flower_headers(node.home))
        task, began = hub.client.run(exchange), time.monotonic()
        await asyncio.sleep(0.01)
        served = time.monotonic() - began
        exchange.gone.set()
        await asyncio.wait_for(task, 60)
        return exchange.answer.status, served

    status, served = asyncio.run(ask())
    assert served < 2.0
    assert status == 413
    assert hub.actions()[-1]["reason"].startswith(f"got a request of more than {LIMITS.pull_request} bytes")


def test_a_member_that_renews_without_end_fills_no_log_and_takes_no_thread_of_the_silos() -> None:
    """Each renewal is two durable entries; 48 at a time kept every other member waiting for two seconds."""
    issued: list[str] = []
    denied: list[str] = []
    threads: set[str] = set()

    class Slow:
        def renew(self, peer: Peer, _csr: str, granted: Callable[[], None]) -> bytes:
            threads.add(threading.current_thread().name)
            time.sleep(0.01)
            granted()
            issued.append(peer.name)
            return b""

        def bundle(self, _certificate: bytes) -> dict[str, str]:
            return {}

    def record(actor: str, decision: str, rule: str, _reason: str, _detail: object) -> None:
        if decision == "deny":
            denied.append(f"{actor} {rule}")

    async def send(_message: object) -> None:
        pass

    renewal = Renewal(Slow(), record)  # type: ignore[arg-type]
    scope = {"path": RENEW_PATH, "method": "POST"}
    bad, good = (Peer("cardio.example", Role.SILO, name, b"") for name in ("silo-bad", "silo-good"))

    async def ask() -> list[BaseException | None]:
        asked = [renewal(peer, scope, b'{"csr": ""}', send) for peer in (*[bad] * MANY, good)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())
    assert (issued.count("silo-bad"), issued.count("silo-good")) == (RENEWALS_OF_ONE, 1)
    refused = [answer for answer in answers if answer is not None]
    assert len(refused) == MANY - RENEWALS_OF_ONE
    assert all(isinstance(answer, IdentityError) for answer in refused)
    assert set(denied) == {f"{bad.uri} renewal.attempts"}
    assert len(threads) == 1
