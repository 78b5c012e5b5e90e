"""Both neighbours of a gate's handler: a coordinator's side that serves envelopes, a worker's side over the socket."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from audit import keys as log_keys
from audit.entry import Event
from audit.log import AuditLog, utc_now
from audit.rollback import RollbackGuard
from audit.verify import verify
from audit.witness import Witness
from coordinator.authority import Authority
from coordinator.witnessing import Witnessing as HubWitnessing
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role
from federation.manifest import SignedManifest, accept_manifest
from federation.member_logs import log_origin
from federation.receipts import (
    RECEIPT,
    RECEIPTS,
    SILENT,
    Shown,
    beginning,
    element,
    extended,
    sign_receipt,
    step_of,
)
from federation.run import SignedRun, app_digest, load_run, sign_run
from federation.statistics.document import load_statistics
from federation.statistics.normalization import normalization_digest
from federation.submission import DEFAULT_VALIDITY
from federation.wire import EVIDENCE, Envelope, Kind, Weights, weights_digest
from policies.errors import PolicyError
from silo.channel import ChannelError, Frame, payload_of, receive, send
from silo.gate.fleet import Task
from silo.gate.handler import Handler, Parts
from silo.gate.history import History
from silo.gate.ledger import Ledger
from silo.gate.policy_file import PolicyFile
from silo.gate.witnessing import Witnessing
from silo.gate.worker_link import WorkerLink

SILO = "hospital-a"
APP = b"the app bundle, which a gate hands on unopened"
INITIAL: Weights = np.array([0.5, -0.5, 1.0, 2.0], dtype=np.float32)
FINAL = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
METRICS = {"loss": 0.7, "auc": 0.8, "num_examples": 140.0}
SECONDS = 20.0
FLOWER_RUN = 7
NO_LINK = "sha256:" + "0" * 64
"""The link of a step that no test asked for."""
MANY_STEPS = 100

POLICY = f"""\
apiVersion: concordat/v1
kind: SiloPolicy
metadata: {{name: hospital-a, version: 1, owner: dpo@hospital-a.example, effective: 2020-01-01}}
residency:
  silo: DE
  destinations:
    model_update: {{countries: [EU], basis: gdpr-art-9-2-j}}
    metrics: {{countries: [EU], basis: gdpr-art-9-2-j}}
purposes: {{vocabulary: duo, allow: [HMB], legal_basis: [gdpr-art-9-2-j]}}
datasets:
  heart:
    columns: {{allow: [age, sex, sick]}}
    rows: {{minimum: 50}}
apps:
  approvals: required
  allow: [{{digest: "{app_digest(APP)}"}}]
runs: {{max_rounds: 10}}
egress:
  metrics: {{allow: [loss, auc, num_examples], minimum_count: 20}}
  update: {{max_norm: 10.0, max_bytes: 1MiB}}
"""

RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: sick-or-not}
purpose: HMB
dataset: heart
features: [age, sex]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {mu: 0.1, rounds: 3}
metrics: [loss, auc, num_examples]
"""


@dataclass
class Consortium:
    """A federation on disk: its authority, its members' homes, and every edition of its manifest."""

    authority: Authority
    homes: dict[str, Home]
    editions: list[SignedManifest]

    @property
    def manifest(self) -> SignedManifest:
        return self.editions[-1]

    def sign(
        self,
        text: str = RUN,
        app: bytes = APP,
        member: str = "operator",
        silos: Sequence[str] | None = None,
        validity: timedelta = DEFAULT_VALIDITY,
        now: datetime | None = None,
    ) -> SignedRun:
        """A new submission, to the silos that the text names unless others are given."""
        home = self.homes[member]
        names = self.silos_of(text) if silos is None else silos
        return sign_run(text, app, home.private_key(), home.certificate.read_bytes(), names, validity, now)

    def silos_of(self, text: str) -> list[str]:
        """The silos that a run or a question for statistics is for: all where it cannot be read."""
        try:
            chosen = (load_statistics if "kind: Statistics" in text else load_run)(text).model.silos
        except PolicyError:
            chosen = "all"
        every = [member.name for member in self.manifest.federation.with_role(Role.SILO)]
        return every if chosen == "all" else list(chosen)


