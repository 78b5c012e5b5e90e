"""Executes a run: admission, initial model, rounds, final evaluation. A run is data; no submitted code runs here."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audit.entry import Decision
from audit.entry import Event as AuditEvent
from audit.errors import AuditError
from audit.log import AuditLog
from coordinator.aggregation import RunningMean
from coordinator.checkpoints import Checkpoints, save_model
from coordinator.dialogue import Dialogue, Stopped, admitted
from coordinator.events import EventLog
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round, Verdict, quorum_of
from coordinator.superlink import SuperLink
from federation.errors import ConcordatError, RefusedError, RunFailedError, WireError
from federation.identity import Role
from federation.manifest import SignedManifest
from federation.run import METRICS, Run, SignedRun
from federation.wire import Envelope, Kind, Weights, weights_digest

ONLINE_SECONDS = 30.0
ADMISSION_SECONDS = 120.0


@dataclass(frozen=True)
class GlobalModel:
    """The weights all silos are given, and the digest that is logged before they are."""

    weights: Weights
    digest: str

    @classmethod
    def of(cls, weights: Weights) -> GlobalModel:
        """Name weights by their digest."""
        return cls(weights, weights_digest(weights))


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
        self._checkpoints = Checkpoints(directory)
        admission = Envelope(
            {
                **signed.fields(),
                "manifest": manifest.document.text,
                "manifest_signature": manifest.signature,
                "run_id": run_id,
            }
        )
        self._dialogue = Dialogue(superlink, self.events, self._record, admission)

    def stop(self) -> None:
        """Ask the run to end; it does so at once."""
        self._dialogue.stop()

    def exclude(self, silo: str) -> None:
        """Go on without a silo that left the federation, where the quorum allows."""
        self._dialogue.exclude(silo)

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
            self._dialogue.close(completed=outcome == "run.completed")
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
        self._dialogue.open(run.metadata.name, self._app, self._signed.app_digest)
        roster = Roster(self._admission(nodes, quorum))
        shapes = roster.shapes()
        self._dialogue.expect_values(sum(shape.size for shape in shapes))
        model = self._initial(roster.available(self._superlink.last_pull), sum(shape.size for shape in shapes))
        for number in range(1, strategy.rounds + 1):
            model = self._round(number, model, roster, quorum)
        self._evaluate(model, roster, quorum)
        save_model(self.directory / "model.npz", model.weights, shapes)

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
            self._dialogue.pause(0.1)

    def _admission(self, nodes: dict[str, int], quorum: int) -> dict[str, Admitted]:
        taking_part: dict[str, Admitted] = {}

        def take(name: str, answer: Envelope) -> None:
            taking_part[name] = admitted(nodes[name], answer)
            self.events.emit("silo.admitted", silo=name, examples=answer.number("examples"))

        state = Round(frozenset(nodes), quorum, time.monotonic() + ADMISSION_SECONDS)
        self._dialogue.ask(Kind.ADMIT, self._dialogue.admission, nodes, state, take, "admission", wait_for_all=True)
        if len(taking_part) < quorum:
            if state.refused:
                raise RefusedError(
                    f"{len(state.refused)} of {len(nodes)} silos refused the run: {', '.join(sorted(state.refused))}"
                )
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            raise RunFailedError(f"{len(taking_part)} silos admitted the run, expected at least {quorum} ({lost})")
        return dict(sorted(taking_part.items()))

    def _initial(self, nodes: Mapping[str, int], size: int) -> GlobalModel:
        """Fetch the seeded initial model from the first silo; every silo makes the same one from the run's seed."""
        first = min(nodes)
        got: list[Weights] = []

        def take(name: str, answer: Envelope) -> None:
            if answer.weights is None or answer.weights.size != size:
                raise WireError(f"{name} sent no initial model of {size} values")
            got.append(answer.weights)

        state = Round(frozenset({first}), 1, time.monotonic() + self._run.strategy.deadline_seconds)
        self._dialogue.ask(Kind.INITIAL, Envelope({}), {first: nodes[first]}, state, take, "initial")
        if not got:
            raise RunFailedError(f"{first} did not send the initial model: {state.dropped.get(first)}")
        return GlobalModel.of(got[0])

    def _round(self, number: int, model: GlobalModel, roster: Roster, quorum: int) -> GlobalModel:
        nodes = self._dialogue.available(roster, quorum, self._run.strategy.deadline_seconds, f"round {number}")
        started = time.monotonic()
        self._record("round.begin", round=number, detail={"model": model.digest, "silos": ",".join(sorted(nodes))})
        self.events.emit("round.started", round=number)
        announced = roster.examples
        mean = RunningMean(model.weights.size, roster.planned_examples)
        metrics: dict[str, Mapping[str, float]] = {}

        def take(name: str, answer: Envelope) -> None:
            if answer.weights is None:
                raise WireError(f"{name} sent no weights")
            if answer.number("examples") != announced[name]:
                raise WireError(f"{name} counts {answer.number('examples')} examples, announced {announced[name]}")
            mean.fold(name, answer.weights, announced[name])
            metrics[name] = _allowed(answer.metrics)
            self.events.emit("silo.answered", round=number, silo=name, metrics=metrics[name])

        state = Round(frozenset(nodes), quorum, started + self._run.strategy.deadline_seconds)
        question = Envelope({"round": number, "digest": model.digest}, weights=model.weights)
        self._dialogue.ask(Kind.TRAIN, question, nodes, state, take, str(number), roster)
        if state.verdict(time.monotonic()) is Verdict.FAIL:
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            raise RunFailedError(f"round {number} has {len(state.answered)} answers, expected {quorum} ({lost})")
        result = GlobalModel.of(mean.result())
        seconds = time.monotonic() - started
        described = {"run": self.run_id, "digest": result.digest, "silos": sorted(state.answered)}
        self._checkpoints.save(number, result.weights, described)
        self._record(
            "round.end",
            round=number,
            detail={
                "model": result.digest,
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
            metrics=_mean_metrics(metrics, roster.examples),
        )
        return result

    def _evaluate(self, model: GlobalModel, roster: Roster, quorum: int) -> None:
        nodes = self._dialogue.available(roster, quorum, self._run.strategy.deadline_seconds, "final evaluation")
        self._record("evaluation.begin", detail={"model": model.digest})
        metrics: dict[str, Mapping[str, float]] = {}

        def take(name: str, answer: Envelope) -> None:
            metrics[name] = _allowed(answer.metrics)

        state = Round(frozenset(nodes), quorum, time.monotonic() + self._run.strategy.deadline_seconds)
        question = Envelope({"round": self._run.strategy.rounds, "digest": model.digest}, weights=model.weights)
        self._dialogue.ask(Kind.EVALUATE, question, nodes, state, take, "evaluation", roster)
        self.events.emit(
            "run.evaluated",
            silos=metrics,
            dropped=state.dropped,
            metrics=_mean_metrics(metrics, roster.examples),
            model=model.digest,
        )

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


def _allowed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in METRICS if name in metrics}


def _mean_metrics(metrics: Mapping[str, Mapping[str, float]], examples: Mapping[str, int]) -> dict[str, float]:
    """The silos' metrics averaged by the training rows they announced."""
    out: dict[str, float] = {}
    for name in METRICS:
        parts = [(examples[silo], values[name]) for silo, values in metrics.items() if name in values]
        if parts and name != "num_examples":
            out[name] = sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
    return out
