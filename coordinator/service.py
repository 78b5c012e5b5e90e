"""The coordinator's process: opens the log, joins gateway, SuperLink and executor, serves until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource as limits_of_process
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from audit import keys as log_keys
from audit.entry import Decision, Event
from audit.errors import AuditError
from audit.heartbeat import Heartbeat
from audit.log import utc_now
from audit.rollback import RollbackGuard
from audit.upkeep import Upkeep
from audit.witness import Witness
from coordinator.asides import Asides
from coordinator.authority import Authority
from coordinator.control import Control, Runs
from coordinator.cosigning import IdleCosigning
from coordinator.enrolment import FORESEEN, Enrolment, Renewal
from coordinator.evidence import Evidence
from coordinator.execution import Execution
from coordinator.executor import Executor
from coordinator.gateway import Gateway, unless_unrecorded
from coordinator.identities import Identities
from coordinator.manifest_news import ManifestNews
from coordinator.metrics import CoordinatorMetrics
from coordinator.recorded import (
    INTERRUPTED,
    Logged,
    RecordedRun,
    read_logged,
    read_submission,
    recorded_runs,
    require_new,
    write_submission,
)
from coordinator.refusals import RefusalBudget
from coordinator.releases import Releases
from coordinator.server import Listener, Server
from coordinator.statistics import Survey
from coordinator.superlink import SuperLink
from coordinator.watch import Reactions, Watch
from coordinator.witnessing import Witnessing
from federation import __version__
from federation.addresses import split_address
from federation.errors import ConcordatError, IdentityError, RunFailedError, SubmissionError, UsageError
from federation.faults import attempt
from federation.home import Home, read_limited
from federation.identity import Peer, Role, load_certificate, peer_of
from federation.limits import LIMITS
from federation.logs import tell
from federation.manifest import SignedManifest, accept_manifest, load_manifest
from federation.member_logs import log_origin
from federation.memory import keep_freed_memory
from federation.metrics import CountedLog, StatusServer
from federation.passport import Predicate, issue
from federation.renewal import certificate_of
from federation.run import SignedRun, verify_signed_run
from federation.statistics.document import asks_for_statistics, load_statistics
from federation.tls import enrolment_context, load_identity, server_context, trust_also
from policies.errors import PolicyError


class Coordinator:
    """One coordinator, from its home directory; beside an authority it also enrols and renews on line."""

    def __init__(
        self,
        home: Home,
        listen: str | None = None,
        authority: Authority | None = None,
        enrolment: str | None = None,
        metrics: str | None = None,
    ) -> None:
        keep_freed_memory()
        allow_many_connections()
        self._home = home
        identity = home.identity()
        if identity.role is not Role.COORDINATOR:
            raise IdentityError(
                f"{home.path} is the home of the {identity.role} {identity.name}, expected a coordinator"
            )
        home.private_key()
        self._peer = identity
        self._known_manifest: tuple[tuple[int, int], SignedManifest] | None = None
        self._authority = authority
        if authority is not None:
            authority.check_key()
            self._check_same_federation(authority)
            # The one in the home may be of an issuing authority that has expired meanwhile.
            newest = authority.manifest()
            accept_manifest(home, newest.document.text, newest.signature)
        member = self._manifest().federation.member(identity.name)
        if not (listen or member.addresses):
            raise UsageError(f"the manifest has no address for {identity.name}", advice="give --listen host:port")
        self._host, self._port = split_address(listen or member.addresses[0])
        self._enrolment = split_address(enrolment) if enrolment else None
        self._context = self._server_context()
        origin, log_key = log_origin(identity.federation, identity.role, identity.name), log_keys.load_key(home.log_key)
        self._log = CountedLog.open(home.audit, origin=origin, key=log_key, clock=utc_now)
        self._heartbeat = Heartbeat(self._log, identity.uri)
        self._upkeep = Upkeep(self._log, identity.uri)
        self._witnessing = Witnessing(
            self._log,
            Witness(home.audit / "witness", origin, log_key, utc_now),
            RollbackGuard(self._log, identity.uri),
            lambda: self._manifest().federation,
            self._record,
        )
        self._superlink = SuperLink(ManifestNews(self._manifest))
        self._runs = Runs(self._new_run, self._resumed_run)
        self._runs.know(recorded_runs(home.runs))
        self._asides = Asides(self._superlink, self._witnessing, self._runs.is_idle, self._runs.hold)
        self._cosigning = IdleCosigning(self._asides, self._superlink.online, self._runs.is_idle, tell)
        self._renewal = Renewal(authority, self._identity_decision)
        self._refusals = RefusalBudget(on_suppressed=self._refusals_suppressed)
        self._identities = Identities(self._manifest, home.path / "certificates.json", self._certificate_seen)
        self._gateway = Gateway(
            self._identities,
            self._superlink,
            Control(
                self._runs,
                self._superlink,
                self._members,
                Releases(self._asides, self._superlink.online, self._manifest, self._log),
                self._not_own,
                self._manifest,
            ),
            Evidence(home.audit),
            self._renewal,
            self._connection_refused,
        )
        self._gateway.undecided = self._request_undecided
        self._metrics = CoordinatorMetrics(
            home, self._log, self._connected_silos, lambda: (run.state for run in self._runs.executed())
        )
        self._status = (
            StatusServer(metrics, self._metrics.registry, self._metrics.unhealthy, self._metrics.not_ready)
            if metrics
            else None
        )

    def serve(self, on_ready: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; every stop is recorded.

        Raises UsageError where the port is taken, and ConcordatError where the log can be written no more.
        """
        place = f"{self._host}:{self._port}"
        listeners: list[Listener] = [
            (_listen(self._host, self._port), self._metrics.around(unless_unrecorded(self._gateway)), self._context)
        ]
        detail: dict[str, str | int | bool] = {"version": __version__, "address": place}
        contexts = [self._context]
        reactions = Reactions(self._manifest_changed, lambda: self._reload(contexts), self._refusals.settle)
        watch = Watch(self._home, self._authority, self._manifest, reactions)
        self._renewal.granted = watch.take_over
        if self._enrolment is not None and self._authority is not None:
            strangers = enrolment_context(self._home.certificate, self._home.key)
            contexts.append(strangers)
            interface = Enrolment(self._authority, self._identity_decision, watch.take_over)
            listeners.append((_listen(*self._enrolment), unless_unrecorded(interface), strangers))
            detail["enrolment"] = "{}:{}".format(*self._enrolment)
        self._record("coordinator.start", detail=detail)
        server = Server(
            listeners, self._handshake_refused, lambda: on_ready(place), self._stop, self._identities.name_of
        )
        failures: list[AuditError] = []

        def end_for(error: AuditError) -> None:
            failures.append(error)
            server.should_exit = True

        self._log.failed = end_for
        if threading.current_thread() is threading.main_thread():
            # Uvicorn raises the signal that stopped it once more; unhandled, it would end us with the stop unrecorded.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        watch.start()
        self._heartbeat.start()
        self._upkeep.start()
        self._take_up()
        self._cosigning.start()
        try:
            server.run(sockets=[listener for listener, _, _ in listeners])
        finally:
            if self._status is not None:
                self._status.close()
            watch.stop()
            self._cosigning.stop()
            self._runs.suspend()
            self._heartbeat.stop()
            self._upkeep.stop()
            self._end(failures)

    def _end(self, failures: Sequence[AuditError]) -> None:
        """Record the stop and close the log; raises ConcordatError where the log failed before."""
        try:
            if failures:
                raise ConcordatError(f"the coordinator stops, because it cannot record what it decides: {failures[0]}")
            self._record("coordinator.stop")
        finally:
            self._log.close()

    # -- who belongs

    def _manifest_changed(self, before: SignedManifest, newest: SignedManifest) -> None:
        """Record a new manifest, cut off and leave out whoever no longer belongs."""
        names = {member.name for member in before.federation.members}
        gone = names - {member.name for member in newest.federation.members}
        for authority in newest.federation.authorities:
            # Lets handshakes come to their end; who is let in is decided request by request.
            trust_also(self._context, authority.certificate)
        retired = {one.generation for one in newest.federation.former_issuers if one.retired is not None}
        self._record(
            "manifest.accept",
            detail={
                "version": newest.version,
                "gone": ",".join(sorted(gone)),
                "issuer": newest.edition[0],
                "issuers_retired": ",".join(map(str, sorted(retired))),
            },
        )
        self._gateway.recheck(self._connection_cut)
        for name in sorted(gone):
            self._runs.exclude(name)

    def _reload(self, contexts: list[ssl.SSLContext]) -> None:
        """Serve new connections with the certificate that now lies in the home."""
        self._home.private_key()
        for context in contexts:
            load_identity(context, self._home.certificate, self._home.key)
        certificate = certificate_of(self._home)
        self._record(
            "certificate.loaded",
            detail={"serial": certificate.serial, "expires": certificate.expires.isoformat(timespec="seconds")},
        )

    def _server_context(self) -> ssl.SSLContext:
        others = [authority.certificate for authority in self._manifest().federation.authorities]
        return server_context(self._home.certificate, self._home.key, self._home.authority, others)

    def _check_same_federation(self, authority: Authority) -> None:
        root = read_limited(self._home.authority, LIMITS.certificate)
        if load_certificate(read_limited(authority.certificate, LIMITS.certificate)) != load_certificate(root):
            raise UsageError(f"{authority.path} is the authority of another federation than {self._home.path}")

    def _stop(self) -> None:
        self._gateway.close()
        threading.Thread(target=self._runs.suspend, daemon=True).start()

    def _new_run(self, signed: SignedRun, app: bytes, operator: Peer) -> Execution:
        signer = verify_signed_run(signed, self._manifest())
        if signer.name != operator.name:
            raise IdentityError(f"the run is signed by {signer.name}, expected {operator.name}, who submits it")
        self._witnessing.require_clear()
        surveys = asks_for_statistics(signed)
        model = load_statistics(signed.text).model if surveys else signed.document().model
        require_new(signed.submission, model.silos, self._manifest().federation, utc_now())
        # Made from what was signed, so that no two runs have one id, and no run has two.
        run_id = f"{model.metadata.name}-{signed.digest.removeprefix('sha256:')[:12]}"
        directory = self._home.runs / run_id
        try:
            directory.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise SubmissionError(
                f"what was signed was submitted before, as {run_id}",
                advice="submit the run again, which signs it anew",
            ) from None
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
                detail={"digest": signed.digest, "app": signed.app_digest, "purpose": model.purpose},
            )
        )
        return self._executor(directory, signed, app)

    def _take_up(self) -> None:
        """Go on with the run that an earlier process was interrupted in; what cannot go on ends with the reason."""
        unfinished = [run for run in recorded_runs(self._home.runs) if run.state == INTERRUPTED]
        for run in unfinished[:-1]:
            self._fail(run, "a later run was taken up in its place")
        for run in unfinished[-1:]:
            try:
                executor = attempt(partial(self._taken_up, run), _undecided, *FORESEEN, OSError)
            except (ConcordatError, PolicyError, OSError) as error:
                self._fail(run, str(error))
            else:
                self._runs.take_up(executor)

    def _fail(self, run: RecordedRun, problem: str) -> None:
        problem = f"the run cannot be taken up: {problem}"
        self._log.append(
            Event(
                actor=self._peer.uri,
                action="run.end",
                resource=f"run/{run.run_id}",
                reason=problem[:2000],
                run=run.run_id,
                detail={"outcome": "failed"},
            )
        )
        try:
            run.fail(problem[:2000])
        except OSError as error:
            tell(f"{problem}; its events do not say so: {error.strerror}")

    def _resumed_run(self, run: RecordedRun, operator: Peer) -> Execution:
        """A run that failed or was stopped, to go on by the wish of the operator who submitted it."""
        signed, _ = read_submission(run.directory)
        signer = verify_signed_run(signed, self._manifest())
        if signer.name != operator.name:
            raise IdentityError(f"the run is signed by {signer.name}, expected {operator.name}, who resumes it")
        self._witnessing.require_clear()
        self._log.append(
            Event(
                actor=operator.uri,
                action="run.resume",
                resource=f"run/{run.run_id}",
                decision="allow",
                rule="control.operator",
                reason="the run is signed by the operator who resumes it",
                run=run.run_id,
                detail={"digest": signed.digest, "app": signed.app_digest},
            )
        )
        return self._taken_up(run)

    def _taken_up(self, run: RecordedRun) -> Execution:
        """A run to go on from its last closed round; raises ConcordatError where it cannot."""
        signed, app = read_submission(run.directory)
        verify_signed_run(signed, self._manifest())
        logged = read_logged(self._home.audit, run.run_id)
        if not logged.submitted:
            raise RunFailedError("the log does not say that it was submitted")
        executor = self._executor(run.directory, signed, app, logged)
        executor.take_up()
        return executor

    def _executor(self, directory: Path, signed: SignedRun, app: bytes, logged: Logged | None = None) -> Execution:
        name, manifest = directory.name, self._manifest
        ours = (self._superlink, self._log, self._peer.uri, self._witnessing, logged)
        run: Execution
        if asks_for_statistics(signed):
            run = Survey(name, directory, signed, manifest, *ours)
        else:
            operator = peer_of(load_certificate(signed.operator_certificate)).name
            run = Executor(name, directory, signed, app, manifest, *ours, seal=self._seal, operator=operator)
        run.events.observe(self._metrics.happened)
        return run

    def _seal(self, model: str, predicate: Predicate) -> bytes:
        """A model's passport, signed with the key and certificate that are in the home now."""
        certificate = read_limited(self._home.certificate, LIMITS.certificate)
        return issue(model, predicate, self._home.private_key(), certificate)

    def _manifest(self) -> SignedManifest:
        """The manifest on disk, so that a member enrolled meanwhile is known without a restart."""
        status = self._home.manifest.stat()
        edition = (status.st_mtime_ns, status.st_ino)
        known = self._known_manifest
        if known is None or known[0] != edition:
            known = (edition, load_manifest(self._home))
            self._known_manifest = known
        return known[1]

    def _members(self) -> list[dict[str, Any]]:
        return [
            {"name": m.name, "role": m.role.value, "country": m.country} for m in self._manifest().federation.members
        ]

    def _connected_silos(self) -> dict[str, bool]:
        online = self._superlink.online()
        return {m.name: m.name in online for m in self._manifest().federation.with_role(Role.SILO)}

    # -- the log

    def _connection_refused(self, peer: Peer | None, path: str, reason: str) -> None:
        self._metrics.turned_away()
        if self._refusals.take():
            self._deny(peer, "connection.refused", path[:200], "gateway.identity", reason)

    def _not_own(self, peer: Peer, run_id: str, reason: str) -> None:
        if self._refusals.take():
            self._deny(peer, "run.access", f"run/{run_id}", rule="control.owner", reason=reason)

    def _request_undecided(self, peer: Peer | None, path: str, reason: str) -> None:
        if self._refusals.take():
            self._deny(peer, "request.refused", path[:200], rule="evaluation-error", reason=reason)

    def _handshake_refused(self, reason: str) -> None:
        """Called on the event loop, which is not to wait for the disk."""
        self._metrics.turned_away()
        if self._refusals.take():
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._deny_aside, None, "connection.refused", "gateway.tls", reason)

    def _connection_cut(self, peer: Peer | None, reason: str) -> None:
        self._deny_aside(peer, "connection.cut", "gateway.identity", reason)

    def _deny_aside(self, peer: Peer | None, action: str, rule: str, reason: str) -> None:
        """Record a refusal that nobody waits for; where the log fails, that ends the process by itself."""
        with contextlib.suppress(AuditError):
            self._deny(peer, action, "tls", rule, reason)

    def _deny(self, peer: Peer | None, action: str, resource: str, rule: str, reason: str) -> None:
        actor = peer.uri if peer else "unidentified"
        self._log.append(
            Event(actor=actor, action=action, resource=resource, decision="deny", rule=rule, reason=reason[:2000])
        )

    def _refusals_suppressed(self, count: int) -> None:
        self._record("connection.refused.more", detail={"count": count})

    def _certificate_seen(self, peer: Peer, detail: dict[str, str | int | bool]) -> None:
        resource = f"member/{peer.name}"
        self._log.append(Event(actor=peer.uri, action="certificate.first_use", resource=resource, detail=detail))

    def _identity_decision(
        self, actor: str, decision: str, rule: str, reason: str, detail: dict[str, str | int | bool]
    ) -> None:
        if decision == "deny" and not self._refusals.take():
            return
        self._log.append(
            Event(
                actor=actor,
                action=f"certificate.{'renew' if rule.startswith('renewal') else 'enrol'}",
                resource=f"federation/{self._peer.federation}",
                decision="allow" if decision == "allow" else "deny",
                rule=rule,
                reason=reason[:2000],
                detail=detail,
            )
        )

    def _record(
        self,
        action: str,
        detail: dict[str, str | int | bool] | None = None,
        *,
        decision: Decision = "record",
        rule: str | None = None,
        reason: str | None = None,
    ) -> None:
        self._log.append(
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"home/{self._peer.name}",
                decision=decision,
                rule=rule,
                reason=reason,
                detail=detail or {},
            )
        )


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


def _undecided(problem: str) -> Execution:
    raise RunFailedError(problem)


def prepare_home(path: Path) -> Home:
    """The home at a path, which must exist; raises UsageError."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory", advice="enrol first: concordat federation request --help")
    return Home(path)


def allow_many_connections() -> None:
    """Raise this process's own limit of open files to what the system allows it."""
    _, hard = limits_of_process.getrlimit(limits_of_process.RLIMIT_NOFILE)
    limits_of_process.setrlimit(limits_of_process.RLIMIT_NOFILE, (hard, hard))