def found_consortium(directory: Path, others: Sequence[str] = ("hospital-b",)) -> Consortium:
    """Found a federation of a coordinator, an operator, the silo under test and others."""
    authority = Authority(directory / "authority")
    editions = [authority.found("heart.example")]
    homes: dict[str, Home] = {}
    for name, role, country in (
        ("coordinator", Role.COORDINATOR, "DE"),
        ("operator", Role.OPERATOR, "DE"),
        *((other, Role.SILO, "FR") for other in others),
        (SILO, Role.SILO, "DE"),
    ):
        home = homes[name] = Home(directory / name)
        addresses = ("127.0.0.1:1",) if role is Role.COORDINATOR else ()
        request_enrolment(home, "heart.example", name, role, country, addresses)
        certificate, manifest = authority.enrol(parse_request(home.request.read_bytes()))
        editions.append(manifest)
        join(home, json.dumps(authority.bundle(certificate)).encode())
    return Consortium(authority, homes, editions)


def open_log(home: Home, directory: Path) -> AuditLog:
    """A member's log in a directory of the test's own."""
    peer = home.identity()
    origin = log_origin(peer.federation, peer.role, peer.name)
    return AuditLog.open(directory, origin=origin, key=log_keys.load_key(home.log_key))


class FakeNode:
    """Stands where the Fleet connection is: serves envelopes and app bundles, and notes what was fetched."""

    def __init__(self) -> None:
        self.envelopes: dict[str, Envelope] = {}
        self.apps: dict[str, bytes] = {app_digest(APP).removeprefix("sha256:"): APP}
        self.fetched_apps: list[str] = []

    def fetch(self, task: Task) -> Envelope:
        return self.envelopes[task.message_id]

    def fetch_app(self, run_id: int, digest: str) -> bytes:
        self.fetched_apps.append(digest)
        return self.apps[digest]


Answer = Callable[[Frame], Frame | None]


