"""Flower's Fleet protocol, as a node that lives as long as its gate.

One of the two modules that touch Flower's internals: its protobuf messages, its paths and its signed headers.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import sign_message
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from federation.errors import ConcordatError, UnreachableError, WireError
from federation.identity import public_key_pem
from federation.limits import LIMITS
from federation.wire import Envelope, WireObject, check_sizes, deflate, envelope_of, to_records

HEARTBEAT_SECONDS = 30.0
POLL_TIMEOUT_SECONDS = 60.0
CONCURRENT_OBJECTS = 2
CLOCKS_APART_SECONDS = 240.0
"""From where on a refusal is blamed on the clocks: the coordinator allows 300 seconds, an answer takes some."""
MEDIA_TYPE = "application/protobuf"

ResponseT = TypeVar("ResponseT", bound=Proto)


class FleetRefusedError(ConcordatError):
    """The coordinator refused a Fleet request."""

    def __init__(self, status: int, path: str, reason: str, skew: float = 0.0) -> None:
        super().__init__(f"the coordinator refused {path} with status {status}: {reason}")
        self.status = status
        self.skew = skew
        """By how many seconds this machine's clock is ahead of the one that the answer was dated by."""

    @property
    def is_of_clocks(self) -> bool:
        """Whether two clocks are too far apart: it may work once the wrong one is set right."""
        return abs(self.skew) > CLOCKS_APART_SECONDS


@dataclass(frozen=True)
class Task:
    """A message for this node, its objects still at the coordinator."""

    kind: str
    run_id: int
    message_id: str
    metadata: Metadata
    tree: message_pb2.ObjectTree


def signed_headers(key: ec.EllipticCurvePrivateKey, now: datetime) -> dict[str, str]:
    """The headers with which Flower knows a node: its key, the time, and the key's signature over the time."""
    timestamp = now.isoformat()
    return {
        "content-type": MEDIA_TYPE,
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public_key_pem(key.public_key())).decode(),
        TIMESTAMP_HEADER: timestamp,
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(sign_message(key, timestamp.encode("ascii"))).decode(),
    }


