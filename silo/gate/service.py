"""The gate's process: confines itself, connects, waits for messages and has them handled until told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from audit import keys as log_keys
from audit.entry import Event
from audit.log import AuditLog
from federation import __version__
from federation.addresses import split_address
from federation.enrolment import log_origin
from federation.errors import ConcordatError, IdentityError, ManifestError, UnreachableError
from federation.home import Home, read_limited
from federation.identity import Role, load_certificate, public_key_pem
from federation.limits import LIMITS
from federation.manifest import accept_manifest, load_manifest
from federation.memory import keep_freed_memory
from federation.tls import client_context
from policies.model import load_policy
from silo.config import load_silo_config
from silo.confinement import confine_files, runtime_paths
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError
from silo.gate.handler import Handler, Parts
from silo.gate.worker_link import WorkerLink

RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Gate:
    """One silo's gate, from its home and its configuration."""

    def __init__(self, home: Home, config_path: Path) -> None:
        keep_freed_memory()
        config = load_silo_config(config_path)
        identity = home.identity()
        if identity.role is not Role.SILO:
            raise IdentityError(f"{home.path} is the home of a {identity.role}, expected a silo")
        key = home.private_key()
        manifest = load_manifest(home)
        country = manifest.federation.member(identity.name).country
        policy = load_policy(config.policy, source=config.policy.name)
        if policy.model.residency.silo != country:
            raise ManifestError(
                f"the policy places this silo in {policy.model.residency.silo} "
                f"({policy.locate(('residency', 'silo'))}), the manifest in {country}",
                advice="correct the one that is wrong",
            )
        coordinator = manifest.federation.coordinator
        if not coordinator.addresses:
            raise ManifestError(f"the manifest has no address for {coordinator.name}")
        host, port = split_address(coordinator.addresses[0])
        context = client_context(home.certificate, home.key, home.authority)
        self._peer, self._policy = identity, policy
        self._address = coordinator.addresses[0]
        # The policy and the keys are read; from here on this process sees its home and the Python runtime alone.
        config.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._confinement = confine_files(runtime_paths(), [home.path, config.socket.parent])
        self._log = AuditLog.open(
            home.audit,
            origin=log_origin(identity.federation, identity.role, identity.name),
            key=log_keys.load_key(home.log_key),
            clock=lambda: datetime.now(UTC),
        )
        self._link = WorkerLink(config.socket, config.worker_uid)
        self._node = FleetNode(lambda: FleetConnection(host, port, context, key), public_key_pem(key.public_key()))
        authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
        self._handler = Handler(
            Parts(
                identity,
                authority,
                policy,
                self._log,
                self._link,
                self._node,
                lambda text, signature: accept_manifest(home, text, signature),
            )
        )
        self._stopping = threading.Event()

    def serve(self, say: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; every start, stop and loss of connection is recorded."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        self._record(
            "gate.start",
            {
                "version": __version__,
                "policy_version": self._policy.model.metadata.version,
                "confinement": self._confinement,
            },
        )
        watcher = threading.Thread(target=self._announce_workers, daemon=True)
        watcher.start()
        try:
            self._connect(say)
            while not self._stopping.is_set():
                self._step(say)
        finally:
            self._link.close()
            self._node.close()
            self._record("gate.stop")
            self._log.close()

    def _stop(self) -> None:
        self._stopping.set()
        self._link.interrupt()
        self._node.interrupt()

    def _step(self, say: Callable[[str], None]) -> None:
        try:
            task = self._node.pull()
            if task is not None:
                answer = self._handler.handle(task)
                self._node.reply(task, answer)
        except FleetRefusedError as error:
            if self._stopping.is_set():
                return
            if error.status == HTTPStatus.GONE:
                self._record("reply.late", reason=str(error)[:2000])
                return
            self._record("coordinator.refused", {"status": error.status}, reason=str(error)[:2000])
            self._connect(say)
        except UnreachableError as error:
            if self._stopping.is_set():
                return
            self._record("coordinator.lost", reason=str(error)[:2000])
            say(f"connection lost: {error}")
            self._connect(say)

    def _connect(self, say: Callable[[str], None]) -> None:
        """Activate at the coordinator, trying again while it does not answer."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                node_id = self._node.activate()
            except UnreachableError as error:
                if attempt == 0:
                    say(f"waiting for the coordinator: {error}")
                self._stopping.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1
                continue
            self._record("coordinator.connected", {"address": self._address, "flower_node": str(node_id)})
            say(f"connected to {self._address}")
            return

    def _announce_workers(self) -> None:
        """Record each worker that connects, with what it says of its separation from the network."""
        seen = 0
        while not self._stopping.is_set():
            hello, seen = self._link.next_hello(seen)
            if hello is not None and not self._stopping.is_set():
                detail = {
                    name: str(hello.get(name, ""))[:500] for name in ("network", "files", "interfaces", "version")
                }
                try:
                    self._record("worker.connected", detail)
                except ConcordatError:
                    return

    def _record(
        self, action: str, detail: Mapping[str, str | int | bool] | None = None, reason: str | None = None
    ) -> None:
        self._log.append(
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"silo/{self._peer.name}",
                policy=self._policy.digest,
                reason=reason,
                detail=detail or {},
            )
        )
