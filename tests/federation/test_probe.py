"""What a chart's own test tries, against listeners that are and are not there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from demo.ports import reserve_port
from federation.errors import UsageError
from federation.metrics import StatusServer
from federation.probe import Finding, try_all


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def only(found: list[Finding]) -> tuple[bool, str]:
    (one,) = found
    return one.as_expected, one.outcome


def test_who_answers_is_reached_and_who_must_not_answer_does(listening: str) -> None:
    assert only(try_all((), [listening], (), ())) == (True, "connected")
    assert only(try_all((), (), [listening], ())) == (False, "connected")


def test_a_refused_connection_was_answered(closed_port: int) -> None:
    """The packet came through: no network policy dropped it."""
    address = f"127.0.0.1:{closed_port}"
    assert only(try_all((), (), [address], ())) == (False, "the connection was refused")
    assert only(try_all((), [address], (), ())) == (False, "the connection was refused")


def test_a_name_that_must_not_be_found() -> None:
    assert only(try_all((), (), (), ["nowhere.invalid"]))[0] is True
    assert only(try_all((), (), (), ["localhost"])) == (False, "it was")


def test_readiness_is_what_the_server_says(closed_port: int) -> None:
    problems = ["no worker is connected"]
    address = f"127.0.0.1:{reserve_port()}"
    server = StatusServer(address, CollectorRegistry(), list, lambda: problems)
    try:
        assert only(try_all([address], (), (), ())) == (False, "no worker is connected")
        problems.clear()
        assert only(try_all([address], (), (), ())) == (True, "ok")
    finally:
        server.close()
    assert only(try_all([f"127.0.0.1:{closed_port}"], (), (), ()))[0] is False


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="expected host:port"):
        try_all((), ["here"], (), ())
