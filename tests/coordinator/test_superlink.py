"""Flower's state behind the coordinator's interface, with nodes that call it in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.superlink import FLEET_ROUTES, Reply, SuperLink
from federation.errors import WireError
from federation.limits import LIMITS
from federation.wire import Envelope, Kind, WireObject

APP = b"the app's bundle"
HASH = hashlib.sha256(APP).hexdigest()
QUESTION = Envelope({"round": 1, "digest": "d"}, weights=np.arange(5, dtype=np.float32))
ANSWER = Envelope({"status": "ok", "examples": 12}, {"loss": 0.5}, np.ones(5, dtype=np.float32))

Nodes = Callable[[str], Any]


class Running:
    """A run and what came back."""

    def __init__(self, link: SuperLink) -> None:
        self.link = link
        self.replies: list[Reply] = []
        self.id = link.open_run("concordat/test", APP, HASH, self.replies.append)

    def ask(self, *nodes: Any, envelope: Envelope = QUESTION) -> dict[str, str]:
        named = {node.home.identity().name: node.id for node in nodes}
        return self.link.send(self.id, Kind.TRAIN, envelope, named, 600.0, "1")


@pytest.fixture
def run(link: SuperLink) -> Running:
    return Running(link)


def stored(link: SuperLink) -> int:
    """The number of objects that Flower's store holds."""
    return len(link._store)


# -- nodes


def test_a_key_has_one_node(link: SuperLink, federation: Any, node: Nodes):
    first, second = node("silo-a"), node("silo-b")
    assert first.id != second.id
    assert link.enrol("silo-a", first.key) == first.id
    assert link.online() == {"silo-a": first.id, "silo-b": second.id}


def test_a_member_with_a_new_key_keeps_its_node_and_what_was_sent_to_it(
    link: SuperLink, run: Running, node: Nodes, federation: Any, tmp_path: Path
):
    of_home, founded = type(node("silo-b")), federation.copy(tmp_path / "federation")
    home, old = founded.homes["silo-a"], federation.homes["silo-a"]
    before = of_home(link, old).activate()
    (message_id,) = run.ask(before)
    founded.renew(home)
    after = of_home(link, home)
    assert (after.id, after.key == before.key) == (before.id, False)
    after.activate()
    assert [message.metadata.message_id for message in after.pull().messages_list] == [message_id]
    assert link.online()["silo-a"] == before.id
    refused = before.raw("pull-messages", fleet_pb2.PullMessagesRequest(node=before.node).SerializeToString())
    assert refused.status == 401


def test_a_node_that_says_goodbye_is_offline_and_can_come_back(link: SuperLink, node: Nodes):
    silo = node("silo-a")
    silo.call("deactivate-node", fleet_pb2.DeactivateNodeRequest(node_id=silo.id), fleet_pb2.DeactivateNodeResponse)
    assert link.online() == {}
    silo.activate()
    assert link.online() == {"silo-a": silo.id}
    silo.activate()
    beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=silo.node, heartbeat_interval=30)
    assert silo.call("send-node-heartbeat", beat, heartbeat_pb2.SendNodeHeartbeatResponse).success


def test_a_node_is_seen_when_it_asks_for_work(link: SuperLink, node: Nodes):
    silo = node("silo-a")
    assert link.last_pull(silo.id) == float("-inf")
    silo.pull()
    first = link.last_pull(silo.id)
    silo.pull()
    assert link.last_pull(silo.id) >= first > float("-inf")


# -- identity


def requests_of(node_id: int, key: bytes) -> dict[str, Any]:
    """One request of each kind in the name of a node."""
    node = node_pb2.Node(node_id=node_id)
    return {
        "activate-node": fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=30),
        "deactivate-node": fleet_pb2.DeactivateNodeRequest(node_id=node_id),
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=30),
        "pull-messages": fleet_pb2.PullMessagesRequest(node=node),
        "push-messages": fleet_pb2.PushMessagesRequest(node=node),
        "get-run": run_pb2.GetRunRequest(node=node, run_id=1),
        "get-fab": fab_pb2.GetFabRequest(node=node, run_id=1, hash_str=HASH),
        "push-object": message_pb2.PushObjectRequest(node=node, run_id=1, object_id="a", object_content=b"a"),
        "pull-object": message_pb2.PullObjectRequest(node=node, run_id=1, object_id="a"),
        "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest(node=node, run_id=1),
    }


