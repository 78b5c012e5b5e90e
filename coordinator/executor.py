"""Executes a run: admission, initial model, rounds, final evaluation. A run is data; no submitted code runs here."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from audit.entry import Decision
from audit.entry import Event as AuditEvent
from audit.errors import AuditError
from audit.log import AuditLog
from coordinator.aggregation import RunningMean
from coordinator.checkpoints import Checkpoints, parse_shapes, save_model
from coordinator.events import EventLog
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round, Verdict, quorum_of
from coordinator.superlink import Reply, SuperLink
from federation.errors import ConcordatError, RefusedError, RunFailedError, WireError
from federation.identity import Role
from federation.manifest import SignedManifest
from federation.run import METRICS, Run, SignedRun
from federation.wire import Envelope, Kind, Weights, weights_digest

ONLINE_SECONDS = 30.0
ADMISSION_SECONDS = 120.0
MESSAGE_TTL_SECONDS = 86400.0
RUN_UNKNOWN = "run.unknown"
"""The rule by which a gate that was started anew refuses a round of a run it does not know."""


class Stopped(ConcordatError):  # noqa: N818  a decision of the operator, not a fault
    """The operator stopped the run."""


class Executor:
    """One run from submission to its end; `execute` is called once, in a thread of its own."""

    def __init__(
        self,
        run_id: str,
        directory: Path,
        signed: SignedRun,
        app: bytes,
        manifest: SignedManifest,
        superlink: SuperLink,
        log: AuditLog,
        actor: str,
    ) -> None:
        self.run_id = run_id
        self.directory = directory
        self.events = EventLog(directory / "events.jsonl")
        self.state = "pending"
        self._signed = signed
        self._run: Run = signed.document().model
        self._app = app
        self._manifest = manifest
        self._superlink = superlink
        self._log = log
        self._actor = actor
        self._replies: queue.Queue[Reply | None] = queue.Queue()
        self._stop = threading.Event()
        self._flower_run = 0
        self._checkpoints = Checkpoints(directory)
        self._returning: dict[str, str] = {}

    def stop(self) -> None:
        """Ask the run to end; it does so at once."""
        self._stop.set()
        self._replies.put(None)

    # -- the run

    def execute(self) -> None:
        """Run to the end; the outcome is in the events, the audit log and `state`."""
        self.state = "running"
        outcome, problem = "run.completed", ""
        try:
            self._execute()
        except Stopped as error:
            outcome, problem = "run.stopped", str(error)
        except RefusedError as error:
            outcome, problem = "run.refused", str(error)
        except ConcordatError as error:
            outcome, problem = "run.failed", str(error)
        except AuditError as error:
            outcome, problem = "run.failed", f"no record, no action: {error}"
        except OSError as error:
            outcome, problem = "run.failed", f"the coordinator's machine refused: {error.strerror}"
        except Exception as error:  # noqa: BLE001  whatever happens, a run ends and says so
            traceback.print_exc()
            outcome, problem = "run.failed", f"the coordinator has a fault: {type(error).__name__}"
        finally:
            if self._flower_run:
                self._superlink.close_run(self._flower_run, completed=outcome == "run.completed")
        self.state = outcome.removeprefix("run.")
        try:
            self._record("run.end", reason=problem or None, detail={"outcome": self.state})
        except AuditError as error:
            outcome, problem = "run.failed", problem or f"the end of the run cannot be recorded: {error}"
        self.events.emit(outcome, **({"problem": problem} if problem else {}))

    def _execute(self) -> None:
        run, strategy = self._run, self._run.strategy
        silos = self._silos()
        quorum = quorum_of(strategy.quorum, len(silos))
        if quorum > len(silos):
            raise RunFailedError(f"got quorum {quorum}, expected at most the {len(silos)} silos of the run")
        self._record(
            "run.begin",
            detail={"silos": ",".join(silos), "quorum": quorum, "app": self._signed.app_digest},
        )
        self.events.emit(
            "run.started",
            run=self.run_id,
            name=run.metadata.name,
            purpose=run.purpose,
            silos=silos,
            rounds=strategy.rounds,
            strategy=strategy.name,
            mu=strategy.mu,
        )
        nodes = self._wait_online(silos, quorum)
        self._flower_run = self._superlink.open_run(
            f"concordat/{run.metadata.name}",
            self._app,
            self._signed.app_digest.removeprefix("sha256:"),
            self._replies.put,
        )
        roster = Roster(self._admission(nodes, quorum))
        shapes = roster.shapes()
        weights = self._initial(roster.available(self._superlink.last_pull), sum(shape.size for shape in shapes))
        for number in range(1, strategy.rounds + 1):
            weights = self._round(number, weights, roster, quorum)
        self._evaluate(weights, roster, quorum)
        save_model(self.directory / "model.npz", weights, shapes)

    def _silos(self) -> list[str]:
        members = [member.name for member in self._manifest.federation.with_role(Role.SILO)]
        if self._run.silos == "all":
            chosen = members
        else:
            unknown = sorted(set(self._run.silos) - set(members))
            if unknown:
                raise RunFailedError(f"got silo {unknown[0]}, expected members: {', '.join(members)}")
            chosen = [name for name in members if name in self._run.silos]
        if not chosen:
            raise RunFailedError("the federation has no silo yet", advice="enrol one first")
        return sorted(chosen)

    def _wait_online(self, silos: list[str], quorum: int) -> dict[str, int]:
        deadline = time.monotonic() + ONLINE_SECONDS
        while True:
            online = self._superlink.online()
            nodes = {name: online[name] for name in silos if name in online}
            if len(nodes) == len(silos):
                return nodes
            if time.monotonic() >= deadline:
                missing = sorted(set(silos) - set(nodes))
                if len(nodes) < quorum:
                    raise RunFailedError(
                        f"{', '.join(missing)} not connected after {ONLINE_SECONDS:.0f} s, "
                        f"expected at least {quorum} silos"
                    )
                for name in missing:
                    self.events.emit("silo.absent", silo=name)
                return nodes
            if self._stop.wait(0.1):
                raise Stopped("stopped by the operator")

    def _admission_question(self) -> Envelope:
        return Envelope(
            {
                **self._signed.fields(),
                "manifest": self._manifest.document.text,
                "manifest_signature": self._manifest.signature,
                "run_id": self.run_id,
            }
        )

    def _admission(self, nodes: dict[str, int], quorum: int) -> dict[str, Admitted]:
        question = self._admission_question()
        admitted: dict[str, Admitted] = {}

        def take(name: str, answer: Envelope) -> None:
            admitted[name] = _admitted(nodes[name], answer)
            self.events.emit("silo.admitted", silo=name, examples=answer.number("examples"))

        state = Round(frozenset(nodes), quorum, time.monotonic() + ADMISSION_SECONDS)
        self._ask(Kind.ADMIT, question, nodes, state, take, "admission", wait_for_all=True)
        if len(admitted) < quorum:
            if state.refused:
                raise RefusedError(
                    f"{len(state.refused)} of {len(nodes)} silos refused the run: {', '.join(sorted(state.refused))}"
                )
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            raise RunFailedError(f"{len(admitted)} silos admitted the run, expected at least {quorum} ({lost})")
        return dict(sorted(admitted.items()))

    def _initial(self, nodes: Mapping[str, int], size: int) -> Weights:
        """Fetch the seeded initial model from the first silo; every silo makes the same one from the run's seed."""
        first = min(nodes)
        got: list[Weights] = []

        def take(name: str, answer: Envelope) -> None:
            if answer.weights is None or answer.weights.size != size:
                raise WireError(f"{name} sent no initial model of {size} values")
            got.append(answer.weights)

        state = Round(frozenset({first}), 1, time.monotonic() + self._run.strategy.deadline_seconds)
        self._ask(Kind.INITIAL, Envelope({}), {first: nodes[first]}, state, take, "initial")
        if not got:
            raise RunFailedError(f"{first} did not send the initial model: {state.dropped.get(first)}")
        return got[0]

    def _available(self, roster: Roster, quorum: int, what: str) -> dict[str, int]:
        """The silos to ask now; waits up to a deadline for enough of them, inviting back those whose gate restarted."""
        deadline = time.monotonic() + self._run.strategy.deadline_seconds
        while True:
            asked = set(self._returning.values())
            forgotten = {name: node for name, node in roster.forgotten().items() if name not in asked}
            if forgotten:
                question = self._admission_question()
                self._returning |= self._superlink.send(
                    self._flower_run, Kind.ADMIT, question, forgotten, MESSAGE_TTL_SECONDS, "readmission"
                )
            nodes = roster.available(self._superlink.last_pull)
            if len(nodes) >= quorum:
                return nodes
            if time.monotonic() >= deadline:
                raise RunFailedError(f"{what}: {len(nodes)} silos can be asked, expected at least {quorum}")
            reply = self._next_reply(min(deadline, time.monotonic() + 0.1))
            if reply is not None:
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
            elif roster.returned(name, _admitted(roster.forgotten()[name], answer)):
                self.events.emit("silo.returned", silo=name)
        except WireError:
            roster.left(name)

    def _round(self, number: int, weights: Weights, roster: Roster, quorum: int) -> Weights:
        nodes = self._available(roster, quorum, f"round {number}")
        started = time.monotonic()
        digest = weights_digest(weights)
        self._record("round.begin", round=number, detail={"model": digest, "silos": ",".join(sorted(nodes))})
        self.events.emit("round.started", round=number)
        mean = RunningMean(weights.size, roster.planned_examples)
        metrics: dict[str, Mapping[str, float]] = {}

        def take(name: str, answer: Envelope) -> None:
            if answer.weights is None:
                raise WireError(f"{name} sent no weights")
            mean.fold(name, answer.weights, answer.number("examples"))
            metrics[name] = _allowed(answer.metrics)
            self.events.emit("silo.answered", round=number, silo=name, metrics=metrics[name])

        state = Round(frozenset(nodes), quorum, started + self._run.strategy.deadline_seconds)
        question = Envelope({"round": number, "digest": digest}, weights=weights)
        self._ask(Kind.TRAIN, question, nodes, state, take, str(number), roster)
        if state.verdict(time.monotonic()) is Verdict.FAIL:
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            raise RunFailedError(f"round {number} has {len(state.answered)} answers, expected {quorum} ({lost})")
        result = mean.result()
        seconds = time.monotonic() - started
        digest = weights_digest(result)
        self._checkpoints.save(number, result, {"run": self.run_id, "digest": digest, "silos": sorted(state.answered)})
        self._record(
            "round.end",
            round=number,
            detail={
                "model": digest,
                "silos": ",".join(sorted(state.answered)),
                "dropped": ",".join(sorted(state.dropped)),
                "examples": mean.examples,
            },
        )
        self.events.emit(
            "round.closed",
            round=number,
            seconds=round(seconds, 4),
            silos=metrics,
            dropped=state.dropped,
            metrics=_mean_metrics(metrics),
        )
        return result

    def _evaluate(self, weights: Weights, roster: Roster, quorum: int) -> None:
        nodes = self._available(roster, quorum, "final evaluation")
        digest = weights_digest(weights)
        self._record("evaluation.begin", detail={"model": digest})
        metrics: dict[str, Mapping[str, float]] = {}

        def take(name: str, answer: Envelope) -> None:
            metrics[name] = _allowed(answer.metrics)

        state = Round(frozenset(nodes), quorum, time.monotonic() + self._run.strategy.deadline_seconds)
        question = Envelope({"round": self._run.strategy.rounds, "digest": digest}, weights=weights)
        self._ask(Kind.EVALUATE, question, nodes, state, take, "evaluation", roster)
        self.events.emit(
            "run.evaluated",
            silos=metrics,
            dropped=state.dropped,
            metrics=_mean_metrics(metrics),
            model=digest,
        )

    # -- asking and being answered

    def _ask(
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
        open_messages = self._superlink.send(self._flower_run, kind, question, nodes, MESSAGE_TTL_SECONDS, group)
        try:
            while state.waiting_for:
                if not wait_for_all and state.verdict(time.monotonic()) is not Verdict.WAIT:
                    break
                reply = self._next_reply(state.deadline)
                if reply is None:
                    break
                name = open_messages.pop(reply.reply_to, None)
                if name is not None:
                    self._answer(name, reply, state, take)
                elif roster is not None:
                    self._returned(reply, roster)
        finally:
            self._superlink.withdraw(set(open_messages))
        late = state.close()
        for name in sorted(set(state.dropped) - state.refused):
            self.events.emit("silo.dropped", silo=name, phase=group, reason=state.dropped[name])
        if roster is not None:
            for name in state.answered:
                roster.answered(name)
            for name in late:
                roster.missed(name, time.monotonic())
            for name in state.forgot:
                roster.forgot(name)

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
            rule=fields["rule"],
            reason=fields["reason"],
            detail={"silo": name},
        )
        self.events.emit("silo.refused", silo=name, **fields)
        state.refuse(name, f"refused by {fields['rule']}: {fields['reason']}")
        if fields["rule"] == RUN_UNKNOWN:
            state.forgot.add(name)

    def _next_reply(self, deadline: float) -> Reply | None:
        if self._stop.is_set():
            raise Stopped("stopped by the operator")
        try:
            reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if reply is None:
            raise Stopped("stopped by the operator")
        return reply

    def _record(
        self,
        action: str,
        *,
        decision: Decision = "record",
        rule: str | None = None,
        reason: str | None = None,
        round: int | None = None,  # noqa: A002  the field's term
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        self._log.append(
            AuditEvent(
                actor=self._actor,
                action=action,
                resource=f"run/{self.run_id}",
                decision=decision,
                rule=rule,
                reason=reason,
                run=self.run_id,
                round=round,
                detail=detail or {},
            )
        )


def _admitted(node_id: int, answer: Envelope) -> Admitted:
    """What a silo announced when it admitted the run; raises WireError."""
    shapes = parse_shapes(answer.text("shapes"))
    return Admitted(node_id, answer.number("examples"), shapes, answer.text("initial_digest"))


def _allowed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in METRICS if name in metrics}


def _mean_metrics(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The silos' metrics averaged by their examples."""
    out: dict[str, float] = {}
    for name in METRICS:
        parts = [(m["num_examples"], m[name]) for m in metrics.values() if name in m and m.get("num_examples")]
        if parts and name != "num_examples":
            total = sum(weight for weight, _ in parts)
            out[name] = sum(weight * value for weight, value in parts) / total
    return out
