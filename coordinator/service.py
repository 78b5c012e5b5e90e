"""The coordinator's process: opens the log, joins gateway, SuperLink and executor, serves until told to stop."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from audit import keys as log_keys
from audit.entry import Event
from audit.log import AuditLog
from coordinator.control import Control, Runs, write_submission
from coordinator.evidence import Evidence
from coordinator.executor import Executor
from coordinator.gateway import Gateway, PeerCertificateProtocol
from coordinator.superlink import SuperLink
from federation import __version__
from federation.addresses import split_address
from federation.enrolment import log_origin
from federation.errors import ConcordatError, IdentityError, UsageError
from federation.home import Home, read_limited
from federation.identity import Peer, Role, load_certificate
from federation.limits import LIMITS
from federation.manifest import SignedManifest, load_manifest
from federation.memory import keep_freed_memory
from federation.run import SignedRun, verify_signed_run
from federation.tls import server_context
from policies.errors import PolicyError

WATCH_SECONDS = 1.0


class Coordinator:
    """One coordinator, from its home directory."""

    def __init__(self, home: Home, listen: str | None = None) -> None:
        keep_freed_memory()
        self._home = home
        identity = home.identity()
        if identity.role is not Role.COORDINATOR:
            raise IdentityError(f"{home.path} is the home of a {identity.role}, expected a coordinator")
        home.private_key()
        self._peer = identity
        self._authority = load_certificate(read_limited(home.authority, LIMITS.certificate))
        self._known_manifest: tuple[tuple[int, int], SignedManifest] | None = None
        member = self._manifest().federation.member(identity.name)
        if not (listen or member.addresses):
            raise UsageError(f"the manifest has no address for {identity.name}", advice="give --listen host:port")
        self._host, self._port = split_address(listen or member.addresses[0])
        self._log = AuditLog.open(
            home.audit,
            origin=log_origin(identity.federation, identity.role, identity.name),
            key=log_keys.load_key(home.log_key),
            clock=lambda: datetime.now(UTC),
        )
        self._superlink = SuperLink()
        self._runs = Runs(self._new_run)
        self._refusals = RefusalBudget()
        self._gateway = Gateway(
            identity.federation,
            self._check_member,
            self._superlink,
            Control(self._runs, self._superlink, self._members),
            Evidence(home.audit),
            self._connection_refused,
        )

    def serve(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; every stop is recorded. Raises UsageError where the port is taken."""
        listener = _listen(self._host, self._port)
        self._record("coordinator.start", detail={"version": __version__, "address": f"{self._host}:{self._port}"})
        config = uvicorn.Config(
            self._gateway,
            http=PeerCertificateProtocol,
            ws="none",
            ssl_certfile=str(self._home.certificate),
            ssl_keyfile=str(self._home.key),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=2,
            server_header=False,
            lifespan="on",
            h11_max_incomplete_event_size=64 * 1024,
        )
        config.load()
        config.ssl = server_context(self._home.certificate, self._home.key, self._home.authority)
        server = _Server(config, on_ready=lambda: on_ready(f"{self._host}:{self._port}"), on_stop=self._stop)
        if threading.current_thread() is threading.main_thread():
            # Uvicorn raises the signal that stopped it once more; unhandled, it would end us with the stop unrecorded.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        stopping = threading.Event()
        watcher = threading.Thread(target=self._watch_manifest, args=(stopping,), name="manifest", daemon=True)
        watcher.start()
        try:
            server.run(sockets=[listener])
        finally:
            stopping.set()
            watcher.join()
            self._runs.stop()
            self._record("coordinator.stop")
            self._log.close()

    def _watch_manifest(self, stopping: threading.Event) -> None:
        """Act on a new manifest within a second: whoever is no longer in it is recorded, cut off and left out."""
        known = self._manifest()
        while not stopping.wait(WATCH_SECONDS):
            try:
                newest = self._manifest()
            except (ConcordatError, PolicyError, OSError) as error:
                # Half copied, or not signed by the authority: every request is refused until it is mended.
                sys.stderr.write(f"the manifest cannot be used: {error}\n")
                continue
            if newest.document.digest == known.document.digest:
                continue
            before = {member.name for member in known.federation.members}
            gone = before - {member.name for member in newest.federation.members}
            detail: dict[str, str | int | bool] = {"version": newest.version, "gone": ",".join(sorted(gone))}
            self._record("manifest.accept", detail=detail)
            known = newest
            self._gateway.cut(gone)
            for name in sorted(gone):
                self._runs.exclude(name)

    def _stop(self) -> None:
        self._gateway.close()
        threading.Thread(target=self._runs.stop, daemon=True).start()

    def _new_run(self, signed: SignedRun, app: bytes, operator: Peer) -> Executor:
        signer = verify_signed_run(signed, self._authority)
        if signer.name != operator.name:
            raise IdentityError(f"the run is signed by {signer.name}, expected {operator.name}, who submits it")
        document = signed.document()
        run_id = f"{document.model.metadata.name}-{secrets.token_hex(3)}"
        directory = self._home.runs / run_id
        directory.mkdir(mode=0o700, parents=True)
        write_submission(directory, signed, app)
        self._log.append(
            Event(
                actor=operator.uri,
                action="run.submit",
                resource=f"run/{run_id}",
                decision="allow",
                rule="control.operator",
                reason="the run is signed by the operator who submits it",
                run=run_id,
                detail={"digest": signed.digest, "app": signed.app_digest, "purpose": document.model.purpose},
            )
        )
        return Executor(run_id, directory, signed, app, self._manifest(), self._superlink, self._log, self._peer.uri)

    def _manifest(self) -> SignedManifest:
        """The manifest on disk, so that a member enrolled meanwhile is known without a restart."""
        status = self._home.manifest.stat()
        edition = (status.st_mtime_ns, status.st_ino)
        known = self._known_manifest
        if known is None or known[0] != edition:
            known = (edition, load_manifest(self._home))
            self._known_manifest = known
        return known[1]

    def _check_member(self, peer: Peer) -> None:
        try:
            member = self._manifest().federation.member(peer.name)
        except ConcordatError as error:
            raise IdentityError(str(error)) from None
        if member.role is not peer.role:
            raise IdentityError(f"{peer.name} is a {member.role} in the manifest, a {peer.role} in its certificate")

    def _members(self) -> list[dict[str, Any]]:
        return [
            {"name": m.name, "role": m.role.value, "country": m.country} for m in self._manifest().federation.members
        ]

    def _connection_refused(self, peer: Peer | None, path: str, reason: str) -> None:
        if self._refusals.take():
            self._log.append(
                Event(
                    actor=peer.uri if peer else "unidentified",
                    action="connection.refused",
                    resource=path[:200],
                    decision="deny",
                    rule="gateway.identity",
                    reason=reason,
                )
            )

    def _record(self, action: str, detail: dict[str, str | int | bool] | None = None) -> None:
        self._log.append(
            Event(actor=self._peer.uri, action=action, resource=f"home/{self._peer.name}", detail=detail or {})
        )


class RefusalBudget:
    """At most so many refusals a minute enter the log, so that a stranger cannot fill the disk."""

    def __init__(self, per_minute: int = 120) -> None:
        self._per_minute = per_minute
        self._minute = -1
        self._used = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more refusal may be recorded in this minute."""
        minute = int(datetime.now(UTC).timestamp() // 60)
        with self._lock:
            if minute != self._minute:
                self._minute, self._used = minute, 0
            self._used += 1
            return self._used <= self._per_minute


class _Server(uvicorn.Server):
    """Uvicorn's server with a call when it listens and one when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def prepare_home(path: Path) -> Home:
    """The home at a path, which must exist; raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory", advice="enrol first: concordat federation request --help")
    return Home(path)