def test_there_is_a_request_for_every_route():
    assert set(requests_of(1, b"")) == FLEET_ROUTES


@pytest.mark.parametrize("call", sorted(FLEET_ROUTES))
def test_a_silo_cannot_act_in_the_name_of_another(link: SuperLink, node: Nodes, call: str):
    first, second = node("silo-a"), node("silo-b")
    request = requests_of(first.id, first.key)[call].SerializeToString()
    assert second.raw(call, request).status == 401
    assert link.online() == {"silo-a": first.id, "silo-b": second.id}
    assert link.last_pull(first.id) == float("-inf")


@pytest.mark.parametrize("call", sorted(FLEET_ROUTES))
def test_a_request_that_is_not_signed_now_is_refused(federation: Any, node: Nodes, headers_of: Any, call: str):
    silo = node("silo-a")
    request = requests_of(silo.id, silo.key)[call].SerializeToString()
    signed = headers_of(silo.home)
    others = headers_of(federation.homes["silo-b"])
    old = headers_of(silo.home, datetime.now(UTC) - timedelta(hours=1))
    early = headers_of(silo.home, datetime.now(UTC) + timedelta(hours=1))
    for headers in (
        [],
        signed[:2],
        signed[1:],
        [*signed[:2], others[2]],
        old,
        early,
        [signed[0], *old[1:2], signed[2]],
    ):
        assert silo.raw(call, request, headers).status == 401


@pytest.mark.parametrize("call", ["register-node", "unregister-node", "unknown", "", "../fleet/pull-messages", "/"])
def test_a_call_that_is_not_served_is_not_found(node: Nodes, call: str):
    assert node("silo-a").raw(call, b"").status == 404


@pytest.mark.parametrize("call", sorted(FLEET_ROUTES))
def test_a_body_that_is_no_protobuf_is_refused(node: Nodes, call: str):
    answer = node("silo-a").raw(call, b"\xff\xff\xff")
    assert (answer.status, answer.media_type) == (400, "text/plain; charset=utf-8")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(sorted(FLEET_ROUTES)), body=st.binary(max_size=60))
def test_any_body_is_answered(node: Nodes, call: str, body: bytes):
    assert node("silo-a").raw(call, body).status in {200, 400, 401, 404, 409, 410}


TEXT = st.text(max_size=8) | st.sampled_from(["0" * 64, "f" * 64, HASH])
NUMBER = st.integers(0, 2**64 - 1) | st.integers(0, 3)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_of_an_authentic_node_is_answered(node: Nodes, data: st.DataObject):
    """Whatever a silo puts into the fields of a request, the coordinator answers and goes on."""
    silo = node("silo-a")
    running = Running(silo.link)
    running_id = data.draw(st.sampled_from([running.id, 0, 1]) | NUMBER)
    identifier, content = data.draw(TEXT), data.draw(st.binary(max_size=20))
    tree = message_pb2.ObjectTree(object_id=identifier, children=[message_pb2.ObjectTree(object_id=data.draw(TEXT))])
    metadata = message_pb2.Metadata(
        run_id=running_id,
        message_id=identifier,
        src_node_id=data.draw(st.sampled_from([silo.id, 1])),
        dst_node_id=data.draw(st.sampled_from([silo.id, 1]) | NUMBER),
        reply_to_message_id=data.draw(TEXT),
        created_at=data.draw(st.floats()),
        ttl=data.draw(st.floats()),
        message_type=data.draw(TEXT),
    )
    pushed = [message_pb2.Message(metadata=metadata)]
    requests = {
        "activate-node": fleet_pb2.ActivateNodeRequest(public_key=silo.key, heartbeat_interval=data.draw(st.floats())),
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest(
            node=silo.node, heartbeat_interval=data.draw(st.floats())
        ),
        "push-messages": fleet_pb2.PushMessagesRequest(
            node=silo.node,
            messages_list=pushed * data.draw(st.integers(0, 2)),
            message_object_trees=[tree] * data.draw(st.integers(0, 2)),
            clientapp_runtime_list=data.draw(st.lists(st.floats(), max_size=2)),
        ),
        "get-run": run_pb2.GetRunRequest(node=silo.node, run_id=running_id),
        "get-fab": fab_pb2.GetFabRequest(node=silo.node, run_id=running_id, hash_str=identifier),
        "push-object": message_pb2.PushObjectRequest(
            node=silo.node, run_id=running_id, object_id=identifier, object_content=content, session_id=identifier
        ),
        "pull-object": message_pb2.PullObjectRequest(node=silo.node, run_id=running_id, object_id=identifier),
        "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest(
            node=silo.node, run_id=running_id, message_object_id=identifier
        ),
    }
    for call, request in requests.items():
        assert silo.raw(call, request.SerializeToString()).status in {200, 400, 409, 410}, call
    assert running.replies == []
    silo.activate()
    running.link.close_run(running.id, completed=True)


