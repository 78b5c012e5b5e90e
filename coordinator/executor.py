"""Executes a run: admission, initial model, rounds, final evaluation. A run is data; no submitted code runs here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from audit.log import AuditLog
from coordinator.aggregation import check_update
from coordinator.checkpoints import Checkpoint, Checkpoints, LayerShape, save_model
from coordinator.dialogue import admitted
from coordinator.execution import ONLINE_SECONDS, Execution
from coordinator.fairness import better_alone, spread
from coordinator.normalization import ask_for_normalization, kept_normalization, open_normalization
from coordinator.passport import MODEL, PASSPORT, Submitted, issue_in, predicate_of
from coordinator.receipts import Receipts
from coordinator.recorded import Logged
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round, Verdict, quorum_of
from coordinator.secure_rounds import SecureRounds, Trained
from coordinator.strategies import Fold, strategy_of
from coordinator.strategies.clipping import ClipNorm
from coordinator.strategies.proximal import ProximalTerm
from coordinator.superlink import SuperLink
from coordinator.witnessing import Witnessing
from federation.control_variates import FOLDED, folded_text
from federation.encodings import packed_bytes, received
from federation.errors import ConcordatError, RefusedError, RunFailedError, WireError
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.measures import RANGES, reported
from federation.passport import Agreed, Seal
from federation.run import NOT_AVERAGED, Run, SignedRun
from federation.secure_aggregation.cohort import Place
from federation.statistics.exact_sums import values_of
from federation.statistics.normalization import normalization_digest, read_normalization
from federation.wire import EVIDENCE, RELEASE, Envelope, Kind, Scalar, Weights, weights_digest

ADMISSION_SECONDS = 120.0
SUM = "the opened sum"
"""Under what the one update of a round with secure aggregation is folded."""
NOTHING_BESIDE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class GlobalModel:
    """The weights all silos are given, and the digest that is logged before they are."""

    weights: Weights
    digest: str

    @classmethod
    def of(cls, weights: Weights) -> GlobalModel:
        """Name weights by their digest."""
        return cls(weights, weights_digest(weights))


class Executor(Execution):
    """One training run from submission to its end."""

    def __init__(
        self,
        run_id: str,
        directory: Path,
        signed: SignedRun,
        app: bytes,
        newest: Callable[[], SignedManifest],
        superlink: SuperLink,
        log: AuditLog,
        actor: str,
        witnessing: Witnessing,
        logged: Logged | None = None,
        *,
        seal: Seal,
        operator: str,
    ) -> None:
        self._run: Run = signed.document().model
        super().__init__(
            run_id,
            directory,
            signed,
            newest,
            superlink,
            log,
            actor,
            witnessing,
            again=logged is not None,
            keeps_model=True,
        )
        self._seal, self._submitted = seal, Submitted(run_id, signed, operator, self._manifest)
        self._logged = logged or Logged()
        self._point: Checkpoint | None = None
        self._problem: ConcordatError | None = None
        self._signed = signed
        self._app = app
        self._checkpoints = Checkpoints(directory)
        self._server = strategy_of(self._run.strategy)
        self._proximal = ProximalTerm(self._run.strategy.mu, self._run.strategy.adaptive)
        self._clipping = ClipNorm(self._run.privacy)
        self._receipts = Receipts(run_id, signed.digest, self._manifest.federation, signed.submission.silos)
        self._shapes: tuple[LayerShape, ...] = ()
        self._normalization: str | None = None
        self._contributions = self._dialogue.contributions
        self._secure: SecureRounds | None = None

    def take_up(self) -> None:
        """Find the last closed round of a run that was executed before; `execute` then goes on from it."""
        try:
            self._point = self._checkpoints.newest()
        except ConcordatError as error:
            self._problem = error
        self.events.emit(
            "run.resumed",
            run=self.run_id,
            round=self._closed,
            damaged=list(self._point.damaged) if self._point else [],
        )

    @property
    def _closed(self) -> int:
        """The number of the last closed round."""
        return self._point.number if self._point else 0

    # -- the run

    def _execute(self) -> None:
        run, strategy = self._run, self._run.strategy
        silos = self._silos()
        quorum = quorum_of(strategy.quorum, len(silos))
        if quorum > len(silos):
            raise RunFailedError(f"got quorum {quorum}, expected at most the {len(silos)} silos of the run")
        self._secure = self._secure_rounds(silos)
        detail: dict[str, str | int | bool] = {"silos": ",".join(silos), "quorum": quorum}
        if not self._logged.begun:
            self._record("run.begin", detail={**detail, "app": self._signed.app_digest})
        if self.events.find("run.started") is None:
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
        if self._taken_up:
            self._record("run.resume", detail={**detail, "closed": self._closed})
        if self._problem is not None:
            raise self._problem
        if self._point is not None and self._settle(self._point):
            return
        # A silo that is still training for the process before this one connects once its time is over.
        patience = ONLINE_SECONDS + (strategy.deadline_seconds if self._taken_up else 0.0)
        nodes = self._wait_online(silos, quorum, patience)
        self._dialogue.open(run.metadata.name, self._app, self._signed.app_digest)
        self._dialogue.cosign(nodes)
        roster = Roster(self._admission(nodes, quorum))
        for name, reason in roster.strangers(quorum).items():
            self.events.emit("silo.dropped", silo=name, phase="admission", reason=reason)
        shapes = roster.shapes()
        self._server.admitted(len(silos), roster.learning_rate())
        size = sum(shape.size for shape in shapes)
        if self._point is None:
            self._dialogue.expect(packed_bytes(None, size))
            model = self._initial(roster, size)
        else:
            if shapes != self._point.shapes():
                raise RunFailedError("the silos report another model than the one of the rounds that are closed")
            model = GlobalModel.of(self._point.weights)
        self._shapes = shapes
        self._normalise(roster, quorum)
        self._dialogue.expect(packed_bytes(run.updates, size))
        for number in range(self._closed + 1, strategy.rounds + 1):
            model = self._round(number, model, roster, quorum)
        self._evaluate(model, roster, quorum)
        self._save(model.weights, shapes)
        self._issue(model)

    def _normalise(self, roster: Roster, quorum: int) -> None:
        """Have what the run normalises by, where it does: kept from before, or asked for and recorded."""
        if self._run.normalization is None:
            return
        text, silos = kept_normalization(self.directory, self._run), list[str]()
        if text is None:
            nodes = self._dialogue.available(roster, quorum, self._run.strategy.deadline_seconds, "normalization")
            to = (self._run, self.directory, roster, nodes, quorum)
            if self._secure is None:
                text, silos = ask_for_normalization(self._dialogue, *to)
            else:
                self._dialogue.expect(packed_bytes(None, values_of(len(self._run.features))))
                text, silos = open_normalization(self._secure, *to)
        self._normalization, digest = text, normalization_digest(text)
        if self._logged.merged not in {None, digest}:
            raise RunFailedError("what the run normalises by is not what was recorded")
        if self._logged.merged is None:
            self._record("statistics.merge", detail={"statistics": digest, "silos": ",".join(silos)})
        if self.events.find("run.normalised") is None:
            self.events.emit("run.normalised", silos=silos, statistics=digest)

    def _beside(self) -> dict[str, Scalar]:
        """What goes to the silos with each model."""
        return {} if self._normalization is None else {"normalization": self._normalization}

    def _save(self, weights: Weights, shapes: tuple[LayerShape, ...]) -> None:
        """Write the final model, with what its inputs are normalised by."""
        text = kept_normalization(self.directory, self._run)
        found = None if text is None else read_normalization(text, len(self._run.features))
        save_model(self.directory / MODEL, weights, shapes, found)

    def _issue(self, model: GlobalModel) -> None:
        logs = self._witnessing.checkpoints()
        of_each, now = self._contributions.of_each(), datetime.now(UTC)
        normalization = None if self._normalization is None else normalization_digest(self._normalization)
        agreed = Agreed(history=self._receipts.history, normalization=normalization, receipts=self._receipts.last)
        predicate = predicate_of(self._submitted, model.digest, of_each, logs, now, agreed)
        issue_in(self.directory, self._seal, predicate, lambda digests: self._record("model.passport", detail=digests))

    def _settle(self, point: Checkpoint) -> bool:
        """Bring strategy, log and events to where a closed round left them; returns whether the run is at its end."""
        try:
            self._proximal.restore(point.state["proximal"])
            self._clipping.restore(point.state.get("clip_norm"))
            self._server.restore(point.strategy)
            self._contributions.restore(point.state["contributions"])
            self._receipts.restore(point.state["receipts"])
            end, closed, shapes = dict(point.state["end"]), dict(point.state["closed"]), point.shapes()
        except (KeyError, TypeError, ValueError) as error:
            raise RunFailedError(f"the checkpoint of round {point.number} lacks {error}") from None
        digest = str(point.state["digest"])
        if self._logged.closed.get(point.number) != digest:
            self._record("round.end", round=point.number, detail=end)
        if self.events.find("round.closed", round=point.number) is None:
            self.events.emit("round.closed", **closed)
        if point.number < self._run.strategy.rounds or self.events.find("run.evaluated", model=digest) is None:
            return False
        self._save(point.weights, shapes)
        # A passport shows the silos' receipts for the final model, which no checkpoint has: they are asked for again.
        return (self.directory / PASSPORT).exists()

    def _secure_rounds(self, silos: list[str]) -> SecureRounds | None:
        """Who conducts the run's sums, where it has secure aggregation; raises RunFailedError for a wrong threshold."""
        if self._run.secure_aggregation is None:
            return None

        def place(number: int) -> Place:
            return Place(self._signed.content_digest, self.run_id, number)

        opened = self._logged.opened
        secure = SecureRounds(self._dialogue, self._run, place, self._newest, self._record, silos, opened)
        secure.require()
        return secure

    def _admission(self, nodes: dict[str, int], quorum: int) -> dict[str, Admitted]:
        taking_part: dict[str, Admitted] = {}

        def take(name: str, answer: Envelope) -> None:
            part = admitted(nodes[name], answer)
            self._contributions.admitted(name, answer)
            taking_part[name] = part
            release = {"release": True} if answer.config.get(RELEASE) is True else {}
            cost = self._contributions.cost(name)
            self.events.emit("silo.admitted", silo=name, examples=part.examples, **cost, **release)

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

    def _initial(self, roster: Roster, size: int) -> GlobalModel:
        """Fetch the seeded initial model from the first silo that sends the one it announced; all make it by the seed.

        The coordinator cannot make it. One that a silo cannot send, or which no silo could train, is asked of the next.
        """
        lost: dict[str, str] = {}
        for first in roster.starters():
            node = roster.available(self._superlink.last_pull).get(first)
            if node is None:
                continue
            got: list[Weights] = []

            def take(name: str, answer: Envelope, got: list[Weights] = got) -> None:
                if answer.weights is None:
                    raise WireError(f"{name} sent no initial model")
                check_update(name, answer.weights, size)
                if weights_digest(answer.weights) != roster.initial_digest(name):
                    raise WireError(f"{name} sent another initial model than it announced")
                got.append(answer.weights)

            state = Round(frozenset({first}), 1, time.monotonic() + self._run.strategy.deadline_seconds)
            self._dialogue.ask(Kind.INITIAL, Envelope({}), {first: node}, state, take, "initial", roster)
            if got:
                return GlobalModel.of(got[0])
            lost |= state.dropped
        told = "; ".join(f"{name}: {why}" for name, why in lost.items())
        raise RunFailedError(f"no silo sent the initial model ({told})")

    def _round(self, number: int, model: GlobalModel, roster: Roster, quorum: int) -> GlobalModel:
        nodes = self._dialogue.available(roster, quorum, self._run.strategy.deadline_seconds, f"round {number}")
        started = time.monotonic()
        sent, beside = self._outgoing(model)
        proof = self._publish("round.begin", number, sent, nodes, beside)
        self.events.emit("round.started", round=number)
        announced, counted = roster.examples, roster.counted(alike=self._run.silo_dp)
        fold = self._server.begin(model.weights, sum(counted.values()))
        metrics: dict[str, Mapping[str, float]] = {}
        bits: dict[str, float] = {}
        sizes: dict[str, int] = {}
        work: dict[str, tuple[int, int]] = {}

        def take(name: str, answer: Envelope) -> None:
            self._receipts.take(name, answer)
            weights = None
            if self._secure is None:
                weights = received(self._run.updates, answer, model.weights)
            elif answer.array_bytes:
                raise WireError(f"{name} sent its update in clear")
            if answer.number("examples") != announced[name]:
                raise WireError(f"{name} counts {answer.number('examples')} examples, announced {announced[name]}")
            steps = _steps(name, answer)
            self._contributions.answered(name, answer)
            allowed = reported(name, answer.metrics, self._run.metrics)
            bit = self._clipping.bit_of(name, answer.config)
            if weights is not None:
                _folded(fold, name, weights, counted[name], allowed, steps[0])
            metrics[name], work[name], sizes[name] = allowed, steps, answer.array_bytes
            if bit is not None:
                bits[name] = bit
            self.events.emit("silo.answered", round=number, silo=name, metrics=allowed, steps=steps[0], of=steps[1])

        state = Round(frozenset(nodes), quorum, started + self._run.strategy.deadline_seconds)
        config: dict[str, Scalar] = {"round": number, "digest": sent.digest, **self._beside(), **beside}
        if self._run.strategy.adaptive is not None:
            config["mu"] = self._proximal.mu
        config |= self._clipping.told()
        question = Envelope({**config, **proof}, weights=sent.weights)

        def again(name: str) -> Envelope:
            shown = self._publish("round.begin", number, sent, [name], beside)
            return Envelope({**config, **shown}, weights=sent.weights)

        self._dialogue.ask(Kind.TRAIN, question, nodes, state, take, str(number), roster, again=again)
        if state.verdict(time.monotonic()) is Verdict.FAIL:
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            raise RunFailedError(f"round {number} has {len(state.answered)} answers, expected {quorum} ({lost})")
        folded = sorted(state.answered)
        if self._secure is not None:
            taking_part = {name: nodes[name] for name in folded}
            opened = self._secure.open(Trained(number, model.weights, config, taking_part, roster), quorum)
            fold.fold(SUM, opened.model, opened.examples, {})
            for name in set(folded) - set(opened.silos):
                state.dropped[name] = "not in the sum that was opened"
                del metrics[name], work[name]
            folded = list(opened.silos)
            sizes = dict.fromkeys(folded, packed_bytes(None, model.weights.size))
        result = GlobalModel.of(fold.result())
        seconds = time.monotonic() - started
        averaged = _mean_metrics(metrics, roster.examples)
        closed = {
            "round": number,
            "seconds": round(seconds, 4),
            "silos": metrics,
            "dropped": state.dropped,
            "metrics": averaged,
            "fairness": spread(metrics),
            "work": work,
            "mu": self._proximal.mu,
            **self._clipping.told(),
            "bytes": {"down": sent.weights.nbytes * len(nodes), "up": sum(sizes.values())},
            "model": result.digest,
        }
        end: dict[str, str | int | bool] = {
            "model": result.digest,
            "silos": ",".join(folded),
            "dropped": ",".join(sorted(state.dropped)),
            "examples": sum(announced[silo] for silo in folded),
            "bytes_down": sent.weights.nbytes * len(nodes),
            "bytes_up": sum(sizes.values()),
            "partial": ",".join(sorted(silo for silo, (done, planned) in work.items() if done < planned)),
        }
        self._proximal.saw(averaged.get("loss"))
        self._clipping.saw({name: bit for name, bit in bits.items() if name in folded})
        self._contributions.folded(number, folded)
        self._close(number, result, closed, end)
        return result

    def _close(self, number: int, model: GlobalModel, closed: dict[str, Any], end: dict[str, str | int | bool]) -> None:
        """Close a round: the checkpoint first; whatever else a crash leaves out is made up for from it."""
        described = {
            "run": self.run_id,
            "digest": model.digest,
            "shapes": [[shape.name, list(shape.dimensions)] for shape in self._shapes],
            "proximal": self._proximal.state(),
            "clip_norm": self._clipping.norm,
            "closed": closed,
            "end": end,
            "contributions": self._contributions.state(),
            "receipts": self._receipts.state(),
        }
        self._checkpoints.save(number, model.weights, described, self._server.state())
        # Done again, as its checkpoint was damaged, a round that gave the same model is not counted twice.
        before = self._logged.closed.get(number)
        if before != model.digest:
            self._record("round.end", round=number, detail=end)
        if before is None or self.events.find("round.closed", round=number, model=model.digest) is None:
            self.events.emit("round.closed", **closed)

    def _evaluate(self, model: GlobalModel, roster: Roster, quorum: int) -> None:
        nodes = self._dialogue.available(roster, quorum, self._run.strategy.deadline_seconds, "final evaluation")
        rounds = self._run.strategy.rounds
        proof = self._publish("evaluation.begin", rounds, model, nodes, everyone=True)
        metrics: dict[str, Mapping[str, float]] = {}
        keepers: list[str] = []

        def take(name: str, answer: Envelope) -> None:
            self._receipts.take(name, answer)
            metrics[name] = reported(name, answer.metrics, self._run.metrics)
            if answer.config.get(RELEASE) is True:
                keepers.append(name)

        state = Round(frozenset(nodes), quorum, time.monotonic() + self._run.strategy.deadline_seconds)
        config: dict[str, Scalar] = {"round": rounds, "digest": model.digest, **self._beside()}
        question = Envelope({**config, **proof}, weights=model.weights)

        def again(name: str) -> Envelope:
            shown = self._publish("evaluation.begin", rounds, model, [name], everyone=True)
            return Envelope({**config, **shown}, weights=model.weights)

        self._dialogue.ask(Kind.EVALUATE, question, nodes, state, take, "evaluation", roster, again=again)
        self.events.emit(
            "run.evaluated",
            silos=metrics,
            dropped=state.dropped,
            metrics=_mean_metrics(metrics, roster.examples),
            fairness=spread(metrics),
            better_alone=better_alone(metrics),
            model=model.digest,
            release=sorted(keepers),
        )

    def _outgoing(self, model: GlobalModel) -> tuple[GlobalModel, dict[str, str]]:
        """What silos are sent of a round; under SCAFFOLD also which of their control variates they go on from."""
        outgoing = self._server.outgoing(model.weights)
        if outgoing is model.weights:
            return model, {}
        return GlobalModel.of(outgoing), {FOLDED: folded_text(self._contributions.last_folded())}

    def _publish(
        self,
        action: str,
        number: int,
        model: GlobalModel,
        nodes: Collection[str],
        beside: Mapping[str, str] = NOTHING_BESIDE,
        *,
        everyone: bool = False,
    ) -> dict[str, str]:
        """Record which model these silos are about to get; returns the proof that goes with it (promise 10)."""
        said = {**(self._clipping.published() if action == "round.begin" else {}), **beside}
        if self._normalization is not None:
            said["normalization"] = normalization_digest(self._normalization)
        silent, receipts = self._receipts.publish(action, number, model.digest, said, nodes)
        detail = {"model": model.digest, "silos": ",".join(sorted(nodes)), **said, **silent}
        event = self._event(action, round=number, detail=detail)
        return {EVIDENCE: self._witnessing.call(nodes, event, everyone=everyone), **receipts}


