"""The executor's side of the conversation with the silos: questions, answers, refusals, absences, returns."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from audit.entry import Decision
from coordinator.checkpoints import parse_shapes
from coordinator.events import EventLog
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round, Verdict
from coordinator.superlink import Reply, SuperLink
from federation.errors import ConcordatError, RunFailedError, WireError
from federation.limits import LIMITS
from federation.wire import Envelope, Kind

MESSAGE_TTL_SECONDS = 86400.0
RUN_UNKNOWN = "run.unknown"
"""The rule by which a gate that was started anew refuses a round of a run it does not know."""


class Stopped(ConcordatError):  # noqa: N818  a decision of the operator, not a fault
    """The operator stopped the run."""


class Record(Protocol):
    """Appends an entry about the run to the coordinator's log; returns once it is durable."""

    def __call__(
        self,
        action: str,
        *,
        decision: Decision = "record",
        rule: str | None = None,
        reason: str | None = None,
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        """Append; raises AuditError where it cannot be recorded."""


class Dialogue:
    """One run's conversation with its silos."""

    def __init__(self, superlink: SuperLink, events: EventLog, record: Record, admission: Envelope) -> None:
        self._superlink = superlink
        self._events = events
        self._record = record
        self.admission = admission
        self._replies: queue.Queue[Reply | str | None] = queue.Queue()
        self._excluded: set[str] = set()
        self._stop = threading.Event()
        self._returning: dict[str, str] = {}
        self._run = 0

    def open(self, name: str, app: bytes, app_digest: str) -> None:
        """Begin: register the run and its app with Flower."""
        self._run = self._superlink.open_run(
            f"concordat/{name}", app, app_digest.removeprefix("sha256:"), self._replies.put
        )

    def expect_values(self, values: int) -> None:
        """From here on a reply may weigh as much as a model of this many float32 values, and a little more."""
        self._superlink.limit_replies(self._run, 4 * values + LIMITS.reply_overhead)

    def close(self, *, completed: bool) -> None:
        """End: what is still on its way is dropped."""
        if self._run:
            self._superlink.close_run(self._run, completed=completed)

    def stop(self) -> None:
        """Have whatever waits raise Stopped; may be called from another thread."""
        self._stop.set()
        self._replies.put(None)

    def exclude(self, silo: str) -> None:
        """Have a silo that left the federation dropped at once; may be called from another thread."""
        self._excluded.add(silo)
        self._replies.put(silo)

    def pause(self, seconds: float) -> None:
        """Wait a moment; raises Stopped."""
        if self._stop.wait(seconds):
            raise Stopped("stopped by the operator")

    def ask(
        self,
        kind: str,
        question: Envelope,
        nodes: Mapping[str, int],
        state: Round,
        take: Callable[[str, Envelope], None],
        group: str,
        roster: Roster | None = None,
        *,
        wait_for_all: bool = False,
    ) -> None:
        """Send one question to several silos and hand each answer to `take` until the round closes.

        A WireError from `take`, or a silo's own report of a failure, drops that silo from the round and no other. What
        became of each silo is entered in the roster.
        """
        open_messages = self._superlink.send(self._run, kind, question, nodes, MESSAGE_TTL_SECONDS, group)
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
                    self._dispatch(reply, open_messages, state, take, roster)
        finally:
            self._superlink.withdraw(set(open_messages))
        late = state.close()
        for name in sorted(set(state.dropped) - state.refused):
            self._events.emit("silo.dropped", silo=name, phase=group, reason=state.dropped[name])
        if roster is not None:
            self._enter(roster, state, late)

    def _dispatch(
        self,
        reply: Reply,
        open_messages: dict[str, str],
        state: Round,
        take: Callable[[str, Envelope], None],
        roster: Roster | None,
    ) -> None:
        name = open_messages.pop(reply.reply_to, None)
        if name is not None:
            self._answer(name, reply, state, take)
        elif roster is not None:
            self._returned(reply, roster)

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

    def _answer(self, name: str, reply: Reply, state: Round, take: Callable[[str, Envelope], None]) -> None:
        try:
            answer = self._superlink.take(reply)
            if answer.config.get("status") == "failed":
                raise WireError(str(answer.config.get("reason", "the silo failed"))[:1000])
            if answer.config.get("status") == "refused":
                self._refused(name, answer, state)
                return
            take(name, answer)
            state.answer(name)
        except WireError as error:
            state.drop(name, str(error))

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

    def _next_reply(self, deadline: float) -> Reply | str | None:
        if self._stop.is_set():
            raise Stopped("stopped by the operator")
        try:
            reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if reply is None:
            raise Stopped("stopped by the operator")
        return reply

    def available(self, roster: Roster, quorum: int, seconds: float, what: str) -> dict[str, int]:
        """The silos to ask now; waits up to a deadline for enough of them, inviting back those whose gate restarted."""
        deadline = time.monotonic() + seconds
        while True:
            asked = set(self._returning.values())
            forgotten = {name: node for name, node in roster.forgotten().items() if name not in asked}
            if forgotten:
                self._returning |= self._superlink.send(
                    self._run, Kind.ADMIT, self.admission, forgotten, MESSAGE_TTL_SECONDS, "readmission"
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
            answer = self._superlink.take(reply)
            if answer.config.get("status") == "refused":
                self._refused(name, answer, Round(frozenset({name}), 1, 0.0))
                roster.left(name)
            elif answer.config.get("status") == "failed":
                roster.forgot(name)
            elif roster.returned(name, admitted(roster.forgotten()[name], answer)):
                self._events.emit("silo.returned", silo=name)
        except WireError:
            roster.left(name)


def admitted(node_id: int, answer: Envelope) -> Admitted:
    """What a silo announced when it admitted the run; raises WireError."""
    examples = answer.number("examples")
    if not 1 <= examples <= LIMITS.examples:
        raise WireError(f"got {examples} training rows, expected 1 to {LIMITS.examples}")
    return Admitted(node_id, examples, parse_shapes(answer.text("shapes")), answer.text("initial_digest"))
