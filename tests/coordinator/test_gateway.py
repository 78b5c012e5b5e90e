"""The door, as an ASGI application without sockets: who may reach what."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from flwr.proto import fleet_pb2

from audit.errors import AuditWriteError
from coordinator import service
from coordinator.gateway import (
    CONTROL_PREFIX,
    EVIDENCE_PREFIX,
    PULL_MESSAGES,
    Gateway,
    flower_identity_problem,
    send_json,
)
from coordinator.service import RefusalBudget
from coordinator.superlink import FLEET_PREFIX, SuperLink
from federation.errors import IdentityError, RefusedError, UsageError
from federation.identity import Peer, Role, public_key_pem
from federation.limits import LIMITS
from federation.wire import Envelope, Kind
from policies.errors import DocumentError, Problem

ACTIVATE = FLEET_PREFIX + "activate-node"
PATHS = {
    "fleet": PULL_MESSAGES,
    "control": CONTROL_PREFIX + "runs",
    "evidence": EVIDENCE_PREFIX + "checkpoint",
    "root": "/",
    "empty": "",
    "flower's control": "/v1/control/start-run",
    "flower's runtime": "/v1/runtime/pull-task",
    "docs": "/docs",
    "prefix alone": "/v1/fleet",
    "beside": "/v1/fleetx/pull-messages",
    "case": "/V1/FLEET/pull-messages",
    "double": "//v1/fleet/pull-messages",
    "upwards": "/x/../v1/fleet/pull-messages",
}


class Door:
    """A gateway with interfaces that record who came through."""

    def __init__(self, federation: Any) -> None:
        self.members = {name: home.identity() for name, home in federation.homes.items()}
        self.link = SuperLink()
        self.came: list[tuple[str, str, str, bytes]] = []
        self.refused: list[tuple[str | None, str, str]] = []
        self.raises: Exception | None = None
        self.application = Gateway(
            federation.name, self.check, self.link, self.interface("control"), self.interface("evidence"), self.refuse
        )

    def check(self, peer: Peer) -> None:
        if peer.name not in self.members:
            raise IdentityError(f"{peer.name} is not a member")

    def interface(self, name: str) -> Callable[..., Awaitable[None]]:
        async def serve(peer: Peer, scope: dict[str, Any], body: bytes, send: Any) -> None:
            if self.raises is not None:
                raise self.raises
            self.came.append((name, peer.name, scope["path"], body))
            await send_json(send, 200, {"by": name})

        return serve

    def refuse(self, peer: Peer | None, path: str, reason: str) -> None:
        self.refused.append((peer.uri if peer else None, path, reason))


@pytest.fixture
def door(federation: Any) -> Door:
    return Door(federation)


@pytest.fixture
def knock(door: Door, client: Any) -> Any:
    return client(door.application)


def pull_of(node: Any) -> bytes:
    return fleet_pb2.PullMessagesRequest(node=node.node).SerializeToString()


# -- who comes in


def test_without_a_certificate_nothing_is_reached(door: Door, knock: Any):
    for path in PATHS.values():
        answer = knock.call(None, path)
        assert (answer.status, answer.body) == (403, b"the connection has no client certificate")
    assert door.came == []
    assert [(peer, path) for peer, path, _ in door.refused] == [(None, path) for path in PATHS.values()]


def test_without_a_word_about_the_connection_nothing_is_reached(door: Door, knock: Any, federation: Any):
    """A server that does not hand the certificate on must not open the door."""

    async def go() -> int:
        exchange = knock.exchange(federation.homes["ops"], PATHS["control"])
        del exchange.scope["extensions"]
        await knock.run(exchange)
        return int(exchange.answer.status)

    assert asyncio.run(go()) == 403


def test_a_certificate_of_a_stranger_reaches_nothing(door: Door, knock: Any, found: Callable[..., Any]):
    other = found("onco.example").member("ops", Role.OPERATOR)
    assert knock.call(other, PATHS["control"]).body == (
        b"got a certificate of federation onco.example, expected cardio.example"
    )
    same_name = found(folder="g")
    assert knock.call(same_name.member("left", Role.OPERATOR), PATHS["control"]).body == b"left is not a member"
    assert door.came == []
    # Who was turned away is named by its certificate, which the authority issued.
    assert [peer for peer, _, _ in door.refused] == [
        "spiffe://onco.example/operator/ops",
        "spiffe://cardio.example/operator/left",
    ]


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("who", ["hub", "ops", "aud", "silo-a"])
def test_each_role_reaches_its_own_interface_alone(
    door: Door, knock: Any, federation: Any, headers_of: Any, who: str, where: str
):
    home, path = federation.homes[who], PATHS[where]
    answer = knock.call(home, path, headers=headers_of(home))
    own = {"ops": "control", "aud": "evidence", "silo-a": "fleet"}.get(who)
    if where != own:
        assert answer.status == 403
        assert answer.body.startswith(b"a certificate with role ")
        ((uri, refused_path, reason),) = door.refused
        assert (uri, refused_path) == (door.members[who].uri, path)
        assert reason == answer.body.decode()
        assert door.came == []
    elif who == "silo-a":
        assert answer.status == 401
        assert (door.refused, door.came) == ([], [])
    else:
        assert answer.status == 200
        assert (door.refused, door.came) == ([], [(own, who, path, b"")])


@pytest.mark.parametrize(
    "where", ["/v1/fleet/../concordat/v1/control/runs", "/v1/fleet/%2e%2e/x", "/v1/fleet/register-node"]
)
def test_below_its_prefix_a_silo_finds_fleet_calls_alone(
    door: Door, knock: Any, federation: Any, headers_of: Any, where: str
):
    silo = federation.homes["silo-a"]
    assert knock.call(silo, where, headers=headers_of(silo)).status == 404
    assert door.came == []


def test_a_websocket_and_other_scopes_are_not_served(door: Door, federation: Any):
    async def go(kind: str) -> list[object]:
        sent: list[object] = []

        async def send(message: object) -> None:
            sent.append(message)

        await door.application({"type": kind, "path": PATHS["control"]}, lambda: asyncio.sleep(0), send)
        return sent

    assert asyncio.run(go("websocket")) == []


# -- one key, one identity


def test_a_flower_key_is_the_key_of_the_certificate(door: Door, knock: Any, federation: Any, headers_of: Any):
    silo, other = federation.homes["silo-a"], federation.homes["silo-b"]
    key = public_key_pem(silo.private_key().public_key())
    body = fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30).SerializeToString()
    own, others = headers_of(silo), headers_of(other)
    name = own[0][0]
    wrong = {
        "got 0 flwr-public-key headers": [own[1:], [], [(b"flwr-public-keys", own[0][1])]],
        "got 2 flwr-public-key headers": [[own[0], *own], [*own, others[0]], [others[0], *own]],
        "is not the key of the certificate of silo-a": [
            others,
            [others[0], *own[1:]],
            [(name, b""), *own[1:]],
            [(name, base64.b64encode(key + b"\n")), *own[1:]],
            [(name, base64.b64encode(key.strip())), *own[1:]],
        ],
        "is not base64": [
            [(name, b"!"), *own[1:]],
            [(name, own[0][1] + b"="), *own[1:]],
            [(name, own[0][1][:-1]), *own[1:]],
            [(name, own[0][1] + b"\xff"), *own[1:]],
            [(name, b" " + own[0][1]), *own[1:]],
        ],
    }
    for reason, cases in wrong.items():
        for headers in cases:
            answer = knock.call(silo, ACTIVATE, "POST", body, headers)
            assert (answer.status, reason in answer.body.decode()) == (403, True), (reason, headers)
            assert door.refused.pop() == (door.members["silo-a"].uri, ACTIVATE, answer.body.decode())
    assert door.link.online() == {}
    assert knock.call(silo, ACTIVATE, "POST", body, own).status == 200
    assert list(door.link.online()) == ["silo-a"]


def test_the_identity_check_says_nothing_where_all_is_well(door: Door, federation: Any, headers_of: Any):
    assert flower_identity_problem(door.members["silo-a"], headers_of(federation.homes["silo-a"])) is None


def test_a_silo_does_not_choose_the_name_of_its_node(door: Door, knock: Any, federation: Any, headers_of: Any):
    for name in ("silo-a", "silo-b"):
        home = federation.homes[name]
        knock.call(home, PATHS["fleet"], "POST", b"", headers_of(home))
        key = public_key_pem(home.private_key().public_key())
        body = fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30).SerializeToString()
        assert knock.call(home, ACTIVATE, "POST", body, headers_of(home)).status == 200
    assert sorted(door.link.online()) == ["silo-a", "silo-b"]


# -- bodies


def test_a_fleet_request_that_is_too_large_is_refused_while_it_arrives(
    door: Door, knock: Any, federation: Any, headers_of: Any
):
    silo = federation.homes["silo-a"]

    async def go(size: int) -> Any:
        exchange = knock.exchange(silo, ACTIVATE, "POST", bytes(size), headers_of(silo))
        await knock.run(exchange)
        return exchange

    exchange = asyncio.run(go(LIMITS.fleet_request + 1_000_000))
    assert exchange.answer.status == 413
    assert exchange.read <= LIMITS.fleet_request + 65536
    assert asyncio.run(go(LIMITS.fleet_request)).answer.status == 400


def test_a_control_request_that_is_too_large_is_refused(door: Door, knock: Any, federation: Any):
    ops = federation.homes["ops"]
    answer = knock.call(ops, PATHS["control"], "POST", bytes(LIMITS.control_request + 1))
    assert answer.status == 422
    assert f"more than {LIMITS.control_request} bytes" in answer.json["error"]
    assert door.came == []
    assert knock.call(ops, PATHS["control"], "POST", bytes(LIMITS.control_request)).status == 200


def test_a_peer_that_leaves_within_its_request_is_not_served(door: Door, knock: Any, federation: Any):
    async def go() -> None:
        exchange = knock.exchange(federation.homes["ops"], PATHS["control"], "POST")
        messages = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        exchange.receive = receive
        await knock.run(exchange)

    asyncio.run(go())
    assert door.came == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no such run", advice="list them"), 2),
        (RefusedError("the policy says no"), 3),
        (IdentityError("another signer"), 1),
        (DocumentError([Problem(1, 2, "got this, expected that", "run.yaml")]), 1),
        (AuditWriteError("the disk is full"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_operator_cannot_do_is_said_with_its_exit_code(
    door: Door, knock: Any, federation: Any, error: Exception, code: int
):
    door.raises = error
    answer = knock.call(federation.homes["ops"], PATHS["control"], "POST", b"{}")
    assert (answer.status, answer.json) == (422, {"error": str(error), "exit_code": code})


def test_a_refusal_that_cannot_be_recorded_is_no_admission(door: Door, knock: Any, federation: Any):
    def full(*_: object) -> None:
        raise AuditWriteError("the disk is full")

    door.application._on_refused = full
    with pytest.raises(AuditWriteError):
        knock.call(federation.homes["ops"], PATHS["evidence"])
    assert door.came == []


# -- waiting for work


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


def test_the_lifespan_is_answered(door: Door):
    async def go() -> list[dict[str, Any]]:
        events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await door.application({"type": "lifespan"}, receive, send)
        return sent

    assert [m["type"] for m in asyncio.run(go())] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_an_answer_has_its_length(knock: Any, federation: Any):
    answer = knock.call(federation.homes["ops"], PATHS["control"])
    assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}
    assert json.loads(answer.body) == {"by": "control"}


# -- a stranger cannot fill the log


def test_so_many_refusals_a_minute_are_recorded(monkeypatch: pytest.MonkeyPatch):
    class Clock:
        seconds = 600_000.0

        @classmethod
        def now(cls, _zone: object) -> Any:
            return cls

        @classmethod
        def timestamp(cls) -> float:
            return cls.seconds

    monkeypatch.setattr(service, "datetime", Clock)
    budget = RefusalBudget(per_minute=3)
    assert [budget.take() for _ in range(6)] == [True, True, True, False, False, False]
    Clock.seconds += 59.9
    assert not budget.take()
    Clock.seconds += 0.1
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    Clock.seconds -= 600
    assert budget.take()
