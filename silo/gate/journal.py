"""What a handler enters in the silo's log: decisions, refusals, actions; each is durable once the call returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from audit.entry import JSON, Event
from audit.entry import Decision as LogDecision
from audit.log import AuditLog
from federation.identity import Peer
from policies.decision import Decision
from policies.document import Document
from policies.model import SiloPolicy
from silo.gate.parts import Refusal

Detail = Mapping[str, str | int | bool]


class Journal:
    """Writes entries of one silo; `policy` gives the active policy, `run` the run in progress, if there is one."""

    def __init__(
        self,
        log: AuditLog,
        peer: Peer,
        policy: Callable[[], Document[SiloPolicy]],
        run: Callable[[], str | None],
    ) -> None:
        self._log, self._peer, self._policy, self._run = log, peer, policy, run

    def decide(
        self,
        action: str,
        decision: Decision,
        run: str,
        number: int | None = None,
        detail: Detail | None = None,
        payload: Mapping[str, JSON] | None = None,
    ) -> None:
        """Record a decision; returns once it is durable, and raises Refusal where it is a denial.

        What a rule that is only observed would have refused is recorded before it.
        """
        policy = self._policy().digest
        observed = [
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"run/{run}",
                rule=would.rule,
                reason=would.reason,
                policy=policy,
                run=run,
                round=number,
                detail={"enforced": False, "location": would.location},
            )
            for would in decision.observed
        ]
        self._log.append(
            *observed,
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"run/{run}",
                decision=decision.effect,
                rule=decision.rule,
                reason=decision.reason,
                policy=policy,
                run=run,
                round=number,
                detail={**(detail or {}), "location": decision.location},
                payload=payload,
            ),
        )
        if not decision.allowed:
            raise Refusal(decision.rule, decision.reason, decision.location, decision.remedy)

    def require_fits(self, action: str, run: str, payload: Mapping[str, JSON]) -> None:
        """Raise AuditEventError for a payload that no entry holds.

        Asked before a reply is kept: one that is kept, and cannot be recorded, would leave where it is asked for again.
        """
        Event(self._peer.uri, action, f"run/{run}", run=run, payload=payload)

    def refuse(self, rule: str, reason: str, run: str | None = None) -> Refusal:
        """Record a refusal and give it to be raised."""
        self.record("message.refused", decision="deny", rule=rule, reason=reason, run=run)
        return Refusal(rule, reason)

    def record(
        self,
        action: str,
        *,
        decision: LogDecision = "record",
        rule: str | None = None,
        reason: str | None = None,
        run: str | None = None,
        number: int | None = None,
        detail: Detail | None = None,
    ) -> None:
        """Record an action, of the run in progress where no other is named."""
        run = run or self._run()
        self._log.append(
            Event(
                actor=self._peer.uri,
                action=action,
                resource=f"run/{run}" if run else f"silo/{self._peer.name}",
                decision=decision,
                rule=rule,
                reason=reason,
                policy=self._policy().digest,
                run=run,
                round=number,
                detail=detail or {},
            )
        )
