"""What a process tells a monitoring system: Prometheus metrics, health and readiness, over a plain HTTP listener.

The listener is off unless an address is given. It answers GET for three paths, takes no body, and holds no secret; who
may reach it is the network policy's to say.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from audit.entry import Event
from audit.errors import AuditError
from audit.log import AuditLog
from audit.statement import Publication
from federation import __version__
from federation.addresses import split_address
from federation.crowd import Crowd, network_of
from federation.errors import ConcordatError, UsageError
from federation.home import Home, read_limited
from federation.identity import load_certificate
from federation.limits import LIMITS
from policies.rules import RULES

Problems = Callable[[], Sequence[str]]
"""What keeps a process from being healthy or ready, one sentence each; empty where nothing does."""

REQUEST_SECONDS = 5.0
"""How long a client may take for its request, and for each read and write."""
ANSWER_SECONDS = 20.0
"""How long an answer may take, its making included."""
UNKNOWN_VALUES = 32


class CountedLog(AuditLog):
    """An audit log that tells an observer of each event once it is durable, and who has to know that it fails."""

    observer: Callable[[Event], None] | None = None
    failed: Callable[[AuditError], None] | None = None
    """Called by whichever thread finds that nothing more can be recorded."""

    def append(self, *events: Event) -> list[int]:
        """Record the events durably, then tell the observer."""
        with self._watched():
            numbers = super().append(*events)
        if self.observer is not None:
            for event in events:
                self.observer(event)
        return numbers

    def publish(self, event: Event, sizes: Iterable[int] = ()) -> Publication:
        """Record one event and return the proof that it is in the log."""
        with self._watched():
            return super().publish(event, sizes)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except AuditError as error:
            # Not where one event was wrong: then the log takes the next one.
            if self.failed is not None and self.health.refusal is not None:
                self.failed(error)
            raise


class BoundedLabel:
    """A label's values: those that are known, a few that are not, and `other` for the rest.

    A peer names rules; without a bound it could name as many as fill this process's memory.
    """

    def __init__(self, known: Iterable[str] = RULES, spare: int = UNKNOWN_VALUES) -> None:
        self._known = frozenset(known)
        self._spare = spare
        self._met: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        """The value as a label."""
        with self._lock:
            if value in self._known or value in self._met:
                return value
            if len(self._met) < self._spare and 0 < len(value) <= 64 and value.isprintable():
                self._met.add(value)
                return value
        return "other"


class MemberCollector(Collector):
    """What every member has: a version, a certificate that runs out, a log that grows, a disk that fills."""

    def __init__(self, home: Home, log: AuditLog) -> None:
        self._home, self._log = home, log

    def collect(self) -> Iterable[Metric]:
        """Read the values now."""
        version = GaugeMetricFamily("concordat_build_info", "The version that runs; always 1.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        try:
            days = certificate_days_left(self._home)
        except (ConcordatError, OSError):
            days = float("nan")
        yield GaugeMetricFamily("concordat_certificate_days_left", "Days until the member's certificate ends.", days)
        yield GaugeMetricFamily("concordat_audit_entries", "Entries of the audit log.", self._log.size)
        try:
            size = float(sum(entry.stat().st_size for entry in os.scandir(self._home.audit / "segments")))
        except OSError:
            size = float("nan")
        yield GaugeMetricFamily("concordat_audit_bytes", "Bytes of the audit log's segments on disk.", size)
        free = shutil.disk_usage(self._home.path).free
        yield GaugeMetricFamily("concordat_disk_free_bytes", "Bytes free where the home lies.", free)


def certificate_days_left(home: Home) -> float:
    """Days until the certificate in a home ends, negative where it has; raises ConcordatError."""
    certificate = load_certificate(read_limited(home.certificate, LIMITS.certificate))
    return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400


class StatusServer:
    """Serves /metrics, /healthz and /readyz until closed."""

    def __init__(self, address: str, registry: CollectorRegistry, healthy: Problems, ready: Problems) -> None:
        host, port = split_address(address)
        pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/healthz": lambda: _verdict(healthy()),
            "/readyz": lambda: _verdict(ready()),
        }
        try:
            self._server = _Server((host, port), pages)
        except OSError as error:
            raise UsageError(f"cannot serve metrics on {address}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    """Answers each connection in a thread, of which there are a few.

    A probe has to be answered whatever others do: who says nothing leaves for it.
    """

    request_queue_size = 128

    def __init__(self, address: tuple[str, int], pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages = pages
        self._crowd: Crowd[socket.socket] = Crowd(LIMITS.status_requests, LIMITS.status_requests)
        self._ends: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        leaving = self._crowd.enter(request, network_of(str(client_address[0])))
        if leaving is not None:
            _hang_up(leaving)
        self._ends[request] = time.monotonic() + REQUEST_SECONDS
        super().process_request(request, client_address)

    def begin_answer(self, request: Any) -> None:
        """A request is here whole: its client no longer counts as one that says nothing."""
        self._crowd.occupy(request)
        self._ends[request] = time.monotonic() + ANSWER_SECONDS

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._crowd.leave(request)
            self._ends.pop(request, None)

    def service_actions(self) -> None:
        """End what takes too long, also where a byte comes now and then."""
        now = time.monotonic()
        for request, end in list(self._ends.items()):
            if now > end:
                _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away while it is answered is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        """Answer one of the three pages."""
        self.server.begin_answer(self.request)
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            status, kind, body = HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"no such page\n"
        else:
            status, kind, body = page()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """What the Server header says."""
        return "concordat"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """A scrape is no news."""


def _hang_up(connection: socket.socket) -> None:
    """Wake the thread that reads from a connection; it closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _verdict(problems: Sequence[str]) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
    return status, "text/plain; charset=utf-8", ("\n".join(problems) or "ok").encode() + b"\n"