# -- a round


def test_a_question_reaches_its_silo_and_the_answer_comes_back(link: SuperLink, run: Running, node: Nodes):
    silo, other = node("silo-a"), node("silo-b")
    woken: list[int] = []
    link.on_message(woken.append)
    (message_id,) = run.ask(silo)
    assert woken == [silo.id]
    assert not other.pull().messages_list
    pulled = silo.pull()
    (asked,) = pulled.messages_list
    assert (asked.metadata.message_id, asked.metadata.dst_node_id) == (message_id, silo.id)
    assert pulled.message_object_trees[0].object_id == message_id
    assert not silo.pull().messages_list
    assert silo.fetch(run.id, message_id).object_available
    silo.reply(asked.metadata, ANSWER)
    (reply,) = run.replies
    assert (reply.reply_to, reply.node_id, reply.run_id) == (message_id, silo.id, run.id)
    answer = link.take(reply)
    assert (answer.number("examples"), dict(answer.metrics)) == (12, {"loss": 0.5})
    assert answer.weights is not None
    assert answer.weights.tolist() == [1.0] * 5
    assert stored(link) == 0


def test_a_reply_is_announced_when_its_last_object_has_come_and_once(run: Running, node: Nodes):
    silo = node("silo-a")
    run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    request, objects = silo.answer_to(asked, ANSWER)
    response = silo.call("push-messages", request, fleet_pb2.PushMessagesResponse)
    assert set(response.objects_to_push) == {item.object_id for item in objects}
    for item in reversed(objects):
        assert run.replies == []
        assert silo.push(run.id, response.session_id, item)
    assert len(run.replies) == 1
    assert not silo.push(run.id, response.session_id, objects[0])
    assert len(run.replies) == 1


def test_what_several_silos_are_sent_is_stored_once(link: SuperLink, run: Running, node: Nodes):
    silos = [node("silo-a"), node("silo-b")]
    sent = run.ask(*silos)
    assert sorted(sent.values()) == ["silo-a", "silo-b"]
    assert stored(link) == 5 + 1 + 1
    for silo in silos:
        (pulled,) = silo.pull().messages_list
        assert sent[pulled.metadata.message_id] == silo.home.identity().name
    link.withdraw(set(sent))
    assert stored(link) == 0


def test_silos_that_answer_the_same_are_both_counted(link: SuperLink, run: Running, node: Nodes):
    """The same weights are one object; each reply is complete when whoever brings it has brought it."""
    silos = [node("silo-a"), node("silo-b")]
    run.ask(*silos)
    pushes = []
    for silo in silos:
        request, objects = silo.answer_to(silo.pull().messages_list[0].metadata, ANSWER)
        pushes.append((silo, silo.call("push-messages", request, fleet_pb2.PushMessagesResponse), objects))
    for silo, response, objects in pushes:
        for item in objects:
            if item.object_id in response.objects_to_push:
                silo.push(run.id, response.session_id, item)
    assert {reply.node_id for reply in run.replies} == {silo.id for silo in silos}
    for reply in run.replies:
        answer = link.take(reply).weights
        assert answer is not None
        assert answer.tolist() == [1.0] * 5
    assert stored(link) == 0


