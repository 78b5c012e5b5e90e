"""The executor's side of the conversation with the silos: questions, answers, refusals, absences, returns."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from audit.entry import Decision
from coordinator.asides import ask_once
from coordinator.checkpoints import parse_shapes
from coordinator.contributions import Contributions
from coordinator.cosigning import cosign
from coordinator.events import COORDINATOR, EventLog
from coordinator.reading import reading
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round, Verdict
from coordinator.superlink import Reply, SuperLink
from coordinator.witnessing import Witnessing
from federation.control_variates import LARGEST_RATE, LEARNING_RATE
from federation.errors import ConcordatError, RunFailedError, WireError
from federation.limits import LIMITS
from federation.wire import EVIDENCE, Envelope, Kind

MESSAGE_TTL_SECONDS = 86400.0
READMISSIONS = 16
"""How often a silo whose gate starts anew during one question is asked for admission and then the question again."""
RUN_UNKNOWN = "run.unknown"
"""The rule by which a gate that was started anew refuses a round of a run it does not know."""


SELF_CONTAINED = frozenset({Kind.ADMIT, Kind.STATISTICS})
"""Questions that carry the signed run: a gate needs to know nothing of it beforehand."""


class Stopped(ConcordatError):  # noqa: N818  a decision of the operator, not a fault
    """The operator stopped the run."""


class Suspended(ConcordatError):  # noqa: N818  the run goes on when the coordinator is started again
    """The coordinator stops; the run is not at its end."""


@dataclass(frozen=True)
class _Activated:
    """A node's gate was started, or connected anew, at a time on the monotonic clock."""

    node_id: int
    at: float


@dataclass
class _Question:
    """One question while it is open: who was asked by which message, and who is asked for admission before it."""

    kind: str
    group: str
    nodes: Mapping[str, int]
    state: Round
    take: Callable[[str, Envelope], None]
    again: Callable[[str], Envelope]
    roster: Roster | None
    asked: dict[str, float]
    """When each silo was asked last."""
    messages: dict[str, str] = field(default_factory=dict)
    admissions: dict[str, str] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)


