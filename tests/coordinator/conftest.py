"""A federation on disk, an ASGI client without sockets, and a Flower node without a network."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, message_pb2, node_pb2
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from google.protobuf.message import Message as Proto

from coordinator.authority import Authority
from coordinator.gateway import PEER
from coordinator.server import Server
from coordinator.superlink import FLEET_PREFIX, Response, SuperLink
from federation.enrolment import EnrolmentRequest, join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, load_certificate, public_key_pem
from federation.manifest import accept_manifest
from federation.renewal import install_renewed, next_signing_request
from federation.wire import Envelope, WireObject, deflate, to_records

NAME = "cardio.example"
ResponseT = TypeVar("ResponseT", bound=Proto)
Headers = list[tuple[bytes, bytes]]


class Founded:
    """An authority and the homes of its members."""

    def __init__(self, directory: Path, name: str = NAME) -> None:
        self.directory = directory
        self.name = name
        self.authority = Authority(directory / "authority")
        self.authority.found(name)
        self.homes: dict[str, Home] = {}

    @property
    def ca(self) -> x509.Certificate:
        return load_certificate(self.authority.certificate.read_bytes())

    def request(self, name: str, role: Role = Role.SILO, *addresses: str) -> tuple[Home, EnrolmentRequest]:
        home = Home(self.directory / name)
        request_enrolment(home, self.name, name, role, "DE", addresses)
        return home, parse_request(home.request.read_bytes())

    def member(self, name: str, role: Role = Role.SILO, *addresses: str) -> Home:
        """A member that has joined."""
        home, request = self.request(name, role, *addresses)
        certificate, _ = self.authority.enrol(request)
        join(home, json.dumps(self.authority.bundle(certificate)).encode())
        self.homes[name] = home
        return home

    def renew(self, home: Home) -> None:
        """Give a member a new key and its certificate."""
        certificate = self.authority.renew(home.identity(), next_signing_request(home))
        install_renewed(home, json.dumps(self.authority.bundle(certificate)).encode())

    def copy(self, directory: Path) -> Founded:
        """The same federation in another directory, for a test that changes it."""
        shutil.copytree(self.directory, directory)
        other = copy.copy(self)
        other.directory, other.authority = directory, Authority(directory / "authority")
        other.homes = {name: Home(directory / name) for name in self.homes}
        return other

    def refresh(self) -> None:
        """Give every member the newest manifest."""
        newest = self.authority.manifest()
        for home in self.homes.values():
            accept_manifest(home, newest.document.text, newest.signature)


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., Founded]:
    """Found a federation of one's own."""
    return lambda name=NAME, folder="f": Founded(tmp_path / folder, name)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    """One federation for the tests that only read: hub, ops, ops-b, aud, silo-a, silo-b."""
    founded = Founded(tmp_path_factory.mktemp("federation"))
    founded.member("hub", Role.COORDINATOR, "127.0.0.1:9443")
    for name, role in (("ops", Role.OPERATOR), ("ops-b", Role.OPERATOR), ("aud", Role.AUDITOR)):
        founded.member(name, role)
    founded.member("silo-a")
    founded.member("silo-b")
    founded.refresh()
    return founded


# -- Flower nodes


def flower_headers(home: Home, timestamp: datetime | None = None) -> Headers:
    """The headers with which Flower signs a Fleet request."""
    key = home.private_key()
    at = (timestamp or datetime.now(UTC)).isoformat()
    return [
        (FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), base64.b64encode(public_key_pem(key.public_key()))),
        (TIMESTAMP_HEADER.lower().encode(), at.encode()),
        (FLEET_HTTP_SIGNATURE_HEADER.lower().encode(), base64.b64encode(sign_message(key, at.encode()))),
    ]


class Node:
    """A silo's node that calls a SuperLink in this process."""

    def __init__(self, link: SuperLink, home: Home) -> None:
        self.link, self.home = link, home
        self.key = public_key_pem(home.private_key().public_key())
        self.id = link.enrol(home.identity().name, self.key)
        self.node = node_pb2.Node(node_id=self.id)

    def raw(self, call: str, body: bytes, headers: Headers | None = None) -> Response:
        return self.link.fleet(FLEET_PREFIX + call, body, flower_headers(self.home) if headers is None else headers)

    def call(self, call: str, request: Proto, response: type[ResponseT]) -> ResponseT:
        answer = self.raw(call, request.SerializeToString())
        assert answer.status == 200, answer
        parsed = response()
        parsed.ParseFromString(answer.body)
        return parsed

    def activate(self) -> Node:
        request = fleet_pb2.ActivateNodeRequest(public_key=self.key, heartbeat_interval=30)
        assert self.call("activate-node", request, fleet_pb2.ActivateNodeResponse).node_id == self.id
        return self

    def pull(self) -> fleet_pb2.PullMessagesResponse:
        return self.call("pull-messages", fleet_pb2.PullMessagesRequest(node=self.node), fleet_pb2.PullMessagesResponse)

    def fetch(self, run_id: int, object_id: str) -> message_pb2.PullObjectResponse:
        request = message_pb2.PullObjectRequest(node=self.node, run_id=run_id, object_id=object_id)
        return self.call("pull-object", request, message_pb2.PullObjectResponse)

    def answer_to(self, asked: Any, envelope: Envelope, **changes: Any) -> tuple[Any, list[WireObject]]:
        """The push of a reply to a pulled message, and the reply's objects."""
        now = datetime.now(UTC).timestamp()
        fields = {
            "run_id": asked.run_id,
            "message_id": "",
            "src_node_id": asked.dst_node_id,
            "dst_node_id": asked.src_node_id,
            "reply_to_message_id": asked.message_id,
            "group_id": asked.group_id,
            "created_at": now,
            "ttl": asked.created_at + asked.ttl - now,
            "message_type": asked.message_type,
        }
        metadata = Metadata(**{**fields, **changes})
        metadata.delivered_at = ""
        message = make_message(metadata=metadata, content=to_records(envelope))
        objects = deflate(message)
        metadata.__dict__["_message_id"] = objects[-1].object_id
        proto = message_to_proto(message)
        proto.content.Clear()
        request = fleet_pb2.PushMessagesRequest(
            node=self.node, messages_list=[proto], message_object_trees=[tree_of(objects)], clientapp_runtime_list=[0.0]
        )
        return request, objects

    def push(self, run_id: int, session: str, item: WireObject) -> bool:
        request = message_pb2.PushObjectRequest(
            node=self.node,
            run_id=run_id,
            object_id=item.object_id,
            object_content=item.content,
            session_id=session,
        )
        return bool(self.call("push-object", request, message_pb2.PushObjectResponse).stored)

    def reply(self, asked: Any, envelope: Envelope) -> str:
        """Reply with everything; returns the reply's id."""
        request, objects = self.answer_to(asked, envelope)
        response = self.call("push-messages", request, fleet_pb2.PushMessagesResponse)
        for item in objects:
            if item.object_id in response.objects_to_push:
                assert self.push(asked.run_id, response.session_id, item)
        return objects[-1].object_id


