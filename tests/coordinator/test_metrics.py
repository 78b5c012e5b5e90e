"""What the coordinator counts and tells."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit import keys as log_keys
from audit.entry import Event
from coordinator.events import EventLog
from coordinator.metrics import CoordinatorMetrics
from federation.errors import ManifestError
from federation.metrics import CountedLog


@pytest.fixture
def log(federation, tmp_path: Path) -> Iterator[CountedLog]:
    key = log_keys.load_key(federation.homes["hub"].log_key)
    with CountedLog.open(tmp_path / "audit", origin="heart.example/coordinator/hub", key=key) as log:
        yield log


@pytest.fixture
def metrics(federation, log: CountedLog) -> CoordinatorMetrics:
    home = federation.homes["hub"]
    home.audit.mkdir(exist_ok=True)
    (home.audit / "segments").mkdir(exist_ok=True)
    return CoordinatorMetrics(home, log, lambda: {"silo-a": True, "silo-b": False}, lambda: ["running", "failed"])


def value(metrics: CoordinatorMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"concordat_coordinator_{name}", labels)


def test_who_is_connected_and_what_runs_is_read_when_asked(metrics: CoordinatorMetrics) -> None:
    assert value(metrics, "silo_connected", silo="silo-a") == 1
    assert value(metrics, "silo_connected", silo="silo-b") == 0
    assert value(metrics, "runs", state="running") == 1
    assert value(metrics, "runs", state="completed") == 0


def test_the_events_of_a_run_are_counted(metrics: CoordinatorMetrics, tmp_path: Path) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    events.observe(metrics.happened)
    events.emit("round.started", round=1)
    events.emit("silo.answered", round=1, silo="silo-a", metrics={})
    events.emit("silo.dropped", silo="silo-b", phase="1", reason="late")
    events.emit("round.closed", round=1, seconds=0.7, silos={}, dropped={}, metrics={})
    events.close()
    assert value(metrics, "silo_answers_total", silo="silo-a", outcome="answered") == 1
    assert value(metrics, "silo_answers_total", silo="silo-b", outcome="dropped") == 1
    assert value(metrics, "round_seconds_count") == 1
    assert value(metrics, "round_seconds_sum") == 0.7


def test_refusals_are_counted_by_rule_however_many_rules_a_silo_invents(
    metrics: CoordinatorMetrics, log: CountedLog
) -> None:
    named = ["purposes.allow", *(f"invented-{number}" for number in range(50))]
    for rule in named:
        log.append(Event(actor="a", action="silo.refused", resource="run/1", decision="deny", rule=rule))
    metrics.turned_away()
    counted = {
        sample.labels["rule"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "concordat_coordinator_refusals_total"
    }
    assert sum(counted.values()) == len(named)
    assert counted["other"] == 50 - 32
    assert len(counted) == 34
    assert value(metrics, "connections_refused_total") == 1


def test_bytes_through_the_gateway_are_counted_and_the_loop_answers(metrics: CoordinatorMetrics) -> None:
    parts = [{"type": "http.request", "body": b"x" * 700, "more_body": True}, {"type": "http.request", "body": b"y"}]
    sent: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def serve() -> list[str]:
        assert metrics.not_ready() == ["the gateway does not listen yet"]
        await metrics.around(application)({"type": "http"}, receive, send)
        return await asyncio.to_thread(metrics.not_ready)

    assert asyncio.run(serve()) == []
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert value(metrics, "bytes_total", direction="received") == 701
    assert value(metrics, "bytes_total", direction="sent") == 6


def test_a_loop_that_is_gone_is_unhealthy(metrics: CoordinatorMetrics) -> None:
    async def application(*_: Any) -> None:
        return

    async def serve() -> None:
        await metrics.around(application)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    assert metrics.unhealthy() == []
    asyncio.run(serve())
    assert metrics.unhealthy() == ["the server did not come round within 5 s"]


def test_a_manifest_that_cannot_be_used_makes_it_unready() -> None:
    def broken() -> dict[str, bool]:
        raise ManifestError("the manifest is not signed by this federation's authority")

    metrics = CoordinatorMetrics.__new__(CoordinatorMetrics)
    metrics._silos = broken
    metrics._loop = asyncio.new_event_loop()
    assert metrics.not_ready() == [
        "the manifest cannot be used: the manifest is not signed by this federation's authority"
    ]
    metrics._loop.close()
