"""The gate's metrics, health and readiness."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from audit.entry import Event
from federation.home import Home
from federation.metrics import BoundedLabel, CountedLog, MemberCollector
from silo.gate.worker_link import WorkerLink

WAITING_SECONDS = 150.0
"""How long a gate may wait for the coordinator without coming back to its loop: a poll ends within 60 seconds."""


class GateMetrics:
    """Counts what the gate records, sends and receives; knows whether it is connected on either side."""

    def __init__(self, home: Home, log: CountedLog, link: WorkerLink) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(MemberCollector(home, log))
        self._link = link
        self._rule = BoundedLabel()
        self._decisions = Counter(
            "concordat_gate_decisions",
            "Decisions recorded, by action, effect and rule.",
            ["action", "decision", "rule"],
            registry=self.registry,
        )
        self._rounds = Counter("concordat_gate_rounds", "Rounds whose update left this silo.", registry=self.registry)
        self._last_round = Gauge(
            "concordat_gate_last_round_timestamp_seconds",
            "When an update last left this silo, in seconds since 1970; 0 where none did.",
            registry=self.registry,
        )
        self._bytes = Counter(
            "concordat_gate_coordinator_bytes",
            "Bytes of requests to and answers from the coordinator.",
            ["direction"],
            registry=self.registry,
        )
        self._connected = Gauge(
            "concordat_gate_connected", "1 while the coordinator answers, else 0.", registry=self.registry
        )
        worker = Gauge("concordat_gate_worker_connected", "1 while a worker is there, else 0.", registry=self.registry)
        worker.set_function(lambda: float(link.worker > 0))
        turned_away = Gauge(
            "concordat_gate_worker_connections_refused",
            "Connections to the worker's door that were not the worker's, since the start.",
            registry=self.registry,
        )
        turned_away.set_function(lambda: float(link.turned_away))
        self._witness_age = Gauge(
            "concordat_gate_witness_age_seconds",
            "Seconds since another party last cosigned this silo's log; not a number before one did.",
            registry=self.registry,
        )
        self._epsilon_left = Gauge(
            "concordat_gate_epsilon_left",
            "The least that is left of any dataset's privacy budget; not a number where the policy has none.",
            registry=self.registry,
        )
        self.watch(lambda: math.nan, lambda: math.nan)
        self._is_connected = False
        self._waiting_since: float | None = time.monotonic()
        log.observer = self.recorded

    def watch(self, witness_age: Callable[[], float], epsilon_left: Callable[[], float]) -> None:
        """Ask these for the seconds since the last cosignature and for what is left of the budgets, at each scrape."""
        self._witness_age.set_function(witness_age)
        self._epsilon_left.set_function(epsilon_left)

    def recorded(self, event: Event) -> None:
        """An event is durable in the log."""
        if event.decision != "record":
            self._decisions.labels(event.action, event.decision, self._rule(event.rule or "unnamed")).inc()
        if event.action == "round.egress" and event.decision == "allow":
            self._rounds.inc()
            self._last_round.set_to_current_time()

    def exchanged(self, sent: int, received: int) -> None:
        """A request of so many bytes was answered with so many."""
        self._bytes.labels("sent").inc(sent)
        self._bytes.labels("received").inc(received)

    def connected(self, state: bool) -> None:  # noqa: FBT001  it is the state
        """Whether the coordinator answers."""
        self._is_connected = state
        self._connected.set(state)

    def waiting(self) -> None:
        """The gate waits for its next message, or tries to connect."""
        self._waiting_since = time.monotonic()

    def working(self) -> None:
        """The gate handles a message; the run's deadline and the worker's limits bound how long."""
        self._waiting_since = None

    def unhealthy(self) -> list[str]:
        """What only a restart mends: a wait that did not end when it had to."""
        since = self._waiting_since
        waited = time.monotonic() - since if since is not None else 0.0
        return [f"the gate has been waiting for {waited:.0f} s without an answer"] if waited > WAITING_SECONDS else []

    def not_ready(self) -> list[str]:
        """What keeps this gate from taking part in a run."""
        problems = [] if self._is_connected else ["the coordinator does not answer yet"]
        return problems + ([] if self._link.worker else ["no worker is connected"])