def test_one_silos_answer_survives_the_taking_of_anothers(link: SuperLink, run: Running, node: Nodes):
    silos = [node("silo-a"), node("silo-b")]
    run.ask(*silos)
    for silo in silos:
        silo.reply(silo.pull().messages_list[0].metadata, ANSWER)
        reply = run.replies.pop()
        assert link.take(reply).number("examples") == 12
    assert stored(link) == 0


# -- replies that do not count


def test_a_reply_after_the_round_is_told_so(link: SuperLink, run: Running, node: Nodes):
    silo = node("silo-a")
    sent = run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    link.withdraw(set(sent))
    assert stored(link) == 0
    request, _ = silo.answer_to(asked, ANSWER)
    assert silo.raw("push-messages", request.SerializeToString()).status == 410
    assert (run.replies, stored(link)) == ([], 0)


def test_a_reply_that_the_end_of_the_round_interrupts_leaves_nothing(link: SuperLink, run: Running, node: Nodes):
    silo = node("silo-a")
    sent = run.ask(silo)
    request, objects = silo.answer_to(silo.pull().messages_list[0].metadata, ANSWER)
    response = silo.call("push-messages", request, fleet_pb2.PushMessagesResponse)
    silo.push(run.id, response.session_id, objects[0])
    link.withdraw(set(sent))
    for item in objects:
        silo.push(run.id, response.session_id, item)
    assert (run.replies, stored(link)) == ([], 0)


def test_a_second_reply_to_one_question_does_not_count(run: Running, node: Nodes):
    silo = node("silo-a")
    run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    silo.reply(asked, ANSWER)
    second, _ = silo.answer_to(asked, Envelope({"status": "ok", "examples": 99}))
    assert silo.raw("push-messages", second.SerializeToString()).status == 410
    assert len(run.replies) == 1


@pytest.mark.parametrize("claimed_source", ["own", "victim", "coordinator"])
def test_a_silo_cannot_answer_for_another(run: Running, node: Nodes, claimed_source: str):
    """Flower authenticates the node of the request; what the message claims as its source is ours to check."""
    victim, attacker = node("silo-a"), node("silo-b")
    run.ask(victim)
    asked = victim.pull().messages_list[0].metadata
    source = {"own": attacker.id, "victim": victim.id, "coordinator": 1}[claimed_source]
    request, _ = attacker.answer_to(asked, ANSWER, src_node_id=source)
    assert attacker.raw("push-messages", request.SerializeToString()).status in {400, 410}
    assert run.replies == []
    victim.reply(asked, ANSWER)
    assert [reply.node_id for reply in run.replies] == [victim.id]


@pytest.mark.parametrize("source", ["own", "coordinator"])
def test_a_silo_cannot_put_a_question_to_another(run: Running, node: Nodes, source: str):
    victim, attacker = node("silo-a"), node("silo-b")
    run.ask(attacker)
    asked = attacker.pull().messages_list[0].metadata
    request, _ = attacker.answer_to(
        asked,
        QUESTION,
        src_node_id=attacker.id if source == "own" else 1,
        dst_node_id=victim.id,
        reply_to_message_id="",
    )
    assert attacker.raw("push-messages", request.SerializeToString()).status == 400
    assert not victim.pull().messages_list


def test_a_reply_whose_objects_are_anothers_is_refused(run: Running, node: Nodes):
    silo = node("silo-a")
    run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    request, _ = silo.answer_to(asked, ANSWER)
    other, _ = silo.answer_to(asked, QUESTION)
    request.message_object_trees[0].CopyFrom(other.message_object_trees[0])
    assert silo.raw("push-messages", request.SerializeToString()).status == 400


