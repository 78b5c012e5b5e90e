"""The listener for metrics, health and readiness, and what every member tells there."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from audit import keys as log_keys
from audit.entry import Event
from demo.ports import reserve_port
from federation.errors import UsageError
from federation.identity import load_certificate
from federation.metrics import BoundedLabel, CountedLog, MemberCollector, StatusServer, certificate_days_left


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{reserve_port()}"


@pytest.fixture
def problems() -> dict[str, list[str]]:
    return {"health": [], "readiness": []}


@pytest.fixture
def log(federation, tmp_path: Path) -> Iterator[CountedLog]:
    home = federation.homes["silo-a"]
    with CountedLog.open(home.audit, origin="heart.example/silo/silo-a", key=log_keys.load_key(home.log_key)) as log:
        yield log


@pytest.fixture
def server(federation, log: CountedLog, address: str, problems: dict[str, list[str]]) -> Iterator[StatusServer]:
    registry = CollectorRegistry()
    registry.register(MemberCollector(federation.homes["silo-a"], log))
    server = StatusServer(address, registry, lambda: problems["health"], lambda: problems["readiness"])
    yield server
    server.close()


def get(server: StatusServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_are_what_prometheus_reads(server: StatusServer, log: CountedLog) -> None:
    log.append(Event(actor="a", action="gate.start", resource="silo/silo-a"))
    status, text = get(server, "/metrics")
    values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert status == 200
    assert values["concordat_audit_entries"] == log.size
    assert values["concordat_audit_bytes"] > 0
    assert values["concordat_disk_free_bytes"] > 0
    assert 29 < values["concordat_certificate_days_left"] < 30
    assert values["concordat_build_info"] == 1


def test_health_and_readiness_say_why_not(server: StatusServer, problems: dict[str, list[str]]) -> None:
    assert get(server, "/healthz") == (200, "ok\n")
    problems["readiness"] += ["no worker is connected", "the coordinator does not answer yet"]
    assert get(server, "/readyz") == (503, "no worker is connected\nthe coordinator does not answer yet\n")
    assert get(server, "/healthz") == (200, "ok\n")
    problems["health"].append("the log cannot be written")
    assert get(server, "/healthz") == (503, "the log cannot be written\n")


def test_nothing_else_is_served_and_nothing_is_taken(server: StatusServer) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/metrics/../healthz")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", "/metrics", body=b"x" * 1000)
    assert connection.getresponse().status == 501


def test_the_server_names_no_version_of_its_making(server: StatusServer) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=20) as answer:
        assert answer.headers["Server"] == "concordat"


def test_a_few_silent_clients_are_all_that_is_held(server: StatusServer) -> None:
    """The oldest of those beyond the bound is closed at once, so that it holds no thread."""
    held = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(9)]
    try:
        held[0].settimeout(20)
        assert held[0].recv(1) == b""
    finally:
        for connection in held:
            connection.close()


def test_an_address_in_use_is_one_sentence(server: StatusServer) -> None:
    with pytest.raises(UsageError, match=r"cannot serve metrics on 127\.0\.0\.1:\d+: Address already in use"):
        StatusServer(f"127.0.0.1:{server.port}", CollectorRegistry(), list, list)


def test_days_left_are_counted_from_now(federation) -> None:
    home = federation.homes["silo-b"]
    ends = load_certificate(home.certificate.read_bytes()).not_valid_after_utc
    expected = (ends - datetime.now(UTC)) / timedelta(days=1)
    assert certificate_days_left(home) == pytest.approx(expected, abs=0.01)


def test_an_observer_hears_of_an_event_once_it_is_durable(log: CountedLog) -> None:
    sizes: list[tuple[str, int]] = []
    log.observer = lambda event: sizes.append((event.action, log.size))
    before = log.size
    log.append(Event(actor="a", action="one", resource="r"), Event(actor="a", action="two", resource="r"))
    assert sizes == [("one", before + 2), ("two", before + 2)]


def test_a_labels_values_are_bounded_whatever_a_peer_names() -> None:
    label = BoundedLabel(known=("purpose.allow",), spare=2)
    assert [label(value) for value in ("a", "b", "c", "purpose.allow", "a")] == [
        "a",
        "b",
        "other",
        "purpose.allow",
        "a",
    ]
    assert BoundedLabel(spare=1)("x" * 65) == "other"
    assert BoundedLabel(spare=1)("a\nb") == "other"