def _folded(fold: Fold, silo: str, weights: Weights, examples: int, metrics: Mapping[str, float], steps: int) -> None:
    """Fold one silo's weights in; raises WireError with nothing folded, or RunFailedError for a fault in between."""
    try:
        fold.fold(silo, weights, examples, metrics, steps)
    except (ConcordatError, OSError):
        raise
    except Exception as error:
        logging.getLogger("concordat").exception("folding the update of %s", silo)
        raise RunFailedError(
            f"the update of {silo} may be half in the sum: {type(error).__name__} while it was folded in"
        ) from None


def _steps(silo: str, answer: Envelope) -> tuple[int, int]:
    """The steps a silo did and those it had planned; fewer are the partial work of FedProx. Raises WireError."""
    steps, planned = answer.number("steps"), answer.number("planned")
    if not 1 <= steps <= planned <= LIMITS.steps:
        raise WireError(f"{silo} counts {steps} of {planned} steps, expected at least one and no more than planned")
    return steps, planned


def _mean_metrics(metrics: Mapping[str, Mapping[str, float]], examples: Mapping[str, int]) -> dict[str, float]:
    """The silos' metrics averaged by the training rows they announced."""
    out: dict[str, float] = {}
    for name in RANGES:
        parts = [(examples[silo], values[name]) for silo, values in metrics.items() if name in values]
        if parts and name not in NOT_AVERAGED:
            out[name] = sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
    return out