def test_an_object_that_is_not_what_its_name_says_is_not_stored(run: Running, node: Nodes):
    silo = node("silo-a")
    run.ask(silo)
    request, objects = silo.answer_to(silo.pull().messages_list[0].metadata, ANSWER)
    response = silo.call("push-messages", request, fleet_pb2.PushMessagesResponse)
    for item in objects:
        assert not silo.push(run.id, response.session_id, WireObject(item.object_id, (), item.content + b"x"))
    malformed = b"no object of Flower's"
    assert not silo.push(run.id, response.session_id, WireObject(WireObject.name(malformed), (), malformed))
    assert run.replies == []


def test_a_complete_reply_that_is_no_envelope_is_refused_when_it_is_taken(
    link: SuperLink, run: Running, node: Nodes, monkeypatch: pytest.MonkeyPatch
):
    silo = node("silo-a")
    run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    flat = Array(dtype="float32", shape=(3,), stype="concordat.flat-float32", data=bytes(8))
    records = RecordDict({"concordat": ConfigRecord({"status": "ok"}), "weights": ArrayRecord({"flat": flat})})
    monkeypatch.setitem(type(silo).answer_to.__globals__, "to_records", lambda _: records)
    silo.reply(asked, ANSWER)
    (reply,) = run.replies
    with pytest.raises(WireError, match="got 8 bytes of weights, expected 12"):
        link.take(reply)
    assert stored(link) == 0


# -- runs


def test_a_silo_fetches_the_app_of_its_run(run: Running, node: Nodes):
    silo = node("silo-a")
    request = run_pb2.GetRunRequest(node=silo.node, run_id=run.id)
    assert silo.call("get-run", request, run_pb2.GetRunResponse).run.fab_hash == HASH
    wanted = fab_pb2.GetFabRequest(node=silo.node, run_id=run.id, hash_str=HASH)
    assert silo.call("get-fab", wanted, fab_pb2.GetFabResponse).fab.content == APP
    wanted.hash_str = "0" * 64
    assert silo.raw("get-fab", wanted.SerializeToString()).status == 409


def test_an_app_with_another_hash_is_no_run(link: SuperLink):
    with pytest.raises(ValueError, match="hash"):
        link.open_run("concordat/test", APP, "0" * 64, lambda _: None)


def test_a_run_that_is_over_leaves_nothing_and_takes_nothing(link: SuperLink, run: Running, node: Nodes):
    silo, other = node("silo-a"), node("silo-b")
    run.ask(silo, other)
    asked = silo.pull().messages_list[0].metadata
    silo.reply(asked, ANSWER)
    late, _ = other.answer_to(other.pull().messages_list[0].metadata, ANSWER)
    link.close_run(run.id, completed=True)
    assert stored(link) == 0
    assert other.raw("push-messages", late.SerializeToString()).status == 409
    assert silo.raw("get-run", run_pb2.GetRunRequest(node=silo.node, run_id=run.id).SerializeToString()).status == 409
    assert not other.pull().messages_list
    assert len(run.replies) == 1


def test_two_runs_keep_apart(link: SuperLink, node: Nodes):
    first, second = Running(link), Running(link)
    silo = node("silo-a")
    first.ask(silo)
    second.ask(silo)
    for _ in range(2):
        silo.reply(silo.pull().messages_list[0].metadata, ANSWER)
    assert [len(first.replies), len(second.replies)] == [1, 1]
    link.close_run(first.id, completed=False)
    assert link.take(second.replies[0]).number("examples") == 12


def test_a_reply_larger_than_its_run_allows_is_refused(link: SuperLink, run: Running, node: Nodes):
    """A silo cannot fill the coordinator's memory: what a reply may weigh follows from the run's model."""
    link.limit_replies(run.id, 4 * 1000 + LIMITS.reply_overhead)
    silo = node("silo-a")
    run.ask(silo)
    asked = silo.pull().messages_list[0].metadata
    weights = np.zeros(1000 + LIMITS.reply_overhead // 4 + 1, dtype=np.float32)
    request, objects = silo.answer_to(asked, Envelope(weights=weights))
    response = silo.call("push-messages", request, fleet_pb2.PushMessagesResponse)
    large = max(objects, key=lambda item: len(item.content))
    with pytest.raises(AssertionError, match="more than"):
        silo.push(asked.run_id, response.session_id, large)
    assert run.replies == []