class PlayedWorker:
    """A thread that plays the worker over the socket; an answer of None closes the connection instead."""

    def __init__(self, path: Path, on_frame: Callable[[Frame], None] = lambda frame: None, **answers: Answer) -> None:
        self.frames: list[Frame] = []
        self.ended = threading.Event()
        self.failure: Exception | None = None
        self._on_frame = on_frame
        self._answers: dict[str, Answer] = {
            "prepare": lambda frame: prepared(),
            "initial": lambda frame: Frame("initial", {}, payload_of(INITIAL)),
            "train": lambda frame: trained(frame.weights() + np.float32(1)),
            "evaluate": lambda frame: Frame("evaluated", {"metrics": METRICS}),
            **answers,
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(str(path))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def asked(self) -> list[str]:
        return [frame.op for frame in self.frames]

    def close(self) -> None:
        self._connection.close()

    def _serve(self) -> None:
        try:
            send(self._connection, Frame("hello", {"network": "simulated"}))
            while True:
                frame = receive(self._connection)
                self.frames.append(frame)
                self._on_frame(frame)
                answer = self._answers[frame.op](frame)
                if answer is None:
                    return
                send(self._connection, answer)
        except ChannelError:
            pass
        except Exception as error:  # noqa: BLE001  the test's thread has to see it
            self.failure = error
        finally:
            self._connection.close()
            self.ended.set()


def prepared(**changes: object) -> Frame:
    """A worker's account of a view of 200 rows and a model of four values."""
    fields: dict[str, Any] = {
        "rows": 200,
        "examples": 140,
        "validation": 60,
        "dropped": 3,
        "view_digest": "sha256:" + "a" * 64,
        "shapes": '[{"name": "dense", "shape": [4]}]',
        "values": 4,
        "initial_digest": weights_digest(INITIAL),
        **changes,
    }
    return Frame("prepared", {name: value for name, value in fields.items() if value is not None})


def trained(weights: Weights, **changes: object) -> Frame:
    """A worker's answer to a round."""
    return Frame(
        "trained", {"examples": 140, "metrics": METRICS, "steps": 5, "planned": 5, **changes}, payload_of(weights)
    )


@dataclass(frozen=True)
class LogState:
    """What a log held, as its verifier and a reader of its files find it."""

    entries: list[dict[str, Any]]

    @property
    def actions(self) -> list[str]:
        return [entry["action"] for entry in self.entries]


@dataclass
class GateBench:
    """A handler with a real policy, audit log and worker link, between two simulated neighbours."""

    consortium: Consortium
    directory: Path
    seen_by_worker: list[tuple[str, LogState]] = field(default_factory=list)
    ledger: Ledger | None = None

    def __post_init__(self) -> None:
        home = self.consortium.homes[SILO]
        self.peer = home.identity()
        self.audit = self.directory / "audit"
        self.log = open_log(home, self.audit)
        self.guard = RollbackGuard(self.log, self.peer.uri)
        self.witnessing = self.make_witnessing()
        self.hub_log = open_log(self.consortium.homes["coordinator"], self.directory / "hub-audit")
        self.hub_log.append(Event("coordinator", "coordinator.start", "home/coordinator"))
        self.hub = self.make_hub(self.hub_log)
        self.socket = self.directory / "worker.sock"
        self.link = WorkerLink(self.socket)
        self.node = FakeNode()
        self.workers: list[PlayedWorker] = []
        self.run = "run-1"
        self.submitted: dict[tuple[str, str, bytes], SignedRun] = {}
        self.receipt: Any = None
        self.links: dict[int, str] = {}
        self.published: dict[int, str] = {}
        self.lost: set[str] = set()
        self.policy_path = self.directory / "policy.yaml"
        self.said: list[str] = []
        self.history = History()
        self.serve_policy(POLICY)
        self.signed = self.consortium.sign()
        self._messages = 0

    def serve_policy(self, text: str, **parts: Any) -> None:
        """Start over with a handler that serves this policy from its file."""
        self.policy_path.write_text(text)
        self.policy_file = PolicyFile(self.policy_path)
        self.policy = self.policy_file.first()
        self.handler = self.make_handler(**parts)

    def make_witnessing(self) -> Witnessing:
        key = log_keys.load_key(self.consortium.homes[SILO].log_key)

        def record(action: str, **fields: Any) -> None:
            self.log.append(Event(self.peer.uri, action, f"silo/{SILO}", **fields))

        return Witnessing(
            self.log,
            Witness(self.audit / "witness", self.log.origin, key, utc_now),
            self.guard,
            self.consortium.manifest.federation,
            record,
        )

    def make_hub(self, log: AuditLog) -> HubWitnessing:
        """A coordinator's side of the evidence over a log of that key, such as a second one that it hides."""
        key = log_keys.load_key(self.consortium.homes["coordinator"].log_key)

        def record(action: str, **fields: Any) -> None:
            log.append(Event("coordinator", action, "home/coordinator", **fields))

        return HubWitnessing(
            log,
            Witness(log.folder / "witness", log.origin, key, utc_now),
            RollbackGuard(log, "coordinator"),
            lambda: self.consortium.manifest.federation,
            record,
        )

    def evidence(self, kind: str, envelope: Envelope, hub: HubWitnessing | None = None) -> str:
        """What an honest coordinator says of its log with a message: it publishes the model that it sends."""
        hub, number, digest = hub or self.hub, envelope.config.get("round"), envelope.config.get("digest")
        action = {Kind.TRAIN: "round.begin", Kind.EVALUATE: "evaluation.begin"}.get(kind)
        event = None
        if action is not None and type(number) is int and 0 <= number < 2**50:
            norm = envelope.config.get("clip_norm")
            detail = {"model": str(digest), **({} if norm is None else {"clip_norm": repr(norm)})}
            if "normalization" in envelope.config:
                detail["normalization"] = normalization_digest(str(envelope.config["normalization"]))
            if "folded" in envelope.config:
                detail["folded"] = str(envelope.config["folded"])
            step = step_of(action, number)
            said = {name: value for name, value in detail.items() if name != "model"}
            self.published = {step: element(action, number, str(digest), said)}
            if step > 1:
                detail[SILENT] = self.shown(step).silent(self.silos)
            event = Event("coordinator", action, f"run/{self.run}", run=self.run, round=number, detail=detail)
        return hub.call([SILO], event, everyone=kind in {Kind.ADMIT, Kind.WITNESS, Kind.EVALUATE})

    @property
    def silos(self) -> list[str]:
        """The silos of the run."""
        members = [member.name for member in self.consortium.manifest.federation.with_role(Role.SILO)]
        return [name for name in members if name in self.signed.submission.silos]

    def shown(self, step: int) -> Shown:
        """What an honest coordinator shows before a step: every silo that was not lost took what was published."""
        base = 0 if step <= MANY_STEPS else step - 1
        histories = [beginning(self.run, self.signed.digest)]
        links = tuple(self.links.get(number, NO_LINK) for number in range(base + 1, step))
        for link in links:
            histories.append(extended(histories[-1], link))
        receipts = {}
        if step > 1:
            homes = {name: self.consortium.homes[name] for name in self.silos if name in self.consortium.homes}
            for name, home in homes.items():
                if name not in self.lost:
                    receipts[name] = sign_receipt(log_keys.load_key(home.log_key), step - 1, histories[-1])
        return Shown(base, histories[0], links, receipts)

    def make_handler(self, **parts: Any) -> Handler:
        home = self.consortium.homes[SILO]
        return Handler(
            Parts(
                peer=self.peer,
                policy=self.policy,
                log=self.log,
                link=self.link,
                node=self.node,  # type: ignore[arg-type]
                accept_manifest=lambda text, signature: accept_manifest(home, text, signature),
                witnessing=self.witnessing,
                sign_receipt=partial(sign_receipt, log_keys.load_key(home.log_key)),
                policy_file=self.policy_file,
                history=self.history,
                say=self.said.append,
                **{"ledger": self.ledger, **parts},
            )
        )

    def work(self, **answers: Answer) -> PlayedWorker:
        """Start a worker and wait until the gate has it."""
        _, seen = self.link.next_hello(sys.maxsize, timeout=0)
        worker = PlayedWorker(self.socket, self._look, **answers)
        self.workers.append(worker)
        self.link.next_hello(seen, SECONDS)
        return worker

    def _look(self, frame: Frame) -> None:
        self.seen_by_worker.append((frame.op, self.state()))

    def state(self) -> LogState:
        """Verify the log from outside and read its entries off the disk."""
        report = verify(self.audit, self.log.vkey)
        lines = [line for path in sorted(self.audit.glob("segments/*.jsonl")) for line in path.open()]
        assert len(lines) == report.size
        return LogState([json.loads(line) for line in lines])

    def payload(self, entry: dict[str, Any]) -> Any:
        """What the side store holds of an entry."""
        return json.loads((self.audit / "payloads" / f"{entry['seq']:012d}.json").read_text())["payload"]

    @property
    def last(self) -> dict[str, Any]:
        return self.state().entries[-1]

    def ask(self, kind: str, envelope: Envelope, flower_run: int = FLOWER_RUN) -> Envelope:
        """Hand a message to the handler, as the gate does when one was pulled."""
        self._messages += 1
        message_id = str(self._messages)
        if EVIDENCE not in envelope.config:
            envelope = replace(envelope, config={**envelope.config, EVIDENCE: self.evidence(kind, envelope)})
        number = envelope.config.get("round")
        if kind in {Kind.TRAIN, Kind.EVALUATE} and type(number) is int and RECEIPTS not in envelope.config:
            step = step_of("evaluation.begin" if kind == Kind.EVALUATE else "round.begin", number)
            envelope = replace(envelope, config={**envelope.config, RECEIPTS: self.shown(step).dump()})
        self.node.envelopes[message_id] = envelope
        task = Task(kind, flower_run, message_id, None, None)  # type: ignore[arg-type]
        answer = self.handler.handle(task)
        known = self.history.admissions.by_label
        self.submitted = {
            key: signed
            for key, signed in self.submitted.items()
            if key[0] in known and known[key[0]].run_digest == signed.digest
        }
        config = dict(answer.config)
        self.answered = str(config.pop(EVIDENCE))
        self.receipt = config.pop(RECEIPT, None)
        progress = self.history.of(self.signed.digest)
        if progress is not None and self.published.keys() <= progress.taken.keys():
            self.links = {**self.published, **self.links}  # an honest coordinator goes on from what was taken
        self.hub.take(SILO, self.answered)
        return replace(answer, config=config)

    def submission(self, signed: SignedRun | None = None, run_id: str = "run-1") -> SignedRun:
        """What is shown of a run under an id: what was admitted under it, where the same text and app are signed again.

        So a test that signs twice for one id asks about one run; under another id it is another submission.
        """
        signed = signed or self.consortium.sign(now=self.handler._parts.now())
        return self.submitted.setdefault((run_id, signed.content_digest, signed.operator_certificate), signed)

    def question(self, signed: SignedRun | None = None, **changes: str) -> Envelope:
        """The coordinator's question whether a run is admitted."""
        manifest = self.consortium.manifest
        return Envelope(
            {
                "run_id": "run-1",
                "manifest": manifest.document.text,
                "manifest_signature": manifest.signature,
                **self.submission(signed, changes.get("run_id", "run-1")).fields(),
                **changes,
            }
        )

    def admit(self, signed: SignedRun | None = None, flower_run: int = FLOWER_RUN, **changes: str) -> Envelope:
        signed = self.submission(signed, changes.get("run_id", "run-1"))
        answer = self.ask(Kind.ADMIT, self.question(signed, **changes), flower_run)
        if answer.config.get("status") == "admitted":
            run = changes.get("run_id", "run-1")
            if (run, signed.digest) != (self.run, self.signed.digest):
                self.links.clear()
            self.run, self.signed = run, signed
        return answer

    def round(self, number: int, weights: Weights = INITIAL, kind: str = Kind.TRAIN, **changes: Any) -> Envelope:
        """One round's message: the global model, its number and digest."""
        config = {"round": number, "digest": weights_digest(weights) if weights.size else "", **changes}
        return self.ask(kind, Envelope(config, weights=weights))

    def close(self) -> None:
        self.link.close()
        self.log.close()
        self.hub_log.close()
        for worker in self.workers:
            assert worker.ended.wait(SECONDS), "the worker was not let go"
            if worker.failure is not None:
                raise worker.failure


@contextmanager
def listener(path: Path) -> Iterator[socket.socket]:
    """The gate's side of the socket, where a test plays the gate."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen(8)
        sock.settimeout(60)
        yield sock


def refused(answer: Envelope) -> str:
    """The rule of a refusal."""
    assert answer.config["status"] == "refused", answer.config
    assert answer.weights is None
    assert not answer.metrics
    return str(answer.config["rule"])


def failed(answer: Envelope) -> str:
    """The reason of a failure."""
    assert answer.config["status"] == "failed", answer.config
    assert answer.weights is None
    assert not answer.metrics
    return str(answer.config["reason"])


def last_before(bench: GateBench, op: str) -> list[dict[str, Any]]:
    """For each time the worker was asked this: the newest entry that was then signed and on disk."""
    return [state.entries[-1] for asked, state in bench.seen_by_worker if asked == op]