def tree_of(objects: list[WireObject]) -> message_pb2.ObjectTree:
    built: dict[str, message_pb2.ObjectTree] = {}
    for item in objects:
        children = [built[child] for child in item.children]
        built[item.object_id] = message_pb2.ObjectTree(object_id=item.object_id, children=children)
    return built[objects[-1].object_id]


@pytest.fixture
def link() -> SuperLink:
    return SuperLink()


@pytest.fixture
def node(link: SuperLink, federation: Founded) -> Callable[[str], Node]:
    """A member's node, enrolled and active."""
    return lambda name: Node(link, federation.homes[name]).activate()


@pytest.fixture(scope="session")
def headers_of() -> Callable[..., Headers]:
    return flower_headers


# -- ASGI without sockets


@dataclass
class Answer:
    """What an ASGI application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One HTTP request to an ASGI application; the peer stays connected until it leaves."""

    def __init__(self, certificate: bytes | None, path: str, method: str, body: bytes, headers: Headers) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": method,
            "path": path.partition("?")[0],
            "query_string": path.partition("?")[2].encode(),
            "headers": headers,
            "extensions": {PEER: {"certificate": certificate}},
        }
        self.answer = Answer()
        self.started = asyncio.Event()
        self.gone = asyncio.Event()
        self._body = [body[start : start + 65536] for start in range(0, len(body), 65536)] or [b""]
        self.read = 0

    async def receive(self) -> dict[str, Any]:
        if self._body:
            part = self._body.pop(0)
            self.read += len(part)
            return {"type": "http.request", "body": part, "more_body": bool(self._body)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not self.started.is_set()
            self.answer.status = message["status"]
            self.answer.headers = {name.decode(): value.decode() for name, value in message.get("headers", [])}
            self.started.set()
        else:
            assert self.started.is_set()
            assert not self.answer.complete
            self.answer.body += message.get("body", b"")
            self.answer.complete = not message.get("more_body", False)


def der(home: Home) -> bytes:
    return load_certificate(home.certificate.read_bytes()).public_bytes(serialization.Encoding.DER)


class Client:
    """Makes requests to an application as the holder of a home."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application

    def exchange(
        self,
        home: Home | None,
        path: str,
        method: str = "GET",
        body: bytes = b"",
        headers: Headers | None = None,
        certificate: bytes | None = None,
    ) -> Exchange:
        if home is not None:
            certificate = der(home)
        return Exchange(certificate, path, method, body, headers or [])

    def run(self, exchange: Exchange) -> asyncio.Task[None]:
        async def call() -> None:
            await self.application(exchange.scope, exchange.receive, exchange.send)

        return asyncio.ensure_future(call())

    def call(self, *arguments: Any, **options: Any) -> Answer:
        """One request, answered completely."""

        async def go() -> Answer:
            exchange = self.exchange(*arguments, **options)
            await asyncio.wait_for(self.run(exchange), 60)
            assert exchange.answer.complete
            return exchange.answer

        return asyncio.run(go())


@pytest.fixture(scope="session")
def client() -> Callable[..., Client]:
    return Client


# -- a server in a thread


@contextmanager
def serving(application: Any, context: ssl.SSLContext, files: tuple[Path, Path], **options: Any) -> Iterator[int]:
    """Serve an ASGI application over TLS on a port of 127.0.0.1 from a thread; gives the port."""
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=0,
        ssl_certfile=str(files[0]),
        ssl_keyfile=str(files[1]),
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=1,
        **options,
    )
    config.load()
    config.ssl = context
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready.set()

    server = Server(config)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    return serving


@contextmanager
def opening(
    application: Any, context: ssl.SSLContext, on_refused: Callable[[str], None], **options: Any
) -> Iterator[int]:
    """Serve a gateway with the coordinator's own server on a port of 127.0.0.1 from a thread; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    server = Server([(listener, application, context)], on_refused, ready.set, application.close, **options)
    thread = threading.Thread(target=server.run, args=([listener],), name="door", daemon=True)
    thread.start()
    try:
        assert ready.wait(60)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def open_door() -> Callable[..., Any]:
    return opening


@pytest.fixture(autouse=True, scope="session")
def _no_proxy() -> Iterator[None]:
    """Requests to 127.0.0.1 go there, whatever the machine's environment says."""
    names = [name for name in os.environ if "proxy" in name.lower()]
    kept = {name: os.environ.pop(name) for name in names}
    yield
    os.environ.update(kept)
