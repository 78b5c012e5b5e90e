"""The gate's process: confines itself, connects, waits for messages and has them handled until told to stop."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path

from audit import keys as log_keys
from audit.entry import Decision, Event
from audit.errors import AuditError
from audit.heartbeat import Heartbeat
from audit.log import utc_now
from audit.rollback import RollbackGuard
from audit.upkeep import Upkeep
from audit.witness import Witness
from federation import __version__
from federation.errors import ConcordatError, IdentityError, ManifestError, UnreachableError, WireError
from federation.faults import attempt
from federation.home import Home, read_limited
from federation.identity import Role, load_certificate
from federation.limits import LIMITS
from federation.manifest import load_manifest
from federation.member_logs import log_origin
from federation.memory import keep_freed_memory
from federation.metrics import CountedLog, StatusServer
from federation.receipts import sign_receipt
from federation.signed_policy import load_public_key
from policies.bundle import BundleError, check_succession, version_of
from policies.document import Document
from policies.model import SiloPolicy
from silo.config import SiloConfig, load_silo_config
from silo.confinement import SYSTEM_CONFIGURATION, confine_files, runtime_paths
from silo.gate.active_policy import remember, remembered
from silo.gate.facts import Approvals, LogFacts
from silo.gate.fleet import FleetConnection, FleetNode, FleetRefusedError
from silo.gate.handler import STOPS, Handler
from silo.gate.history import history_of, read_entries
from silo.gate.ledger import LEDGER, Ledger
from silo.gate.metrics import GateMetrics
from silo.gate.own_identity import OwnIdentity
from silo.gate.parts import Membership, Parts
from silo.gate.place import REGION_VARIABLE, check_place
from silo.gate.policy_file import PolicyFile
from silo.gate.replies import REPLIES, Replies
from silo.gate.retention import declare_retention
from silo.gate.spending import epsilon_left
from silo.gate.witnessing import Witnessing
from silo.gate.worker_link import WorkerLink

POLICY_SECONDS = 1.0
"""How often the policy's file is looked at while nothing else happens; it is looked at before each decision too."""
RENEWAL_CHECK_SECONDS = 1.0
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Gate:
    """One silo's gate, from its home and its configuration."""

    def __init__(self, home: Home, config_path: Path) -> None:
        keep_freed_memory()
        config = load_silo_config(config_path)
        identity = home.identity()
        if identity.role is not Role.SILO:
            raise IdentityError(f"{home.path} is the home of the {identity.role} {identity.name}, expected a silo")
        home.private_key()
        manifest = load_manifest(home)
        country = manifest.federation.member(identity.name).country
        signer = load_public_key(config.policy_signer) if config.policy_signer else None
        policy_file = PolicyFile(config.policy, signer, lambda: country)
        self._policy = policy_file.first()
        self._place = check_place(config.place, os.environ.get(REGION_VARIABLE, ""), self._policy)
        approvals = _approvals(config)
        coordinator = manifest.federation.coordinator
        if not coordinator.addresses:
            raise ManifestError(f"the manifest has no address for {coordinator.name}")
        self._peer = identity
        self._identity = OwnIdentity(home, coordinator.addresses[0])
        self._address = coordinator.addresses[0]
        # The keys are read; from here on this process sees its home, the Python runtime, and what people may change
        # while it runs: the directories of the policy and of the approvals.
        readable, writable = _channel_paths(config)
        changing = [config.policy.parent, *([approvals.directory] if approvals else [])]
        self._confinement = confine_files(
            [*runtime_paths(), SYSTEM_CONFIGURATION, *changing, *readable], [home.path, *writable]
        )
        origin, log_key = log_origin(identity.federation, identity.role, identity.name), log_keys.load_key(home.log_key)
        self._log = CountedLog.open(home.audit, origin=origin, key=log_key, clock=utc_now)
        self._heartbeat = Heartbeat(self._log, identity.uri)
        self._upkeep = Upkeep(self._log, identity.uri)
        witnessing = Witnessing(
            self._log,
            Witness(home.audit / "witness", origin, log_key, utc_now),
            RollbackGuard(self._log, identity.uri),
            manifest.federation,
            self._record,
        )
        verified = utc_now()  # opening a log verifies it from its first entry
        history = history_of(read_entries(home.audit))
        self._last = history.active or remembered(home.audit)
        self._active: Callable[[], Document[SiloPolicy]] = lambda: self._policy
        try:
            check_succession(self._last, self._policy)
        except BundleError as error:
            self._record("policy.rejected", reason=str(error)[:2000])
            self._log.close()
            raise
        self._ledger = Ledger(home.path / LEDGER)
        self._link = WorkerLink(config.socket or config.listen, config.worker_uid)  # type: ignore[arg-type]
        self._metrics = GateMetrics(home, self._log, self._link)
        self._identity.exchanged = self._metrics.exchanged
        self._node = FleetNode(*self._identity.present())
        self._handler = Handler(
            Parts(
                identity,
                self._policy,
                self._log,
                self._link,
                self._node,
                self._identity.accept_manifest,
                witnessing,
                partial(sign_receipt, log_key),
                certificate=lambda: load_certificate(read_limited(home.certificate, LIMITS.certificate)),
                policy_file=policy_file,
                history=history,
                approvals=approvals,
                log_facts=LogFacts(home.audit, verified, lambda: _cosigners(witnessing), witnessing.clock_skew),
                observe=frozenset(config.observe),
                ledger=self._ledger,
                replies=Replies(home.path / REPLIES),
                membership=Membership(self._identity.signer, self._identity.manifest),
            )
        )
        self._active = lambda: self._handler.policy
        self._metrics.watch(
            lambda: _witness_age(witnessing), lambda: epsilon_left(self._ledger, self._active(), utc_now())
        )
        self._stopping = threading.Event()
        self._failed = 0
        """How often the coordinator was lost or refused since a pull had its answer."""
        self._presenting = threading.Lock()
        self._status = (
            StatusServer(config.metrics, self._metrics.registry, self._metrics.unhealthy, self._metrics.not_ready)
            if config.metrics
            else None
        )

    def serve(self, say: Callable[[str], None]) -> None:
        """Serve until SIGINT or SIGTERM; every start, stop and loss of connection is recorded."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        # Whichever thread finds that nothing more can be recorded: a gate that waits for a message is not to wait on.
        self._log.failed = lambda _: self._stop()
        self._record(
            "gate.start",
            {
                "version": __version__,
                "policy_version": self._policy.model.metadata.version,
                "confinement": self._confinement,
                **self._place,
                "ledger": self._ledger.head,
                "ledger_bytes_removed": self._ledger.removed,
            },
        )
        self._heartbeat.start()
        self._upkeep.start()
        version = version_of(self._policy)
        if version != self._last:
            self._record("policy.activate", {"name": version.name, "version": version.version})
        remember(self._log.folder, version)
        declare_retention(self._log, self._policy, self._peer.uri)
        threading.Thread(target=self._announce_workers, daemon=True).start()
        threading.Thread(target=self._watch_policy, args=(say,), daemon=True).start()
        renewal = threading.Thread(target=self._renew_in_time, args=(say,), name="renewal", daemon=True)
        renewal.start()
        try:
            self._connect(say)
            while not self._stopping.is_set():
                self._step(say)
        finally:
            self._stopping.set()
            if self._status is not None:
                self._status.close()
            renewal.join(timeout=2.0)
            self._link.close()
            self._node.close()
            self._heartbeat.stop()
            self._upkeep.stop()
            self._record("gate.stop")
            self._log.close()
            self._ledger.close()

    def _stop(self) -> None:
        self._stopping.set()
        self._link.interrupt()
        self._node.interrupt()

    def _step(self, say: Callable[[str], None]) -> None:
        try:
            self._metrics.waiting()
            self._present_newest(say)
            task = self._node.pull()
            self._failed = 0
            if task is not None:
                self._metrics.working()
                answer = self._handler.handle(task)
                self._present_newest(say)
                self._node.reply(task, answer)
        except FleetRefusedError as error:
            if self._stopping.is_set():
                return
            if error.status == HTTPStatus.GONE:
                self._record("reply.late", reason=str(error)[:2000])
                return
            self._metrics.connected(False)
            self._record("coordinator.refused", {"status": error.status}, reason=str(error)[:2000])
            self._connect_again(say)
        except (UnreachableError, WireError) as error:
            # WireError: what came is no answer of Flower's. The next may be one; a gate that ended would serve nobody.
            if self._stopping.is_set():
                return
            self._metrics.connected(False)
            self._record("coordinator.lost", reason=str(error)[:2000])
            say(f"connection lost: {error}")
            self._connect_again(say)

    def _connect_again(self, say: Callable[[str], None]) -> None:
        """Activate once more, after a while that grows until a pull has its answer: each try is an entry in the log."""
        self._stopping.wait(RETRY_SECONDS[min(self._failed, len(RETRY_SECONDS) - 1)])
        self._failed += 1
        self._connect(say)

    def _connect(self, say: Callable[[str], None]) -> None:
        """Activate at the coordinator, trying again while it does not answer."""
        tried = 0
        while not self._stopping.is_set():
            self._metrics.waiting()
            try:
                self._present_newest(say)
                node_id = self._node.activate()
            except (UnreachableError, FleetRefusedError, WireError) as error:
                if isinstance(error, FleetRefusedError) and not error.is_of_clocks:
                    raise
                if tried == 0:
                    say(f"waiting for the coordinator: {error}")
                self._stopping.wait(RETRY_SECONDS[min(tried, len(RETRY_SECONDS) - 1)])
                tried += 1
                continue
            self._metrics.connected(True)
            self._record("coordinator.connected", {"address": self._address, "flower_node": str(node_id)})
            say(f"connected to {self._address}")
            return

    def _renew_in_time(self, say: Callable[[str], None]) -> None:
        """Renew the certificate where that is due, also while a task takes longer than the certificate lives."""

        def unseen(problem: str) -> None:
            say(f"the home was not looked at: {problem}")

        while not self._stopping.wait(RENEWAL_CHECK_SECONDS):
            problem = self._identity.renew_if_due()
            try:
                if problem is not None:
                    say(f"the certificate could not be renewed: {problem}")
                    self._record("certificate.renewal.failed", reason=problem[:2000])
                attempt(partial(self._present_newest, say), unseen, AuditError)
            except AuditError:
                return  # what is decided next cannot be recorded either, which ends the gate

    def _present_newest(self, say: Callable[[str], None]) -> None:
        """Go on with the certificate that lies in the home, where it is a newer one than that in use.

        Called between two tasks and, by another thread, while one is worked on.
        """
        with self._presenting:
            if not self._identity.has_changed():
                return
            try:
                self._node.try_use(lambda: self._presented(say))
            except IdentityError as error:
                # An institution's own tool may write the certificate before its key: the next look finds both.
                say(f"the certificate in the home cannot be used yet: {error}")

    def _presented(self, say: Callable[[str], None]) -> tuple[Callable[[], FleetConnection], bytes]:
        connection = self._identity.present()
        certificate = self._identity.certificate
        expires = certificate.expires.isoformat(timespec="seconds")
        self._record("certificate.loaded", {"serial": certificate.serial, "expires": expires})
        say(f"going on with certificate {certificate.serial[:16]}, valid until {expires}")
        return connection

    def _announce_workers(self) -> None:
        """Record each worker that connects, with what it says of its separation from the network."""
        seen = 0
        while not self._stopping.is_set():
            hello, seen = self._link.next_hello(seen)
            if hello is not None and not self._stopping.is_set():
                detail = {
                    name: str(hello.get(name, ""))[:500]
                    for name in ("network", "files", "processes", "interfaces", "version")
                }
                try:
                    self._record("worker.connected", detail)
                except (ConcordatError, AuditError):
                    return  # the gate stops, and says why

    def _watch_policy(self, say: Callable[[str], None]) -> None:
        """Have the handler look for a newer policy, also while it waits for a message or for the worker."""
        while not self._stopping.wait(POLICY_SECONDS):
            try:
                attempt(
                    self._handler.reload,
                    lambda problem: say(f"the policy's file was not looked at: {problem}"),
                    *STOPS,
                )
            except AuditError as error:
                say(f"the log cannot be written, the gate stops: {error}")
                self._stop()

    def _record(
        self,
        action: str,
        detail: Mapping[str, str | int | bool] | None = None,
        reason: str | None = None,
        *,
        decision: Decision = "record",
        rule: str | None = None,
    ) -> None:
        self._log.append(
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"silo/{self._peer.name}",
                decision=decision,
                rule=rule,
                policy=self._active().digest,
                reason=reason,
                detail=detail or {},
            )
        )


def _approvals(config: SiloConfig) -> Approvals | None:
    """Where reviewers' approvals lie, with the reviewers' keys; None where the configuration names none."""
    if config.approvals is None:
        return None
    keys = {name: load_public_key(path) for name, path in config.approvals.reviewers.items()}
    directory = config.approvals.directory
    try:
        # What is made after the gate confined itself it would never see.
        if not directory.is_dir():
            directory.mkdir(parents=True)
    except OSError as error:
        raise IdentityError(
            f"the directory of the approvals, {directory}, cannot be made: {error.strerror}",
            advice="make it, readable for the gate, and start the gate again",
        ) from None
    return Approvals(directory, keys)


def _witness_age(witnessing: Witnessing) -> float:
    """Seconds since another party last cosigned the silo's log; not a number before one did."""
    found = witnessing.cosigned()
    return math.nan if found is None else found.age(utc_now().timestamp())


def _cosigners(witnessing: Witnessing) -> int | None:
    """How many members cosigned the newest checkpoint of the silo's log that came back; None before the first."""
    found = witnessing.cosigned()
    return None if found is None else len(found.witnesses)


def _channel_paths(config: SiloConfig) -> tuple[list[Path], list[Path]]:
    """What the worker's way to this gate needs to be open: directories to read, and to write in."""
    if config.socket is not None:
        config.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return [], [config.socket.parent]
    assert config.listen is not None  # noqa: S101  the configuration names one of the two
    return [path.parent for path in (config.listen.certificate, config.listen.key, config.listen.authority)], []
