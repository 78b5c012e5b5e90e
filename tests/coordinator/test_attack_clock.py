"""Clocks that are wrong, or are set while a run is under way: what can be tolerated is, the rest names the clock."""

from __future__ import annotations

import datetime as dt
import hashlib
import queue
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import flwr.supercore.date
import pytest

import coordinator.gateway
import coordinator.superlink
import silo.gate.fleet
from coordinator.superlink import STEADY, Reply, SteadyClock, SuperLink
from federation.errors import WireError
from federation.identity import load_private_key
from federation.tls import client_context, server_context
from federation.wire import Envelope, Kind
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError, _skew

from .gateway_door import Door, door_fixture  # noqa: F401  a fixture

APP = b"app"
JUMPS = [200.0, -200.0, 86_400.0, -86_400.0]
NEAR = [0.0, 4.0, 60.0, 200.0, 290.0, -4.0, -6.0, -60.0, -200.0, -290.0]


class Machine:
    """The coordinator's machine: its clock can be set, as an administrator or a time server does."""

    ahead = 0.0

    def clock(self) -> type[dt.datetime]:
        machine = self

        class Shifted(dt.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return dt.datetime.now(tz) + dt.timedelta(seconds=machine.ahead)

        return Shifted


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The clock that Flower and the coordinator read."""
    made = Machine()
    clock = made.clock()
    monkeypatch.setattr(flwr.supercore.date, "datetime", SimpleNamespace(datetime=clock, UTC=dt.UTC))
    monkeypatch.setattr(coordinator.superlink, "datetime", clock)
    monkeypatch.setattr(coordinator.gateway, "datetime", clock)
    return made


@pytest.fixture
def replies() -> queue.Queue[Reply]:
    return queue.Queue()


def opened(link: SuperLink, replies: queue.Queue[Reply]) -> int:
    return link.open_run("concordat/test", APP, hashlib.sha256(APP).hexdigest(), replies.put)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("when", ["before the message", "before it is pulled", "before the reply"])
def test_a_clock_that_is_set_during_a_run_ends_nothing(
    machine: Machine, replies: queue.Queue[Reply], federation: Any, when: str, jump: float, monkeypatch: Any
) -> None:
    link = SuperLink()
    run = opened(link, replies)
    node = node_of(link, federation).activate()
    # The silo's clock is not at stake here: the door holds it against the coordinator's.
    monkeypatch.setattr(coordinator.superlink, "authenticate_node", lambda _: None)
    machine.ahead = jump if when == "before the message" else 0.0
    link.send(run, Kind.TRAIN, Envelope({"round": 1}), {"silo-a": node.id}, 60.0, "1")
    machine.ahead = jump if when != "before the reply" else 0.0
    (asked,) = node.pull().messages_list
    machine.ahead = jump
    node.reply(asked.metadata, Envelope({"status": "ok"}), created_at=asked.metadata.created_at, ttl=asked.metadata.ttl)
    assert link.take(replies.get(timeout=60)).config["status"] == "ok"
    assert link.online() == {"silo-a": node.id}
    link.close_run(run, completed=True)


def node_of(link: SuperLink, federation: Any) -> Any:
    from .conftest import Node

    class Answering(Node):
        def reply(self, asked: Any, envelope: Envelope, **changes: Any) -> str:
            answer_to = self.answer_to
            self.answer_to = lambda one, what: answer_to(one, what, **changes)  # type: ignore[method-assign, assignment]
            try:
                return super().reply(asked, envelope)
            finally:
                self.answer_to = answer_to  # type: ignore[method-assign]

    return Answering(link, federation.homes["silo-a"])


def test_a_message_lives_as_long_as_it_was_given_by_a_clock_that_nobody_sets(
    machine: Machine, replies: queue.Queue[Reply], federation: Any, node: Callable[[str], Any]
) -> None:
    clock = SteadyClock()
    before = clock()
    machine.ahead = 3600.0
    assert clock() - before < dt.timedelta(seconds=60)
    assert 3590.0 < clock.moved < 3610.0
    machine.ahead = -3600.0
    assert clock() >= before
    assert -3610.0 < clock.moved < -3590.0
    assert clock().tzinfo is dt.UTC


@pytest.mark.parametrize(("ahead", "way"), [(700.0, "700 s ahead"), (-700.0, "700 s back"), (0.0, "")])
def test_a_message_that_is_not_accepted_names_the_clock_that_was_set(
    machine: Machine, replies: queue.Queue[Reply], ahead: float, way: str
) -> None:
    link = SuperLink()
    run = opened(link, replies)
    machine.ahead = ahead
    with pytest.raises(WireError, match="Flower did not accept a message for node 7") as refused:
        link.send(run, Kind.TRAIN, Envelope({}), {"nobody": 7}, 60.0, "1")
    assert ("clock" in str(refused.value)) == bool(way)
    assert way in str(refused.value)


def test_every_part_of_flower_that_counts_time_here_has_the_steady_clock() -> None:
    from flwr.server.superlink.linkstate import in_memory_linkstate
    from flwr.server.superlink.linkstate import utils as linkstate_utils
    from flwr.server.utils import validator
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.corestate import utils as corestate_utils

    for module in (in_memory_linkstate, linkstate_utils, validator, in_memory_corestate, corestate_utils):
        assert module.now is STEADY, module.__name__


# -- between a real gate's client and a real door


@pytest.fixture
def port(door: Door, federation: Any, open_door: Callable[..., Any]) -> Iterator[int]:
    hub = federation.homes["hub"]
    context = server_context(hub.certificate, hub.key, hub.authority)
    with open_door(door.application, context, lambda _: None) as port:
        yield port


def gate_of(federation: Any, port: int) -> FleetNode:
    home = federation.homes["silo-a"]
    key = load_private_key(home.key)
    context = client_context(home.certificate, home.key, home.authority)
    from federation.identity import public_key_pem

    return FleetNode(lambda: FleetConnection("127.0.0.1", port, context, key), public_key_pem(key.public_key()))


@pytest.mark.parametrize("ahead", NEAR)
@pytest.mark.parametrize("whose", ["coordinator", "gate"])
def test_a_run_goes_on_between_clocks_that_differ_by_less_than_five_minutes(
    machine: Machine,
    door: Door,
    federation: Any,
    port: int,
    replies: queue.Queue[Reply],
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
    ahead: float,
) -> None:
    """Either way: Flower by itself would let a coordinator be five seconds behind and no more."""
    gates = Machine()
    monkeypatch.setattr(silo.gate.fleet, "datetime", gates.clock())
    (machine if whose == "coordinator" else gates).ahead = ahead
    gate = gate_of(federation, port)
    try:
        node = gate.activate()
        run = opened(door.link, replies)
        door.link.send(run, Kind.TRAIN, Envelope({"round": 1}), {"silo-a": node}, 30.0, "1")
        task = gate.pull()
        assert task is not None
        assert gate.fetch(task).config["round"] == 1
        gate.reply(task, Envelope({"status": "ok"}))
        assert door.link.take(replies.get(timeout=60)).config["status"] == "ok"
    finally:
        gate.close()


@pytest.mark.parametrize(("ahead", "way"), [(400.0, "behind"), (-400.0, "ahead")])
def test_clocks_that_differ_by_more_are_named_and_are_something_to_wait_for(
    machine: Machine,
    federation: Any,
    port: int,
    ahead: float,
    way: str,
) -> None:
    gate = gate_of(federation, port)
    machine.ahead = ahead
    try:
        with pytest.raises(FleetRefusedError, match=rf"clock of silo-a is (399|400|401) s {way}") as refused:
            gate.activate()
        assert refused.value.status == 403
        machine.ahead = 0.0
        assert gate.activate()
    finally:
        gate.close()


@pytest.mark.parametrize(("ahead", "blamed"), [(0, False), (200, False), (300, True), (-300, True), (10**6, True)])
def test_a_refusal_is_blamed_on_the_clocks_where_they_are_apart(ahead: int, blamed: bool) -> None:
    now = dt.datetime.now(dt.UTC)
    dated = format_datetime(now - dt.timedelta(seconds=ahead), usegmt=True)
    assert FleetRefusedError(403, "x", "y", _skew(dated, now)).is_of_clocks is blamed
    assert FleetRefusedError(403, "x", "y").is_of_clocks is False


@pytest.mark.parametrize(
    "dated",
    [
        "",
        "yesterday",
        "Mon, 99 Foo 2026 00:00:00 GMT",
        "\x00",
        "1" * 10_000,
        f"Mon, {10**20} Jan 2026 00:00:00 GMT",
        f"Mon, 01 Jan {10**20} 00:00:00 GMT",
        f"Mon, 01 Jan 2026 {10**20}:00:00 GMT",
        f"Mon, 01 Jan 2026 00:00:00 +{10**20}",
    ],
)
def test_what_is_no_date_blames_no_clock(dated: str) -> None:
    assert _skew(dated, dt.datetime.now(dt.UTC)) == 0.0
