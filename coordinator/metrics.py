"""The coordinator's metrics, health and readiness."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from audit.entry import Event
from federation.home import Home
from federation.metrics import BoundedLabel, CountedLog, MemberCollector

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOP_SECONDS = 5.0
STATES = ("pending", "running", "completed", "failed", "refused", "stopped")


class FederationCollector(Collector):
    """Who is connected and what runs, read when asked."""

    def __init__(self, silos: Callable[[], Mapping[str, bool]], states: Callable[[], Iterable[str]]) -> None:
        self._silos, self._states = silos, states

    def collect(self) -> Iterable[Metric]:
        """Read the values now."""
        online = GaugeMetricFamily(
            "concordat_coordinator_silo_connected", "1 while a silo of the manifest is connected.", labels=["silo"]
        )
        for name, connected in sorted(self._silos().items()):
            online.add_metric([name], float(connected))
        yield online
        runs = GaugeMetricFamily("concordat_coordinator_runs", "Runs since the start, by state.", labels=["state"])
        states = list(self._states())
        for state in STATES:
            runs.add_metric([state], states.count(state))
        yield runs


class CoordinatorMetrics:
    """Counts rounds, refusals and bytes; knows whether the server answers."""

    def __init__(
        self,
        home: Home,
        log: CountedLog,
        silos: Callable[[], Mapping[str, bool]],
        states: Callable[[], Iterable[str]],
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(MemberCollector(home, log))
        self.registry.register(FederationCollector(silos, states))
        self._silos = silos
        self._rule = BoundedLabel()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rounds = Histogram(
            "concordat_coordinator_round_seconds",
            "Duration of closed rounds.",
            buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600),
            registry=self.registry,
        )
        self._answers = Counter(
            "concordat_coordinator_silo_answers",
            "What silos did when asked: answered, refused or dropped.",
            ["silo", "outcome"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "concordat_coordinator_refusals",
            "Refusals of silos, by the rule they name.",
            ["rule"],
            registry=self.registry,
        )
        self._turned_away = Counter(
            "concordat_coordinator_connections_refused",
            "Requests and connections that were turned away.",
            registry=self.registry,
        )
        self._bytes = Counter(
            "concordat_coordinator_bytes", "Bytes of bodies through the gateway.", ["direction"], registry=self.registry
        )
        log.observer = self.recorded

    def recorded(self, event: Event) -> None:
        """An event is durable in the log."""
        if event.action == "silo.refused":
            self._refusals.labels(self._rule(event.rule or "unnamed")).inc()

    def turned_away(self) -> None:
        """A request or a connection was refused, recorded or not."""
        self._turned_away.inc()

    def happened(self, event: Mapping[str, Any]) -> None:
        """An event of a run."""
        match event["event"]:
            case "round.closed":
                self._rounds.observe(event["seconds"])
            case "silo.answered":
                self._answers.labels(event["silo"], "answered").inc()
            case "silo.refused":
                self._answers.labels(event["silo"], "refused").inc()
            case "silo.dropped":
                self._answers.labels(event["silo"], "dropped").inc()

    def around(self, application: Application) -> Application:
        """The application, with its bytes counted and its event loop known."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            self._loop = asyncio.get_running_loop()
            if scope["type"] != "http":
                await application(scope, receive, send)
                return

            async def count_received() -> dict[str, Any]:
                message = await receive()
                self._bytes.labels("received").inc(len(message.get("body", b"")))
                return message

            async def count_sent(message: dict[str, Any]) -> None:
                self._bytes.labels("sent").inc(len(message.get("body", b"")))
                await send(message)

            await application(scope, count_received, count_sent)

        return counted

    def unhealthy(self) -> list[str]:
        """What only a restart mends: an event loop that does not come round."""
        if self._loop is None:
            return []
        answered: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(answered.set_result, None)
            answered.result(LOOP_SECONDS)
        except (concurrent.futures.TimeoutError, RuntimeError):
            return [f"the server did not come round within {LOOP_SECONDS:.0f} s"]
        return []

    def not_ready(self) -> list[str]:
        """What keeps silos and operators from being served."""
        if self._loop is None:
            return ["the gateway does not listen yet"]
        try:
            self._silos()
        except Exception as error:  # noqa: BLE001  whatever makes the manifest unusable, the sentence is the same
            return [f"the manifest cannot be used: {error}"]
        return self.unhealthy()
