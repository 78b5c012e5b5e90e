"""Flower's SuperLink behind an interface of ours: nodes, runs, messages and replies.

One of the two modules that touch Flower's internals. It serves Flower's own Fleet handlers over Flower's own state,
without the FastAPI stack around them, and wakes waiters on events instead of letting them poll.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from flwr.app import Message
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.server.superlink.linkstate import LinkStateFactory, in_memory_linkstate
from flwr.server.superlink.linkstate import utils as linkstate_utils
from flwr.server.utils import validator
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.corestate import utils as corestate_utils
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet import node_auth
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto
from starlette.exceptions import HTTPException
from starlette.requests import Request

from coordinator.manifest_news import ManifestNews
from federation.errors import WireError
from federation.limits import LIMITS
from federation.wire import Envelope, WireObject, deflate, envelope_of, to_records

logging.getLogger("flwr").setLevel(logging.WARNING)

FLEET_PREFIX = "/v1/fleet/"
CLOCK_TOLERANCE_SECONDS = 300.0
"""By how much a silo's clock may differ from the coordinator's; at the door, where it is named, and for Flower."""
MOVED_SECONDS = 5.0
PULL_MESSAGES = FLEET_PREFIX + "pull-messages"
PUSH_OBJECT = FLEET_PREFIX + "push-object"
TASK_HEARTBEAT_SECONDS = 10.0

_REQUESTS: Mapping[str, type[Proto]] = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "push-object": message_pb2.PushObjectRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}
"""Flower's Fleet routes but register-node and unregister-node: the manifest enrols nodes, never they themselves."""

FLEET_ROUTES = frozenset(_REQUESTS)


class SteadyClock:
    """The time of day as it was when this process began, and what has passed since: setting the clock moves it not.

    Flower counts heartbeats and the lives of messages by the time of day: a clock that is set ahead, or a laptop that
    wakes up, would end every run. It gets this clock.
    """

    def __init__(self) -> None:
        self._origin, self._began = datetime.now(UTC), time.monotonic()

    def __call__(self) -> datetime:
        """The time."""
        return self._origin + timedelta(seconds=time.monotonic() - self._began)

    @property
    def moved(self) -> float:
        """By how many seconds the machine's clock was set ahead since; negative where it was set back."""
        return (datetime.now(UTC) - self()).total_seconds()


STEADY = SteadyClock()
for _flowers in (in_memory_linkstate, linkstate_utils, validator, in_memory_corestate, corestate_utils):
    _flowers.now = STEADY  # type: ignore[attr-defined]
# The gateway has judged how far a request's time stamp is off, both ways; Flower would allow five seconds one way.
node_auth.SYSTEM_TIME_TOLERANCE = int(CLOCK_TOLERANCE_SECONDS)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    body: bytes
    media_type: str = "application/protobuf"


NOT_ACTIVE = Response(401, b"the node is not active here, activate it first", "text/plain; charset=utf-8")
"""The answer to a node id that was not given out here: by the process before, as a rule, so no refusal of anybody."""


@dataclass
class _Arriving:
    """A reply whose objects are still coming."""

    reply: Reply
    missing: set[str]
    received: int = 0


@dataclass(frozen=True)
class Reply:
    """A complete reply of a node, its objects still in the store."""

    message_id: str
    reply_to: str
    node_id: int
    run_id: int


class ClosedError(Exception):
    """A reply to a message that was withdrawn."""