class Record(Protocol):
    """Appends an entry about the run to the coordinator's log; returns once it is durable."""

    def __call__(
        self,
        action: str,
        *,
        decision: Decision = "record",
        rule: str | None = None,
        reason: str | None = None,
        round: int | None = None,  # noqa: A002  the field's term
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        """Append; raises AuditError where it cannot be recorded."""


class Dialogue:
    """One run's conversation with its silos."""

    def __init__(
        self, superlink: SuperLink, events: EventLog, record: Record, admission: Envelope, witnessing: Witnessing
    ) -> None:
        self._superlink = superlink
        self._witnessing = witnessing
        self._events = events
        self._record = record
        self.admission = admission
        self._replies: queue.Queue[Reply | _Activated | str | None] = queue.Queue()
        self._suspended = False
        self._stopped_by = COORDINATOR
        self._excluded: set[str] = set()
        self._stop = threading.Event()
        self._returning: dict[str, str] = {}
        self._run = 0
        self.contributions = Contributions()

    def open(self, name: str, app: bytes, app_digest: str) -> None:
        """Begin: register the run and its app with Flower."""
        self._run = self._superlink.open_run(
            f"concordat/{name}", app, app_digest.removeprefix("sha256:"), self._replies.put
        )
        self._superlink.on_activation(lambda node_id: self._replies.put(_Activated(node_id, time.monotonic())))

    def expect(self, size: int) -> None:
        """From here on a reply may weigh as much as weights or a packed update of so many bytes, and a little more."""
        self._superlink.limit_replies(self._run, size + LIMITS.reply_overhead)

    def close(self, *, completed: bool) -> None:
        """End: what is still on its way is dropped."""
        self._superlink.on_activation(lambda _: None)
        if self._run:
            self._superlink.close_run(self._run, completed=completed)

    def stop(self, by: str = COORDINATOR) -> None:
        """Have whatever waits raise Stopped, with the name of who asked for it; may be called from another thread."""
        self._stopped_by = by
        self._stop.set()
        self._replies.put(None)

    def suspend(self) -> None:
        """Have whatever waits raise Suspended; may be called from another thread."""
        self._suspended = True
        self.stop()

    def _stopped(self) -> ConcordatError:
        return Suspended("the coordinator stops") if self._suspended else Stopped(f"stopped by {self._stopped_by}")

    def exclude(self, silo: str) -> None:
        """Have a silo that left the federation dropped at once; may be called from another thread."""
        self._excluded.add(silo)
        self._replies.put(silo)

    def pause(self, seconds: float) -> None:
        """Wait a moment; raises Stopped."""
        if self._stop.wait(seconds):
            raise self._stopped()

    def ask(
        self,
        kind: str,
        question: Envelope | Mapping[str, Envelope],
        nodes: Mapping[str, int],
        state: Round,
        take: Callable[[str, Envelope], None],
        group: str,
        roster: Roster | None = None,
        *,
        wait_for_all: bool = False,
        again: Callable[[str], Envelope] | None = None,
    ) -> None:
        """Send one question to several silos, or each its own, and hand each answer to `take` until the round closes.

        A WireError from `take`, or a silo's own report of a failure, drops that silo from the round and no other. What
        became of each silo is entered in the roster. A silo whose gate starts anew meanwhile is asked for admission,
        and then what `again` gives for it: the same question with evidence of now.
        """
        asked = dict.fromkeys(nodes, time.monotonic())
        plain = again or (lambda name: question if isinstance(question, Envelope) else question[name])
        open_question = _Question(kind, group, nodes, state, take, plain, roster, asked)
        for shared, some in _posts(question, nodes):
            evident = self._with_evidence(shared, some, everyone=kind in SELF_CONTAINED)
            sent = self._superlink.send(self._run, kind, evident, some, MESSAGE_TTL_SECONDS, group)
            open_question.messages |= sent
        try:
            while state.waiting_for:
                for silo in tuple(self._excluded):
                    state.drop(silo, "no longer a member of the federation")
                if not wait_for_all and state.verdict(time.monotonic()) is not Verdict.WAIT:
                    break
                reply = self._next_reply(state.deadline)
                if reply is None:
                    break
                if isinstance(reply, Reply):
                    self._dispatch(reply, open_question)
                elif isinstance(reply, _Activated):
                    self._activated(reply, open_question)
        finally:
            self._superlink.withdraw({*open_question.messages, *open_question.admissions})
        late = state.close()
        for name in sorted(set(state.dropped) - state.refused):
            self._events.emit("silo.dropped", silo=name, phase=group, reason=state.dropped[name])
        if roster is not None:
            self._enter(roster, state, late)

    def cosign(self, nodes: Mapping[str, int]) -> None:
        """Have the silos' logs cosigned before anything is asked; raises Stopped. Who stays silent is left out."""

        def ask(kind: str, question: Envelope, silos: Mapping[str, int], seconds: float) -> dict[str, Envelope]:
            parts = (self._superlink, self._run, self._witnessing)
            return ask_once(*parts, kind, question, silos, self._only_reply, seconds)

        cosign(ask, nodes)

    def _only_reply(self, deadline: float) -> Reply | None:
        """The next reply, whatever else happens meanwhile."""
        while True:
            found = self._next_reply(deadline)
            if found is None or isinstance(found, Reply):
                return found

    def _with_evidence(self, question: Envelope, nodes: Mapping[str, int], *, everyone: bool) -> Envelope:
        """The question with what it says of logs, where it does not say that yet."""
        if EVIDENCE in question.config:
            return question
        evidence = self._witnessing.call(nodes, everyone=everyone)
        return replace(question, config={**question.config, EVIDENCE: evidence})

    def _dispatch(self, reply: Reply, question: _Question) -> None:
        name = question.messages.pop(reply.reply_to, None)
        joining = question.admissions.pop(reply.reply_to, None)
        if name is not None:
            self._answer(name, reply, question)
        elif joining is not None:
            self._rejoined(joining, reply, question)
        elif question.roster is not None:
            self._returned(reply, question.roster)

    def _activated(self, activated: _Activated, question: _Question) -> None:
        """A gate that connected after it was asked may have lost the question, or what it knew of the run."""
        for name in question.state.waiting_for:
            if question.nodes[name] == activated.node_id and activated.at > question.asked[name]:
                self._ask_again(name, question)

    def _ask_again(self, name: str, question: _Question) -> None:
        """Ask one silo for admission, and once it is there the question again."""
        tries = question.tries[name] = question.tries.get(name, 0) + 1
        if tries > READMISSIONS:
            question.state.drop(name, f"its gate started {tries} times during one question")
            return
        mine = {message for message, silo in (question.messages | question.admissions).items() if silo == name}
        self._superlink.withdraw(mine)
        for message in mine:
            question.messages.pop(message, None)
            question.admissions.pop(message, None)
        node = {name: question.nodes[name]}
        question.asked[name] = time.monotonic()
        envelope = self._with_evidence(self.admission, node, everyone=True)
        whole = question.kind in SELF_CONTAINED
        kind = question.kind if whole else Kind.ADMIT
        sent = self._superlink.send(self._run, kind, envelope, node, MESSAGE_TTL_SECONDS, question.group)
        (question.messages if whole else question.admissions).update(sent)

    def _rejoined(self, name: str, reply: Reply, question: _Question) -> None:
        """Take a silo's answer to being asked for admission during a question, and put the question to it again."""
        state, roster = question.state, question.roster
        try:
            answer = self._take(name, reply)
            if answer.config.get("status") == "refused":
                self._refused(name, answer, state)
                return
            node = question.nodes[name]
            with reading(name):
                again = admitted(node, answer)
            if roster is not None and not roster.returned(name, again):
                raise WireError(f"{name} announces other rows or another model than before")
            self._events.emit("silo.returned", silo=name)
            question.asked[name] = time.monotonic()
            envelope = self._with_evidence(question.again(name), {name: node}, everyone=False)
            kind, group = question.kind, question.group
            question.messages |= self._superlink.send(
                self._run, kind, envelope, {name: node}, MESSAGE_TTL_SECONDS, group
            )
        except WireError as error:
            state.drop(name, str(error))

    def _take(self, name: str, reply: Reply) -> Envelope:
        """Read an answer and what it says of logs; raises WireError, also for a silo's own report of a failure."""
        with reading(name):
            answer = self._superlink.take(reply)
            self._witnessing.take(name, answer.config.get(EVIDENCE))
        if answer.config.get("status") == "failed":
            raise WireError(str(answer.config.get("reason", "the silo failed"))[:1000])
        return answer

    def _enter(self, roster: Roster, state: Round, late: frozenset[str]) -> None:
        """Enter in the roster what became of each silo in a round."""
        for name in state.answered:
            roster.answered(name)
        for name in late:
            roster.missed(name, time.monotonic())
        for name in state.forgot:
            roster.forgot(name)
        for name in tuple(self._excluded):
            roster.left(name)

    def _answer(self, name: str, reply: Reply, question: _Question) -> None:
        try:
            answer = self._take(name, reply)
            if answer.config.get("status") != "refused":
                self._usable(name, answer, question)
            elif answer.config.get("rule") == RUN_UNKNOWN and question.tries.get(name, 0) < READMISSIONS:
                self._ask_again(name, question)
            else:
                self._refused(name, answer, question.state)
        except WireError as error:
            question.state.drop(name, str(error))

    def _usable(self, name: str, answer: Envelope, question: _Question) -> None:
        """Hand an answer on; one that cannot be used is in the coordinator's log with the silo's name."""
        try:
            with reading(name):
                question.take(name, answer)
        except WireError as error:
            self._record(
                "answer.refused",
                decision="deny",
                rule="answer.usable",
                reason=str(error)[:2000],
                detail={"silo": name, "question": question.group},
            )
            raise
        question.state.answer(name)

    def _refused(self, name: str, answer: Envelope, state: Round) -> None:
        fields = {key: str(answer.config.get(key, ""))[:1000] for key in ("rule", "reason", "location", "remedy")}
        self._record(
            "silo.refused",
            decision="deny",
            rule=fields["rule"] or "unnamed",
            reason=fields["reason"] or None,
            detail={"silo": name},
        )
        self._events.emit("silo.refused", silo=name, **fields)
        state.refuse(name, f"refused by {fields['rule']}: {fields['reason']}")
        if fields["rule"] == RUN_UNKNOWN:
            state.forgot.add(name)

    def _next_reply(self, deadline: float) -> Reply | _Activated | str | None:
        if self._stop.is_set():
            raise self._stopped()
        try:
            reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if reply is None:
            raise self._stopped()
        return reply

    def available(self, roster: Roster, quorum: int, seconds: float, what: str) -> dict[str, int]:
        """The silos to ask now; waits up to a deadline for enough of them, inviting back those whose gate restarted."""
        deadline = time.monotonic() + seconds
        while True:
            asked = set(self._returning.values())
            forgotten = {name: node for name, node in roster.forgotten().items() if name not in asked}
            if forgotten:
                question = self._with_evidence(self.admission, forgotten, everyone=True)
                self._returning |= self._superlink.send(
                    self._run, Kind.ADMIT, question, forgotten, MESSAGE_TTL_SECONDS, "readmission"
                )
            for silo in tuple(self._excluded):
                roster.left(silo)
            nodes = roster.available(self._superlink.last_pull)
            if len(nodes) >= quorum:
                return nodes
            if time.monotonic() >= deadline:
                raise RunFailedError(f"{what}: {len(nodes)} silos can be asked, expected at least {quorum}")
            reply = self._next_reply(min(deadline, time.monotonic() + 0.1))
            if isinstance(reply, Reply):
                self._returned(reply, roster)

    def _returned(self, reply: Reply, roster: Roster) -> None:
        """Take the answer of a silo that was asked for admission again; it joins the next round."""
        name = self._returning.pop(reply.reply_to, None)
        if name is None:
            return
        try:
            with reading(name):
                answer = self._superlink.take(reply)
                self._witnessing.take(name, answer.config.get(EVIDENCE))
                status = answer.config.get("status")
                again = None if status in {"refused", "failed"} else admitted(roster.forgotten()[name], answer)
            if status == "refused":
                self._refused(name, answer, Round(frozenset({name}), 1, 0.0))
                roster.left(name)
            elif again is None:
                roster.forgot(name)
            elif roster.returned(name, again):
                self.contributions.admitted(name, answer)
                self._events.emit("silo.returned", silo=name)
        except WireError:
            roster.left(name)


def _posts(
    question: Envelope | Mapping[str, Envelope], nodes: Mapping[str, int]
) -> list[tuple[Envelope, Mapping[str, int]]]:
    """What is sent to whom: one envelope to all of them, or each silo's own."""
    if isinstance(question, Envelope):
        return [(question, nodes)]
    return [(question[name], {name: node}) for name, node in nodes.items()]


def admitted(node_id: int, answer: Envelope) -> Admitted:
    """What a silo announced when it admitted the run; raises WireError."""
    examples = answer.number("examples")
    if not 1 <= examples <= LIMITS.examples:
        raise WireError(f"got {examples} training rows, expected 1 to {LIMITS.examples}")
    rate = answer.config.get(LEARNING_RATE)
    if rate is not None and not (isinstance(rate, float) and 0 < rate <= LARGEST_RATE):
        raise WireError(f"got learning rate {rate!s:.20}, expected a number above 0")
    return Admitted(node_id, examples, parse_shapes(answer.text("shapes")), answer.text("initial_digest"), rate)
