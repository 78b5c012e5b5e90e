"""What is assumed of Flower, held against the Flower that is installed: its routes, its client, its server."""

from __future__ import annotations

import hashlib
import queue
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, node_pb2, run_pb2
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.router import router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from coordinator.gateway import Gateway
from coordinator.superlink import FLEET_PREFIX, FLEET_ROUTES, Reply, SuperLink
from federation.home import Home
from federation.identity import load_der_certificate, public_key_pem
from federation.limits import LIMITS
from federation.membership import identify
from federation.tls import client_context, server_context
from federation.wire import STYPE, Envelope, Kind, to_records
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError

HOST = "127.0.0.1"
APP = b"the app's bundle"
HASH = hashlib.sha256(APP).hexdigest()
PATIENCE = 60.0
WEIGHTS = np.linspace(-1, 1, LIMITS.object_chunk // 4 + 1000, dtype="<f4")
"""More than one chunk."""


def test_every_fleet_route_of_flower_is_served_but_those_by_which_a_node_enrols_itself():
    flowers = {route.path.removeprefix(FLEET_PREFIX) for route in router.routes}
    assert flowers == FLEET_ROUTES | {"register-node", "unregister-node"}
    assert all(route.methods == {"POST"} for route in router.routes)


def contexts(home: Home) -> ssl.SSLContext:
    return client_context(home.certificate, home.key, home.authority)


# -- Flower's own client at our door


class Door:
    """Our gateway, served over mutually authenticated TLS."""

    def __init__(self, founded: Any) -> None:
        self.link = SuperLink()
        self.refused: list[str] = []
        manifest = founded.authority.manifest()
        self.application = Gateway(
            lambda der: identify(manifest, load_der_certificate(der)),
            self.link,
            self.none,
            self.none,
            self.none,
            lambda *words: self.refused.append(words[2]),
        )
        self.port = 0

    async def none(self, *_: object) -> None:
        raise AssertionError("not a Fleet request")


@pytest.fixture(scope="module")
def door(federation: Any, open_door: Callable[..., Any]) -> Iterator[Door]:
    made, hub = Door(federation), federation.homes["hub"]
    context = server_context(hub.certificate, hub.key, hub.authority)
    with open_door(made.application, context, made.refused.append) as port:
        made.port = port
        yield made


def flowers_client(door: Door, home: Home, key: Any = None) -> FleetHttpClient:
    key = key or home.private_key()
    return FleetHttpClient(
        f"https://{HOST}:{door.port}",
        verify=contexts(home),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )


def flat(values: Any) -> ArrayRecord:
    data = values.astype("<f4").tobytes()
    return ArrayRecord({"flat": Array(dtype="float32", shape=(values.size,), stype=STYPE, data=data)})


@pytest.mark.federation
def test_flowers_own_client_does_a_round_at_our_door(door: Door, federation: Any):
    home = federation.homes["silo-a"]
    replies: queue.Queue[Reply] = queue.Queue()
    run_id = door.link.open_run("concordat/test", APP, HASH, replies.put)
    door.link.limit_replies(run_id, 256 * 2**20)
    with flowers_client(door, home) as client:
        key = public_key_pem(home.private_key().public_key())
        activated = client.ActivateNode(fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30))
        node = node_pb2.Node(node_id=activated.node_id)
        assert door.link.online() == {"silo-a": activated.node_id}
        beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)
        assert client.SendNodeHeartbeat(beat).success

        question = Envelope({"round": 3, "name": "h\u00e9llo", "flag": True, "lr": 0.5}, {"loss": 0.25}, WEIGHTS)
        (message_id,) = door.link.send(run_id, Kind.TRAIN, question, {"silo-a": node.node_id}, 600.0, "3")
        pulled = client.PullMessages(fleet_pb2.PullMessagesRequest(node=node))
        received: Message = pull_and_inflate_object_from_tree(
            pulled.message_object_trees[0],
            make_pull_object_fn_protobuf(client.PullObject, node, run_id),
            make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id),
            return_type=Message,
        )
        received.metadata.__dict__["_message_id"] = pulled.message_object_trees[0].object_id
        assert (received.metadata.message_id, received.metadata.message_type) == (message_id, "train")
        assert (received.metadata.group_id, received.metadata.dst_node_id) == ("3", node.node_id)
        assert dict(received.content.config_records["concordat"]) == dict(question.config)
        assert dict(received.content.metric_records["metrics"]) == {"loss": 0.25}
        array = received.content.array_records["weights"]["flat"]
        assert (array.stype, array.data) == (STYPE, WEIGHTS.tobytes())

        assert client.GetRun(run_pb2.GetRunRequest(node=node, run_id=run_id)).run.fab_hash == HASH
        fab = client.GetFab(fab_pb2.GetFabRequest(node=node, run_id=run_id, hash_str=HASH)).fab
        assert (fab.hash_str, fab.content) == (HASH, APP)

        answer = Message(
            RecordDict(
                {
                    "concordat": ConfigRecord({"status": "ok", "examples": 12}),
                    "metrics": MetricRecord({"loss": 0.125, "num_examples": 12}),
                    "weights": flat(WEIGHTS[::-1]),
                }
            ),
            reply_to=received,
        )
        answer.metadata.__dict__["_message_id"] = answer.object_id
        pushed = client.PushMessages(
            fleet_pb2.PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(answer))],
                message_object_trees=[get_object_tree(answer)],
                clientapp_runtime_list=[1.0],
            )
        )
        push_objects(
            get_all_nested_objects(answer),
            make_push_object_fn_protobuf(client.PushObject, node, run_id, pushed.session_id),
            object_ids_to_push=set(pushed.objects_to_push),
        )
        reply = replies.get(timeout=PATIENCE)
        assert (reply.reply_to, reply.node_id) == (message_id, node.node_id)
        taken = door.link.take(reply)
        assert dict(taken.config) == {"status": "ok", "examples": 12}
        assert dict(taken.metrics) == {"loss": 0.125, "num_examples": 12}
        assert taken.weights is not None
        assert np.array_equal(taken.weights, WEIGHTS[::-1])
        client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=node.node_id))
        assert door.link.online() == {}
    door.link.close_run(run_id, completed=True)