class SuperLink:
    """Flower's state and Fleet API; thread-safe, as Flower's in-memory state is."""

    def __init__(self, news: ManifestNews | None = None) -> None:
        """With `news`, what is sent brings the silos the newest manifest."""
        self._news = news
        objects = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), objects)
        self._state = factory.state()
        self._store = self._state.object_store
        self._app = SimpleNamespace(state=SimpleNamespace(linkstate_factory=factory))
        self._lock = threading.Lock()
        self._arriving: dict[str, _Arriving] = {}
        self._reply_limits: dict[int, int] = {}
        self._on_reply: dict[int, Callable[[Reply], None]] = {}
        self._on_message: Callable[[int], None] = lambda _: None
        self._on_activation: Callable[[int], None] = lambda _: None
        self._active: set[int] = set()
        self._tasks: dict[int, _TaskHeartbeat] = {}
        self._pulled: dict[int, float] = {}
        self._nodes: dict[str, int] = {}

    # -- nodes

    def enrol(self, name: str, public_key: bytes) -> int:
        """The node id of a member, made at its first appearance; a member with a new key keeps its node.

        The caller vouches for the name: the key is of a certificate that is this member's newest.
        """
        with self._lock:
            node_id = self._state.get_node_id_by_public_key(public_key)
            if node_id is not None:
                return node_id
            known = self._nodes.get(name)
            if known is None:
                known = self._state.create_node(name, name, public_key, 0, name=name)
                self._nodes[name] = known
            else:
                self._rekey(known, public_key)
            return known

    def _rekey(self, node_id: int, public_key: bytes) -> None:
        """Give a node another key in Flower's in-memory state, so that what was sent to it still reaches it."""
        state = cast(Any, self._state)
        with state.lock:
            node = state.nodes[node_id]
            del state.node_public_key_to_node_id[node.public_key]
            node.public_key = public_key
            state.node_public_key_to_node_id[public_key] = node_id

    def online(self) -> dict[str, int]:
        """Names and node ids of the nodes whose heartbeat is current."""
        return {str(node.owner_name): int(node.node_id) for node in self._state.get_node_info(statuses=["online"])}

    def last_pull(self, node_id: int) -> float:
        """When a node last asked for work, on the monotonic clock; minus infinity where it never did."""
        return self._pulled.get(node_id, float("-inf"))

    def on_message(self, wake: Callable[[int], None]) -> None:
        """Call `wake(node_id)` whenever a message for that node is ready to be pulled."""
        self._on_message = wake

    def on_activation(self, tell: Callable[[int], None]) -> None:
        """Call `tell(node_id)` whenever a node activates: its gate was started or lost its connection."""
        self._on_activation = tell

    # -- the Fleet API

    def fleet(self, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Response:
        """Answer one Fleet request of a peer whose key was already bound to the request."""
        name = path.removeprefix(FLEET_PREFIX)
        request_type = _REQUESTS.get(name)
        if request_type is None:
            return _error(404, f"no Fleet call {name!r}")
        request = request_type()
        try:
            request.ParseFromString(body)
        except DecodeError:
            return _error(400, "the request is not the protobuf message this call takes")
        if self._is_of_another_process(request):
            return NOT_ACTIVE
        http = Request({"type": "http", "headers": headers, "app": self._app, "state": {}})
        http.state.protobuf_request = request
        try:
            authenticate_node(http)
            return Response(200, self._call(name, request).SerializeToString())
        except HTTPException as error:
            return _error(error.status_code, str(error.detail))
        except ClosedError as error:
            return _error(410, str(error))
        except FlowerError as error:
            return _error(409, f"[{error.code}] {error.message}")
        except (ValueError, KeyError) as error:
            return _error(400, f"Flower refused the request: {error}"[:500])

    def _is_of_another_process(self, request: Any) -> bool:
        """Whether a request names a node that there is none of here.

        A gate that was connected to the process before this one knows no better yet: nothing in that is to be refused.
        """
        if isinstance(request, fleet_pb2.ActivateNodeRequest):
            return False
        named = request.node.node_id if hasattr(request, "node") else request.node_id
        with self._lock:
            return named != 0 and named not in self._nodes.values()

    @staticmethod
    def is_empty_pull(response: Response) -> bool:
        """Whether an answer to a pull brings no message: the empty protobuf message has no bytes."""
        return not response.body

    def _call(self, name: str, request: Any) -> Proto:
        state, store = self._state, self._store
        match name:
            case "activate-node":
                # A node that died is still online for Flower until its heartbeat lapses; the key proves it is the same.
                node_id = cast(int, state.get_node_id_by_public_key(request.public_key))
                state.deactivate_node(node_id)
                response = fleet_handlers.activate_node(request, state)
                self._active.add(node_id)
                self._on_activation(node_id)
                return response
            case "deactivate-node":
                return fleet_handlers.deactivate_node(request, state)
            case "send-node-heartbeat":
                return fleet_handlers.send_node_heartbeat(request, state)
            case "pull-messages":
                if request.node.node_id not in self._active:
                    # Activated at the process before this one: it would wait here without being taken for connected.
                    raise ValueError("the node is not active here, activate it first")
                self._pulled[request.node.node_id] = time.monotonic()
                return fleet_handlers.pull_messages(request, state, store)
            case "push-messages":
                return self._push_messages(request)
            case "get-run":
                return fleet_handlers.get_run(request, state)
            case "get-fab":
                return fleet_handlers.get_fab(request, state)
            case "push-object":
                self._weigh(request.node.node_id, request.object_id, len(request.object_content))
                pushed = fleet_handlers.push_object(request, state)
                if pushed.stored:
                    self._object_arrived(request.object_id)
                return pushed
            case "pull-object":
                return fleet_handlers.pull_object(request, state)
            case _:
                return fleet_handlers.confirm_message_received(request, state, store)

    def _push_messages(self, request: fleet_pb2.PushMessagesRequest) -> fleet_pb2.PushMessagesResponse:
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise ValueError(f"got {len(request.messages_list)} messages, expected one with its object tree")
        metadata = request.messages_list[0].metadata
        # Flower authenticates the node of the request, not the one that the message names as its source; and without
        # a message that it replies to, it takes what a node pushes for a question of the coordinator's.
        if metadata.src_node_id != request.node.node_id or not metadata.reply_to_message_id:
            raise ValueError(f"got a message of node {metadata.src_node_id}, expected a reply of its sender")
        if metadata.message_id != request.message_object_trees[0].object_id:
            raise ValueError("got an object tree of another message")
        response = fleet_handlers.push_messages(request, self._state)
        if not response.objects_to_push:
            # A reply that Flower takes is new, so at least its own object is still to come.
            raise ClosedError("the round that this reply belongs to is closed")
        reply = Reply(metadata.message_id, metadata.reply_to_message_id, request.node.node_id, metadata.run_id)
        with self._lock:
            # Identical objects of two replies are stored once; each reply waits for whoever brings them.
            self._arriving[reply.message_id] = _Arriving(reply, set(response.objects_to_push))
        self._announce_complete()
        return response

    def _weigh(self, node_id: int, object_id: str, size: int) -> None:
        """Refuse an object that makes its reply larger than a reply of its run may be; raises ValueError."""
        with self._lock:
            for arriving in self._arriving.values():
                if arriving.reply.node_id == node_id and object_id in arriving.missing:
                    arriving.received += size
                    limit = self._reply_limits.get(arriving.reply.run_id, LIMITS.reply_overhead)
                    if arriving.received > limit:
                        raise ValueError(f"got a reply of more than {limit} bytes")

    def _object_arrived(self, object_id: str) -> None:
        with self._lock:
            for arriving in self._arriving.values():
                arriving.missing.discard(object_id)
        self._announce_complete()

    def _announce_complete(self) -> None:
        with self._lock:
            complete = [arriving.reply for arriving in self._arriving.values() if not arriving.missing]
            for reply in complete:
                del self._arriving[reply.message_id]
        for reply in complete:
            notify = self._on_reply.get(reply.run_id)
            if notify is not None:
                notify(reply)

    # -- runs

    def open_run(self, app_id: str, app: bytes, app_hash: str, on_reply: Callable[[Reply], None]) -> int:
        """Register a run with its app bundle and mark it running; `on_reply` is called for each complete reply."""
        self._state.store_fab(Fab(app_hash, app, {}))
        run_id = self._state.create_run(app_id, "", app_hash, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
        task_id = cast(int, self._state.get_run_info(run_ids=[run_id])[0].primary_task_id)
        if not run_id or self._state.claim_task(task_id) is None or not self._state.activate_task(task_id):
            raise WireError("Flower did not accept the run")
        self._on_reply[run_id] = on_reply
        self._tasks[run_id] = _TaskHeartbeat(lambda: self._state.acknowledge_task_heartbeat(task_id), task_id)
        return run_id

    def close_run(self, run_id: int, *, completed: bool) -> None:
        """End a run: its messages and objects are dropped, its nodes are told so by Flower's run status."""
        self._on_reply.pop(run_id, None)
        self._reply_limits.pop(run_id, None)
        task = self._tasks.pop(run_id)
        task.stop()
        self._state.finish_task(task.task_id, SubStatus.COMPLETED if completed else SubStatus.FAILED, "")
        for message_id in self._state.get_message_ids_from_run_id(run_id):
            self._drop(message_id)
        self._store.delete_objects_in_run(run_id)

    def limit_replies(self, run_id: int, size: int) -> None:
        """Set how many bytes a reply to a message of this run may have together; `reply_overhead` until then."""
        self._reply_limits[run_id] = size

    # -- messages

    def send(
        self, run_id: int, kind: str, envelope: Envelope, nodes: Mapping[str, int], ttl: float, group: str
    ) -> dict[str, str]:
        """Post one envelope to several nodes, its content stored once; returns message id -> node name."""
        if self._news is not None:
            envelope = self._news.beside(envelope, nodes.values())
        records = to_records(envelope)
        shared: list[WireObject] = []
        sent: dict[str, str] = {}
        for name, node_id in nodes.items():
            metadata = Metadata(
                run_id=run_id,
                message_id="",
                src_node_id=SUPERLINK_NODE_ID,
                dst_node_id=node_id,
                reply_to_message_id="",
                group_id=group,
                created_at=STEADY().timestamp(),
                ttl=ttl,
                message_type=kind,
            )
            metadata.delivered_at = ""
            message = make_message(metadata=metadata, content=records)
            if not shared:
                *shared, root = deflate(message)
            else:
                content = message.deflate()
                root = WireObject(WireObject.name(content), root.children, content)
            metadata.__dict__["_message_id"] = root.object_id
            self._store_message(run_id, message, [*shared, root])
            sent[root.object_id] = name
            self._on_message(node_id)
        return sent

    def _store_message(self, run_id: int, message: Message, objects: list[WireObject]) -> None:
        session = self._state.start_session(run_id)
        stored, missing = self._state.store_message_and_object_tree(
            remove_content_from_message(message), _tree(objects), session
        )
        if not stored:
            moved = STEADY.moved
            way = "ahead" if moved > 0 else "back"
            clock = f"; this machine's clock was set {abs(moved):.0f} s {way} since the coordinator started"
            raise WireError(
                f"Flower did not accept a message for node {message.metadata.dst_node_id}"
                + (clock if abs(moved) > MOVED_SECONDS else "")
            )
        wanted = set(missing)
        for item in objects:
            if item.object_id in wanted:
                self._state.store_object(run_id, session, item.object_id, item.content)

    def take(self, reply: Reply) -> Envelope:
        """Read a complete reply and free its objects; raises WireError where the reply is malformed."""
        try:
            envelope = envelope_of(reply.message_id, _StoreView(self._store))
            if self._news is not None:
                self._news.heard(reply.node_id, envelope)
            return envelope
        finally:
            self._drop(reply.reply_to)
            self._store.delete(reply.message_id)

    def withdraw(self, message_ids: set[str]) -> None:
        """Take back messages whose round is closed, with whatever replies to them have begun to arrive."""
        for message_id in message_ids:
            self._drop(message_id)

    def _drop(self, message_id: str) -> None:
        with self._lock:
            for late in [k for k, arriving in self._arriving.items() if arriving.reply.reply_to == message_id]:
                del self._arriving[late]
                self._store.delete(late)
        self._state.delete_messages({message_id})
        self._store.delete(message_id)


class _StoreView(dict[str, bytes]):
    """The object store as a mapping of available contents."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self._store = store

    def __contains__(self, key: object) -> bool:
        return bool(self._store.get(key))

    def __getitem__(self, key: str) -> bytes:
        return cast(bytes, self._store.get(key))


class _TaskHeartbeat:
    """Keeps a run's task alive in Flower's eyes while the executor holds it."""

    def __init__(self, beat: Callable[[], bool], task_id: int) -> None:
        self.task_id = task_id
        self._stop = threading.Event()
        self._beat = beat
        self._thread = threading.Thread(target=self._run, name="run-heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(TASK_HEARTBEAT_SECONDS):
            self._beat()

    def stop(self) -> None:
        self._stop.set()


def _tree(objects: list[WireObject]) -> message_pb2.ObjectTree:
    built: dict[str, message_pb2.ObjectTree] = {}
    for item in objects:
        children = [built[child] for child in item.children]
        built[item.object_id] = message_pb2.ObjectTree(object_id=item.object_id, children=children)
    return built[objects[-1].object_id]


def _error(status: int, message: str) -> Response:
    return Response(status, message.encode(), "text/plain; charset=utf-8")
