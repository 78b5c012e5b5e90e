"""What the gate counts, from what it records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import keys as log_keys
from federation.metrics import CountedLog
from silo.gate import metrics as module
from silo.gate.metrics import GateMetrics

from .simulator import SILO, Consortium, GateBench, PlayedWorker


class MeteredBench(GateBench):
    """A gate's handler whose log is observed."""

    metrics: GateMetrics

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metered(consortium: Consortium, short_path: Path) -> Iterator[MeteredBench]:
    bench = MeteredBench(consortium, short_path)
    home = consortium.homes[SILO]
    origin = bench.log.origin
    bench.log.close()
    log = CountedLog.open(bench.audit, origin=origin, key=log_keys.load_key(home.log_key))
    bench.metrics = GateMetrics(home, log, bench.link)
    bench.log = log
    bench.handler = bench.make_handler()
    yield bench
    bench.close()


def test_decisions_rounds_and_the_workers_state_are_counted(metered: MeteredBench) -> None:
    assert metered.value("concordat_gate_worker_connected") == 0
    metered.work()
    metered.admit()
    assert metered.value("concordat_gate_worker_connected") == 1
    assert metered.value("concordat_gate_rounds_total") == 0
    metered.round(1)
    assert metered.value("concordat_gate_rounds_total") == 1
    assert time.time() - (metered.value("concordat_gate_last_round_timestamp_seconds") or 0) < 60
    admitted = [
        sample
        for family in metered.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "concordat_gate_decisions_total" and sample.labels["action"] == "run.admit"
    ]
    assert [(sample.labels["decision"], sample.value) for sample in admitted] == [("allow", 1.0)]


def test_bytes_and_the_coordinators_state_are_told(metered: MeteredBench) -> None:
    metered.metrics.exchanged(100, 5000)
    metered.metrics.exchanged(1, 1)
    assert metered.value("concordat_gate_coordinator_bytes_total", direction="sent") == 101
    assert metered.value("concordat_gate_coordinator_bytes_total", direction="received") == 5001
    assert metered.metrics.not_ready() == ["the coordinator does not answer yet", "no worker is connected"]
    metered.metrics.connected(True)
    worker = PlayedWorker(metered.socket)
    metered.link.wait(20)
    assert metered.metrics.not_ready() == []
    worker.close()


def test_a_gate_that_waits_too_long_is_unhealthy_and_one_that_works_is_not(
    metered: MeteredBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    metered.metrics.waiting()
    assert metered.metrics.unhealthy() == []
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 200)
    assert metered.metrics.unhealthy() == ["the gate has been waiting for 200 s without an answer"]
    metered.metrics.working()
    assert metered.metrics.unhealthy() == []