@pytest.mark.federation
def test_flowers_own_client_cannot_enrol_itself(door: Door, federation: Any):
    home = federation.homes["silo-a"]
    with flowers_client(door, home) as client:
        key = public_key_pem(home.private_key().public_key())
        for call, request in (
            (client.RegisterNode, fleet_pb2.RegisterNodeFleetRequest(public_key=key)),
            (client.UnregisterNode, fleet_pb2.UnregisterNodeFleetRequest(node_id=1)),
        ):
            with pytest.raises(httpx.HTTPStatusError) as caught:
                call(request)
            assert caught.value.response.status_code == 404


@pytest.mark.federation
def test_flowers_own_client_with_a_key_that_is_not_its_certificates_is_refused(door: Door, federation: Any):
    home, other = federation.homes["silo-a"], federation.homes["silo-b"].private_key()
    request = fleet_pb2.ActivateNodeRequest(public_key=public_key_pem(other.public_key()), heartbeat_interval=30)
    with flowers_client(door, home, other) as client, pytest.raises(httpx.HTTPStatusError) as caught:
        client.ActivateNode(request)
    assert caught.value.response.status_code == 403
    assert "is not the key of the certificate of silo-a" in door.refused.pop()


# -- our node at Flower's own server


class FlowersServer:
    """Flower's own SuperLink application over its own state, served over TLS."""

    def __init__(self) -> None:
        self.application = create_app()
        self.state = self.application.state.linkstate_factory.state()
        self.port = 0

    def open_run(self) -> int:
        self.state.store_fab(Fab(HASH, APP, {}))
        run_id = self.state.create_run("a/b", "", HASH, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
        task = self.state.get_run_info(run_ids=[run_id])[0].primary_task_id
        assert self.state.claim_task(task) is not None
        assert self.state.activate_task(task)
        return int(run_id)

    def post(self, run_id: int, node_id: int, content: RecordDict) -> str:
        """Store a message and its objects as Flower's server app does."""
        metadata = Metadata(
            run_id=run_id,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=node_id,
            reply_to_message_id="",
            group_id="1",
            created_at=datetime.now(UTC).timestamp(),
            ttl=600.0,
            message_type="train",
        )
        metadata.delivered_at = ""
        message = make_message(metadata=metadata, content=content)
        metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(run_id)
        stored, missing = self.state.store_message_and_object_tree(
            remove_content_from_message(message), get_object_tree(message), session
        )
        assert stored
        for name, item in get_all_nested_objects(message).items():
            if name in missing:
                assert self.state.store_object(run_id, session, name, item.deflate())
        return str(message.object_id)

    def read(self, run_id: int, message_id: str) -> Message:
        """The reply to a message, inflated by Flower."""
        (reply,) = self.state.get_message_res({message_id}, run_id)
        assert not reply.has_error(), reply.error
        contents: dict[str, bytes] = {}
        pending = [self.state.object_store.get_object_tree(reply.metadata.message_id)]
        while pending:
            tree = pending.pop()
            contents[tree.object_id] = self.state.object_store.get(tree.object_id)
            pending += tree.children
        inflated = inflate_object_from_contents(reply.metadata.message_id, contents)
        assert isinstance(inflated, Message)
        return inflated


@pytest.fixture(scope="module")
def flowers_server(federation: Any, serve: Callable[..., Any]) -> Iterator[FlowersServer]:
    made, hub = FlowersServer(), federation.homes["hub"]
    context = server_context(hub.certificate, hub.key, hub.authority)
    with serve(made.application, context, (hub.certificate, hub.key)) as port:
        made.port = port
        yield made


@pytest.fixture
def our_node(flowers_server: FlowersServer, federation: Any) -> Iterator[FleetNode]:
    home = federation.homes["silo-a"]
    key, context = home.private_key(), contexts(home)
    public = public_key_pem(key.public_key())
    if flowers_server.state.get_node_id_by_public_key(public) is None:
        flowers_server.state.create_node("silo-a", "silo-a", public, 0, name="silo-a")
    node = FleetNode(lambda: FleetConnection(HOST, flowers_server.port, context, key), public)
    yield node
    node.close()


@pytest.mark.federation
def test_our_node_does_a_round_at_flowers_own_server(flowers_server: FlowersServer, our_node: FleetNode):
    node_id = our_node.activate()
    assert [node.node_id for node in flowers_server.state.get_node_info(statuses=["online"])] == [node_id]
    assert our_node.pull() is None
    run_id = flowers_server.open_run()
    question = Envelope({"round": 1, "name": "h\u00e9llo"}, {"loss": 0.5}, WEIGHTS)
    message_id = flowers_server.post(run_id, node_id, to_records(question))
    task = our_node.pull()
    assert task is not None
    assert (task.kind, task.run_id, task.message_id) == ("train", run_id, message_id)
    assert our_node.fetch_app_hash(run_id) == HASH
    assert our_node.fetch_app(run_id, HASH) == APP
    got = our_node.fetch(task)
    assert (dict(got.config), dict(got.metrics)) == (dict(question.config), dict(question.metrics))
    assert got.weights is not None
    assert np.array_equal(got.weights, WEIGHTS)
    our_node.reply(task, Envelope({"status": "ok", "examples": 7}, {"loss": 0.25}, WEIGHTS[::-1]))
    reply = flowers_server.read(run_id, message_id)
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == (message_id, node_id)
    assert (reply.metadata.dst_node_id, reply.metadata.message_type) == (SUPERLINK_NODE_ID, "train")
    assert dict(reply.content.config_records["concordat"]) == {"status": "ok", "examples": 7}
    assert dict(reply.content.metric_records["metrics"]) == {"loss": 0.25}
    assert reply.content.array_records["weights"]["flat"].data == WEIGHTS[::-1].tobytes()
    assert our_node.pull() is None


@pytest.mark.federation
def test_our_node_says_goodbye_to_flowers_own_server(flowers_server: FlowersServer, our_node: FleetNode):
    our_node.activate()
    our_node.close()
    assert list(flowers_server.state.get_node_info(statuses=["online"])) == []


@pytest.mark.federation
def test_flowers_refusals_reach_our_node_as_such(flowers_server: FlowersServer, our_node: FleetNode):
    our_node.activate()
    with pytest.raises(FleetRefusedError) as caught:
        our_node.fetch_app_hash(12345)
    assert caught.value.status >= 400
    assert our_node.pull() is None


def test_a_messages_metadata_survives_flowers_own_wire():
    """`Task.metadata` and the reply's are read and written by Flower's own serialisation."""
    fields = {
        "run_id": 2**62,
        "message_id": "m",
        "src_node_id": 2**63 + 1,
        "dst_node_id": 1,
        "reply_to_message_id": "r",
        "group_id": "g",
        "created_at": 1.25,
        "ttl": 60.0,
        "message_type": "train",
    }
    metadata = Metadata(**fields)
    metadata.delivered_at = ""
    got = message_from_proto(message_to_proto(make_message(metadata=metadata, content=RecordDict()))).metadata
    assert {name: getattr(got, name) for name in fields} == fields
