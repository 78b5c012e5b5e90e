"""What each silo contributed to a run, for the passport: its policies, rows, rounds and epsilon; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from federation.errors import WireError
from federation.passport import Contribution, Spent, spans
from federation.wire import Envelope

MAX_POLICIES = 1000
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass
class _Part:
    examples: int
    privacy: Spent | None
    policies: list[str] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    def under(self, policy: str) -> None:
        if policy not in self.policies:
            if len(self.policies) >= MAX_POLICIES:
                raise WireError(f"got policy {policy[:19]}, expected at most {MAX_POLICIES} in one run")
            self.policies.append(policy)


class Contributions:
    """Collects what silos say of themselves in their answers, and the rounds into which their updates were folded."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}

    def admitted(self, silo: str, answer: Envelope) -> None:
        """A silo admitted the run, perhaps again; raises WireError where it does not name its policy or its epsilon."""
        policy, privacy = policy_of(answer), _privacy(answer)
        part = self._parts.setdefault(silo, _Part(answer.number("examples"), privacy))
        part.under(policy)

    def answered(self, silo: str, answer: Envelope) -> None:
        """A silo's update comes under the policy that its answer names; raises WireError."""
        self._parts[silo].under(policy_of(answer))

    def folded(self, number: int, silos: Iterable[str]) -> None:
        """A round was closed with these silos' updates."""
        for silo in silos:
            self._parts[silo].rounds.append(number)

    def last_folded(self) -> dict[str, int]:
        """The last round that each silo was folded in, without those that never were."""
        return {silo: part.rounds[-1] for silo, part in self._parts.items() if part.rounds}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON."""
        return {
            silo: {
                "examples": part.examples,
                "privacy": None if part.privacy is None else [part.privacy.epsilon, part.privacy.delta],
                "policies": list(part.policies),
                "rounds": list(part.rounds),
            }
            for silo, part in self._parts.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; a silo that has been admitted again keeps its policy of now as well.

        Raises KeyError, TypeError or ValueError for what `state` did not make.
        """
        for silo, kept in state.items():
            again = self._parts.get(silo)
            privacy = None if kept["privacy"] is None else Spent(epsilon=kept["privacy"][0], delta=kept["privacy"][1])
            part = _Part(int(kept["examples"]), privacy, [str(one) for one in kept["policies"]], [*kept["rounds"]])
            for policy in again.policies if again else ():
                part.under(policy)
            self._parts[silo] = part

    def cost(self, silo: str) -> dict[str, float | None]:
        """What a silo said at admission that the run costs its rows; empty without privacy."""
        privacy = self._parts[silo].privacy
        return {} if privacy is None else {"epsilon": privacy.epsilon, "delta": privacy.delta}

    def of_each(self) -> dict[str, Contribution]:
        """The contributions, by silo."""
        return {
            silo: Contribution(
                policies=tuple(part.policies), examples=part.examples, rounds=spans(part.rounds), privacy=part.privacy
            )
            for silo, part in sorted(self._parts.items())
        }


def policy_of(answer: Envelope) -> str:
    """The digest of the policy under which a silo answers; raises WireError."""
    policy = answer.text("policy")
    if not _DIGEST.fullmatch(policy):
        raise WireError(f"got policy {policy[:80]!r}, expected sha256: and 64 hex digits")
    return policy


def _privacy(answer: Envelope) -> Spent | None:
    """What the silo says that the whole run costs its rows; None for a run without privacy."""
    if "epsilon" not in answer.config:
        return None
    epsilon, delta = answer.config["epsilon"], answer.config.get("delta")
    if not isinstance(epsilon, float) or not isinstance(delta, float) or not epsilon >= 0 or not 0 < delta < 1:
        raise WireError(f"got epsilon {epsilon!s:.20} at delta {delta!s:.20}, expected two numbers from 0")
    return Spent(epsilon=epsilon if math.isfinite(epsilon) else None, delta=delta)
