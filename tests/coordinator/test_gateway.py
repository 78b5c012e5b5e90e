"""The door, as an ASGI application without sockets: who may reach what."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import queue
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flwr.proto import fleet_pb2

from audit.errors import AuditWriteError
from coordinator.gateway import (
    CONTROL_PREFIX,
    EVIDENCE_PREFIX,
    IDENTITY_PREFIX,
    PULL_MESSAGES,
    clock_problem,
    flower_identity_problem,
)
from coordinator.superlink import FLEET_PREFIX, PUSH_OBJECT
from federation.errors import IdentityError, ManifestError, RefusedError, UsageError
from federation.identity import Peer, Role, public_key_pem
from federation.limits import LIMITS
from federation.tls import client_context, server_context
from policies.errors import DocumentError, Problem

from .gateway_door import Door, door_fixture, knock_fixture, pull_of  # noqa: F401  two are fixtures

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
    "identity alone": "/concordat/v1/identity",
    "beside identity": "/concordat/v1/identityx/renew",
    "beside": "/v1/fleetx/pull-messages",
    "case": "/V1/FLEET/pull-messages",
    "double": "//v1/fleet/pull-messages",
    "upwards": "/x/../v1/fleet/pull-messages",
}


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
    assert knock.call(same_name.member("left", Role.OPERATOR), PATHS["control"]).body == (
        b"left is not a member of federation cardio.example (manifest 7)"
    )
    assert knock.call(same_name.member("ops", Role.OPERATOR), PATHS["control"]).body == (
        b"the certificate of ops was not issued by this federation's authority, "
        b"nor by one that its manifest names for ops"
    )
    assert (door.came, door.first_used) == ([], [])
    # Who was turned away is named by what its certificate claims.
    assert [peer for peer, _, _ in door.refused] == [
        "spiffe://onco.example/operator/ops",
        "spiffe://cardio.example/operator/left",
        "spiffe://cardio.example/operator/ops",
    ]


def test_what_is_no_certificate_reaches_nothing(door: Door, knock: Any):
    for certificate in (b"", b"\x30\x00", b"garbage"):
        answer = knock.call(None, PATHS["control"], certificate=certificate)
        assert (answer.status, answer.body) == (403, b"got something that is not a DER certificate")
    assert (door.came, [peer for peer, _, _ in door.refused]) == ([], [None] * 3)


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
        assert door.refused == [(door.members[who].uri, path, answer.body.decode())]
        assert door.came == []
    else:
        assert answer.status == 200
        assert (door.refused, door.came) == ([], [(own, who, path, b"")])


@pytest.mark.parametrize("who", ["ops", "aud", "silo-a"])
def test_every_member_reaches_the_identity_interface(door: Door, knock: Any, federation: Any, who: str):
    answer = knock.call(federation.homes[who], IDENTITY_PREFIX + "renew", "POST", b"{}")
    assert (answer.status, answer.json) == (200, {"by": "identity"})
    assert (door.refused, door.came) == ([], [("identity", who, IDENTITY_PREFIX + "renew", b"{}")])


def test_a_certificates_first_use_alone_is_told(door: Door, knock: Any, federation: Any):
    for who in ("ops", "aud", "ops"):
        for where in ("control", "evidence"):
            knock.call(federation.homes[who], PATHS[where])
    assert door.first_used == [door.members[who].uri for who in ("ops", "aud")]


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


@pytest.mark.parametrize(("off", "words"), [(900, "900 s ahead"), (-301, "301 s behind"), (-86400, "86400 s behind")])
def test_a_clock_that_is_wrong_is_said_as_such(
    door: Door, knock: Any, federation: Any, headers_of: Any, off: int, words: str
):
    silo = federation.homes["silo-a"]
    at = datetime.now(UTC) + timedelta(seconds=off)
    answer = knock.call(silo, PATHS["fleet"], "POST", b"", headers_of(silo, at))
    seconds = re.compile(r"\d+ s")
    expected = f"the clock of silo-a is {words} of the coordinator's; set the wrong one right"
    assert answer.status == 403
    assert seconds.sub("", answer.body.decode()) == seconds.sub("", expected)
    assert door.refused == [(door.members["silo-a"].uri, PATHS["fleet"], answer.body.decode())]


def test_a_clock_may_be_off_by_so_much(door: Door):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    header = [(b"flwr-timestamp", at.isoformat().encode())]
    for off in (-300, 0, 300):
        assert clock_problem(door.members["silo-a"], header, at + timedelta(seconds=off)) is None
    for off in (-301, 301):
        assert "301 s" in str(clock_problem(door.members["silo-a"], header, at + timedelta(seconds=off)))


def test_a_request_without_a_usable_time_is_refused(door: Door, knock: Any, federation: Any, headers_of: Any):
    silo = federation.homes["silo-a"]
    key, time, signature = headers_of(silo)
    naive = time[1].partition(b"+")[0]
    for stamps in ([], [(time[0], b"")], [(time[0], b"now")], [(time[0], b"\xff")], [(time[0], naive)]):
        answer = knock.call(silo, PATHS["fleet"], "POST", b"", [key, *stamps, signature])
        assert (answer.status, answer.body) == (403, b"the request has no usable flwr-timestamp header")
    assert len(door.refused) == 5


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


# -- connections that are open while the manifest changes


@pytest.mark.federation
def test_whoever_cannot_be_checked_again_is_cut_and_spares_no_other(
    door: Door, federation: Any, open_door: Callable[..., Any]
):
    hub = federation.homes["hub"]
    context = server_context(hub.certificate, hub.key, hub.authority)
    reasons = {
        "aud": AuditWriteError("the disk is full"),
        "ops": IdentityError("ops has left"),
        "silo-a": ManifestError("the manifest is damaged"),
    }
    cut: queue.Queue[tuple[str, str]] = queue.Queue()
    identify = door.application._identify_certificate

    def failing(der: bytes) -> Peer:
        peer = identify(der)
        if peer.name in reasons:
            raise reasons[peer.name]
        return peer

    with open_door(door.application, context, door.came.append) as port, contextlib.ExitStack() as stack:
        open_ones = {}
        for name in (*reasons, "ops-b"):
            home = federation.homes[name]
            connection = http.client.HTTPSConnection(
                "127.0.0.1", port, context=client_context(home.certificate, home.key, home.authority), timeout=60
            )
            stack.callback(connection.close)
            connection.request("GET", PATHS["root"])
            assert connection.getresponse().read().startswith(b"a certificate with role")
            open_ones[name] = connection
        door.application._identify_certificate = failing
        door.application.recheck(lambda peer, reason: cut.put((peer.name if peer else "", reason)))
        assert dict(cut.get(timeout=60) for _ in reasons) == {name: str(error) for name, error in reasons.items()}
        for name in reasons:
            assert open_ones[name].sock.recv(1) == b""
        open_ones["ops-b"].request("GET", PATHS["control"])
        assert open_ones["ops-b"].getresponse().status == 200


# -- bodies


@pytest.mark.parametrize(
    ("path", "limit"),
    [(ACTIVATE, LIMITS.fleet_call), (PUSH_OBJECT, LIMITS.fleet_request), (PULL_MESSAGES, LIMITS.pull_request)],
)
def test_a_fleet_request_that_is_too_large_is_refused_while_it_arrives(
    door: Door, knock: Any, federation: Any, headers_of: Any, path: str, limit: int
):
    silo = federation.homes["silo-a"]

    async def go(size: int) -> Any:
        exchange = knock.exchange(silo, path, "POST", bytes(size), headers_of(silo))
        await knock.run(exchange)
        return exchange

    exchange = asyncio.run(go(limit + 1_000_000))
    reason = f"got a request of more than {limit} bytes, the most that is accepted here"
    assert (exchange.answer.status, exchange.answer.body.decode()) == (413, reason)
    assert door.refused == [(door.members["silo-a"].uri, path, reason)]
    assert exchange.read <= limit + 65536
    assert asyncio.run(go(limit)).answer.status == 400


def test_a_control_request_that_is_too_large_is_refused(door: Door, knock: Any, federation: Any):
    ops = federation.homes["ops"]
    answer = knock.call(ops, PATHS["control"], "POST", bytes(LIMITS.control_request + 1))
    assert (answer.status, f"more than {LIMITS.control_request} bytes" in answer.body.decode()) == (413, True)
    assert door.refused == [(door.members["ops"].uri, PATHS["control"], answer.body.decode())]
    assert door.came == []
    assert knock.call(ops, PATHS["control"], "POST", bytes(LIMITS.control_request)).status == 200


def test_an_identity_request_that_is_too_large_is_refused(door: Door, knock: Any, federation: Any):
    silo, path, limit = federation.homes["silo-a"], IDENTITY_PREFIX + "renew", LIMITS.enrolment_request
    answer = knock.call(silo, path, "POST", bytes(limit + 1))
    assert (answer.status, f"more than {limit} bytes" in answer.body.decode()) == (413, True)
    assert door.refused == [(door.members["silo-a"].uri, path, answer.body.decode())]
    assert door.came == []
    assert knock.call(silo, path, "POST", bytes(limit)).status == 200


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


# -- what is answered


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