class FleetConnection:
    """One kept-alive TLS connection that carries Fleet requests one after the other."""

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext,
        key: ec.EllipticCurvePrivateKey,
        exchanged: Callable[[int, int], None] = lambda _sent, _received: None,
    ) -> None:
        self._host, self._port, self._context = host, port, context
        self._exchanged = exchanged
        self._key = key
        self._http: http.client.HTTPSConnection | None = None
        self._interrupted = False

    def call(self, path: str, request: Proto, response_type: type[ResponseT]) -> ResponseT:
        """Send one request and read its answer; raises FleetRefusedError or UnreachableError."""
        headers = signed_headers(self._key, datetime.now(UTC))
        status, body, dated = self._exchange("/v1/fleet/" + path, request.SerializeToString(), headers)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # Nobody decided that this node may not: the coordinator is failing, or about to end.
            said = bytes(body[:1000]).decode("utf-8", "replace")
            raise UnreachableError(f"{self._host}:{self._port} answers {status}: {said}")
        if status != 200:
            reason = bytes(body[:1000]).decode("utf-8", "replace")
            raise FleetRefusedError(status, path, reason, _skew(dated, datetime.now(UTC)))
        response: ResponseT = response_type()
        try:
            response.ParseFromString(body)  # type: ignore[arg-type]  # takes any buffer
        except DecodeError:
            raise WireError(f"the answer to {path} is not the protobuf message it should be") from None
        return response

    def _exchange(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, memoryview, str]:
        """One request, its answer and the date of that; a kept-alive connection that was closed is opened anew."""
        reused = self._http is not None
        try:
            try:
                response = self._send(path, body, headers)
            except (ConnectionError, ssl.SSLError):
                if not reused or self._interrupted:
                    raise
                self.close()
                response = self._send(path, body, headers)
            content = self._read(response)
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            self.close()
            raise UnreachableError(f"{self._host}:{self._port} does not answer: {_say(error)}") from None
        self._exchanged(len(body), len(content))
        return response.status, content, response.headers.get("date", "")

    def _send(self, path: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = self._http or self._connect()
        connection.request("POST", path, body=body, headers=headers)
        return connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> memoryview:
        length = -1 if response.length is None else response.length
        if not 0 <= length <= LIMITS.fleet_request:
            self.close()
            raise WireError(f"got an answer of {length} bytes, expected at most {LIMITS.fleet_request}")
        content = np.empty(length, dtype=np.uint8).data
        filled = 0
        while filled < length:
            got = response.readinto(content[filled:])
            if not got:
                raise http.client.IncompleteRead(b"", length - filled)
            filled += got
        response.read()
        if response.will_close:
            self.close()
        return content

    def _connect(self) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(
            self._host, self._port, context=self._context, timeout=POLL_TIMEOUT_SECONDS, blocksize=1 << 20
        )
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http = connection
        return connection

    def interrupt(self) -> None:
        """Wake a thread that waits for an answer, for good; may be called from a signal handler."""
        self._interrupted = True
        http_connection = self._http
        if http_connection is not None and http_connection.sock is not None:
            with contextlib.suppress(OSError):
                http_connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        if self._http is not None:
            self._http.close()
            self._http = None


class FleetNode:
    """The silo as a Flower node: pull a task, fetch its content, push a reply.

    Its key and certificate may change between any two of these, also while a task is worked on; see `try_use`.
    """

    def __init__(self, connect: Callable[[], FleetConnection], public_key: bytes) -> None:
        self._connect = connect
        self._public_key = public_key
        self._main = connect()
        self._generation = 0
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(CONCURRENT_OBJECTS, thread_name_prefix="objects")
        self._node = node_pb2.Node()
        self._stop = threading.Event()
        self._beat_now = threading.Event()
        self._asking = threading.RLock()
        """Held while anything but a heartbeat is asked, so that no certificate is superseded within an exchange."""
        self._heartbeat: threading.Thread | None = None

    def activate(self) -> int:
        """Announce this node; returns its Flower node id. Raises FleetRefusedError or UnreachableError."""
        with self._asking:
            request = fleet_pb2.ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_SECONDS)
            response = self._main.call("activate-node", request, fleet_pb2.ActivateNodeResponse)
        self._node = node_pb2.Node(node_id=response.node_id)
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heartbeat.start()
        return int(response.node_id)

    def try_use(self, present: Callable[[], tuple[Callable[[], FleetConnection], bytes]]) -> bool:
        """Go on with another key and certificate, and heartbeat with them at once; False where something is asked now.

        The coordinator knows the node by its member's name, so nothing else changes. `present` gives how to connect,
        and the public key (PEM). Raises what it raises.
        """
        if not self._asking.acquire(blocking=False):
            return False
        try:
            self._connect, self._public_key = present()
            self._generation += 1
            self._main.close()
            self._main = self._connect()
        finally:
            self._asking.release()
        self._beat_now.set()
        return True

    def pull(self) -> Task | None:
        """Wait for a task; the coordinator answers when there is one, or with none after a while. Raises WireError."""
        with self._asking:
            request = fleet_pb2.PullMessagesRequest(node=self._node)
            response = self._main.call("pull-messages", request, fleet_pb2.PullMessagesResponse)
        if not response.messages_list:
            return None
        try:
            metadata = message_from_proto(response.messages_list[0]).metadata
            tree = response.message_object_trees[0]
        except (LookupError, ValueError, TypeError, AttributeError):
            raise WireError("the coordinator sent a message that Flower cannot read") from None
        return Task(metadata.message_type, metadata.run_id, metadata.message_id, metadata, tree)

    def fetch(self, task: Task) -> Envelope:
        """Fetch a task's content, every object checked against its id; raises WireError."""
        with self._asking:
            return self._fetch(task)

    def _fetch(self, task: Task) -> Envelope:
        wanted = list(dict.fromkeys(_ids(task.tree)))
        if len(wanted) > LIMITS.message_objects:
            raise WireError(f"got a message of {len(wanted)} objects, expected at most {LIMITS.message_objects}")

        def pull(object_id: str) -> tuple[str, bytes]:
            request = message_pb2.PullObjectRequest(node=self._node, run_id=task.run_id, object_id=object_id)
            response = self._own().call("pull-object", request, message_pb2.PullObjectResponse)
            if not response.object_available:
                raise WireError(f"the coordinator no longer has object {object_id[:12]}")
            content: bytes = response.object_content
            if WireObject.name(content) != object_id:
                raise WireError(f"object {object_id[:12]} does not have the content its name promises")
            return object_id, content

        contents = dict(self._pool.map(pull, wanted))
        self._main.call(
            "confirm-message-received",
            message_pb2.ConfirmMessageReceivedRequest(
                node=self._node, run_id=task.run_id, message_object_id=task.message_id
            ),
            message_pb2.ConfirmMessageReceivedResponse,
        )
        return envelope_of(task.message_id, contents)

    def fetch_app(self, run_id: int, digest: str) -> bytes:
        """Fetch the app bundle of a run by its SHA-256; raises WireError where the content has another."""
        request = fab_pb2.GetFabRequest(node=self._node, hash_str=digest, run_id=run_id)
        with self._asking:
            response = self._main.call("get-fab", request, fab_pb2.GetFabResponse)
        content: bytes = response.fab.content
        if WireObject.name(content) != digest:
            raise WireError("the app bundle does not have the digest that the run names")
        return content

    def fetch_app_hash(self, run_id: int) -> str:
        """The app digest that Flower has for a run."""
        request = run_pb2.GetRunRequest(node=self._node, run_id=run_id)
        with self._asking:
            return str(self._main.call("get-run", request, run_pb2.GetRunResponse).run.fab_hash)

    def reply(self, task: Task, envelope: Envelope) -> None:
        """Push a reply with all its objects; raises FleetRefusedError where the round is over."""
        with self._asking:
            self._reply(task, envelope)

    def _reply(self, task: Task, envelope: Envelope) -> None:
        asked = task.metadata
        metadata = Metadata(
            run_id=asked.run_id,
            message_id="",
            src_node_id=asked.dst_node_id,
            dst_node_id=asked.src_node_id,
            reply_to_message_id=asked.message_id,
            group_id=asked.group_id,
            # By the coordinator's clock alone: by this machine's, a reply might be over before it began.
            created_at=asked.created_at,
            ttl=asked.ttl,
            message_type=asked.message_type,
        )
        metadata.delivered_at = ""
        message = make_message(metadata=metadata, content=to_records(envelope))
        objects = deflate(message)
        check_sizes(objects)
        root = objects[-1]
        metadata.__dict__["_message_id"] = root.object_id
        proto = message_to_proto(message)
        proto.content.Clear()
        response = self._main.call(
            "push-messages",
            fleet_pb2.PushMessagesRequest(
                node=self._node,
                messages_list=[proto],
                message_object_trees=[tree_of(objects)],
                clientapp_runtime_list=[0.0],
            ),
            fleet_pb2.PushMessagesResponse,
        )
        missing = set(response.objects_to_push)

        def push(item: WireObject) -> None:
            request = message_pb2.PushObjectRequest(
                node=self._node,
                run_id=task.run_id,
                object_id=item.object_id,
                object_content=item.content,
                session_id=response.session_id,
            )
            self._own().call("push-object", request, message_pb2.PushObjectResponse)

        list(self._pool.map(push, [item for item in objects if item.object_id in missing]))

    def interrupt(self) -> None:
        """Wake a thread that waits in `pull`; may be called from a signal handler."""
        self._stop.set()
        self._beat_now.set()
        self._main.interrupt()

    def close(self) -> None:
        """Say goodbye where the coordinator still listens, and close every connection."""
        self._stop.set()
        self._beat_now.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._node.node_id:
            try:
                farewell = self._connect()
                request = fleet_pb2.DeactivateNodeRequest(node_id=self._node.node_id)
                farewell.call("deactivate-node", request, fleet_pb2.DeactivateNodeResponse)
                farewell.close()
            except ConcordatError:
                pass
        self._main.close()

    def _own(self) -> FleetConnection:
        """The calling thread's own connection."""
        generation, connection = getattr(self._local, "connection", (-1, None))
        if connection is None or generation != self._generation:
            if connection is not None:
                connection.close()
            connection = self._connect()
            self._local.connection = (self._generation, connection)
        own: FleetConnection = connection
        return own

    def _beat(self) -> None:
        generation, connection = self._generation, self._connect()
        while True:
            self._beat_now.wait(HEARTBEAT_SECONDS * 0.8)
            if self._stop.is_set():
                return
            self._beat_now.clear()
            if generation != self._generation:
                connection.close()
                generation, connection = self._generation, self._connect()
            request = heartbeat_pb2.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
            try:
                connection.call("send-node-heartbeat", request, heartbeat_pb2.SendNodeHeartbeatResponse)
            except ConcordatError:
                connection.close()


def tree_of(objects: list[WireObject]) -> message_pb2.ObjectTree:
    """Flower's tree of the ids of a message's objects, given children first."""
    built: dict[str, message_pb2.ObjectTree] = {}
    for item in objects:
        children = [built[child] for child in item.children]
        built[item.object_id] = message_pb2.ObjectTree(object_id=item.object_id, children=children)
    return built[objects[-1].object_id]


def _ids(tree: message_pb2.ObjectTree) -> list[str]:
    out: list[str] = []
    pending = [tree]
    while pending and len(out) <= LIMITS.message_objects:
        node = pending.pop()
        out.append(node.object_id)
        pending.extend(node.children)
    return out


def _skew(dated: str, now: datetime) -> float:
    """By how many seconds a clock is ahead of an answer's date; 0 for what is no date."""
    try:
        return (now - parsedate_to_datetime(dated)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _say(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify ({error.verify_message})"
    return str(error) or type(error).__name__
