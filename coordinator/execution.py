"""What every execution of a run at the coordinator does: its thread, its outcome, its records, its silos."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from audit.entry import Decision
from audit.entry import Event as AuditEvent
from audit.errors import AuditError
from audit.log import AuditLog
from coordinator.dialogue import Dialogue, Stopped, Suspended
from coordinator.events import COORDINATOR, EventLog
from coordinator.releases import keepers_of
from coordinator.superlink import SuperLink
from coordinator.witnessing import Witnessing
from federation.errors import ConcordatError, RefusedError, RunFailedError
from federation.identity import Role
from federation.logs import tell
from federation.manifest import SignedManifest
from federation.run import SignedRun
from federation.wire import Envelope

ONLINE_SECONDS = 30.0
LONGEST_REASON = 2000
"""What an entry holds of why a run ended, in characters: it may repeat what each of many silos said."""


class Execution(ABC):
    """One run from submission to its end; `execute` is called once, in a thread of its own.

    `again` says that an earlier process executed it, `keeps_model` that its model is kept until silos release it.
    """

    def __init__(
        self,
        run_id: str,
        directory: Path,
        signed: SignedRun,
        newest: Callable[[], SignedManifest],
        superlink: SuperLink,
        log: AuditLog,
        actor: str,
        witnessing: Witnessing,
        *,
        again: bool,
        keeps_model: bool = False,
    ) -> None:
        self.run_id = run_id
        self.directory = directory
        self.events = EventLog(directory / "events.jsonl")
        self.state = "pending"
        self._taken_up = again
        self._submission = signed.submission
        manifest = self._manifest = newest()
        self._newest = newest
        self._superlink = superlink
        self._log = log
        self._actor = actor
        self._witnessing = witnessing
        admission = Envelope(
            {
                **signed.fields(),
                "manifest": manifest.document.text,
                "manifest_signature": manifest.signature,
                "run_id": run_id,
                **({"release_asked": True} if keeps_model else {}),
            }
        )
        self._dialogue = Dialogue(superlink, self.events, self._record, admission, witnessing)

    @abstractmethod
    def take_up(self) -> None:
        """Find where an earlier process left the run; `execute` then goes on from there."""

    @abstractmethod
    def _execute(self) -> None:
        """Do the run's own work; raises ConcordatError, AuditError or OSError where it cannot be done."""

    def suspend(self) -> None:
        """Have the run interrupted where it is; the next process of this coordinator goes on with it."""
        self._dialogue.suspend()

    def stop(self, by: str = COORDINATOR) -> None:
        """Ask the run to end, for who `by` names; it does so at once."""
        self._dialogue.stop(by)

    def exclude(self, silo: str) -> None:
        """Go on without a silo that left the federation, where the quorum allows."""
        self._dialogue.exclude(silo)

    def execute(self) -> None:
        """Run to the end; the outcome is in the events, the audit log and `state`."""
        self.state = "running"
        outcome, problem = "run.completed", ""
        try:
            self._execute()
        except Suspended:
            outcome = "run.suspended"
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
        except Exception as error:
            logging.getLogger("concordat").exception("run %s met a fault", self.run_id)
            outcome, problem = "run.failed", f"the coordinator has a fault: {type(error).__name__}"
        finally:
            self._dialogue.close(completed=outcome == "run.completed")
            self._keep_cosigned()
        self.state = outcome.removeprefix("run.")
        if outcome == "run.suspended":
            with contextlib.suppress(AuditError):
                self._record("run.suspend")
            self.events.close()
            return
        try:
            self._record("run.end", reason=problem[:LONGEST_REASON] or None, detail={"outcome": self.state})
        except AuditError as error:
            outcome, problem = "run.failed", problem or f"the end of the run cannot be recorded: {error}"
        kept = sorted(keepers_of(self.events.after(0, 0.0)[0])) if outcome == "run.completed" else []
        try:
            self.events.emit(
                outcome, **({"problem": problem} if problem else {}), **({"release": kept} if kept else {})
            )
        except OSError as error:
            tell(f"the end of {self.run_id}, {outcome}, is not in its events: {error.strerror}")

    def _keep_cosigned(self) -> None:
        with contextlib.suppress(OSError):
            self._witnessing.keep()

    def _silos(self) -> list[str]:
        """The silos that were signed for and are still members."""
        members = {member.name for member in self._manifest.federation.with_role(Role.SILO)}
        silos = [name for name in self._submission.silos if name in members]
        if not silos:
            raise RunFailedError(f"none of {', '.join(self._submission.silos)[:500]} is a member any more")
        return silos

    def _wait_online(self, silos: list[str], quorum: int, patience: float) -> dict[str, int]:
        deadline = time.monotonic() + patience
        while True:
            online = self._superlink.online()
            nodes = {name: online[name] for name in silos if name in online}
            if len(nodes) == len(silos):
                return nodes
            if time.monotonic() >= deadline:
                missing = sorted(set(silos) - set(nodes))
                if len(nodes) < quorum:
                    raise RunFailedError(
                        f"{', '.join(missing)} not connected after {patience:.0f} s, expected at least {quorum} silos"
                    )
                for name in missing:
                    self.events.emit("silo.absent", silo=name)
                return nodes
            self._dialogue.pause(0.1)

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
        self._log.append(self._event(action, decision=decision, rule=rule, reason=reason, round=round, detail=detail))

    def _event(
        self,
        action: str,
        *,
        decision: Decision = "record",
        rule: str | None = None,
        reason: str | None = None,
        round: int | None = None,  # noqa: A002  the field's term
        detail: Mapping[str, str | int | bool] | None = None,
    ) -> AuditEvent:
        return AuditEvent(
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
