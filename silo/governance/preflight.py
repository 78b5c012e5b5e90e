"""What a policy would say of a run, from the run, its app and the manifest alone; the gate's own questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from federation.errors import ManifestError, UsageError
from federation.home import read_limited
from federation.identity import Peer, Role
from federation.limits import LIMITS
from federation.manifest import Federation
from federation.operator import build_app
from federation.run import Run, app_digest, load_run
from policies.document import load_document
from policies.engine import Step, trace
from policies.explanation import WIDTH
from policies.model import load_policy
from policies.request import Egress, Ingress, Party, Privacy, Request, View
from silo.gate.facts import quorum_of
from silo.gate.session import Standing, admission_of, parties_of

PARTIES = ("residency.", "purposes.persons", "purposes.public_bodies", "runs.minimum_silos", "default-deny")
"""Rules that ask who takes part."""

AT_THE_SILO = {
    "admission": (
        "apps.reviewers",
        "apps.uses",
        "runs.max_concurrent",
        "identity.",
        "audit.",
        "release.asked",
        "privacy.noise_multiplier",
        "privacy.max_epsilon",
        "privacy.budget",
    ),
    "view": ("datasets.rows.", "datasets.contract", "datasets.columns.pseudonymize"),
    "ingress": ("ingress.dtype", "ingress.shape", "ingress.finite", "ingress.max_bytes"),
    "egress": ("egress.metrics.minimum_count", "egress.metrics.finite", "egress.update.", "privacy."),
}
"""Rules that ask what only the silo knows, by stage; a prefix ends in a dot."""


@dataclass(frozen=True)
class Stage:
    """What the rules of one stage say; `open` are those that ask what is not known yet, whatever they say now."""

    name: str
    steps: tuple[Step, ...]
    open: frozenset[str]

    @property
    def refused(self) -> tuple[Step, ...]:
        """The steps that refuse by what is known."""
        return tuple(step for step in self.steps if step.outcome == "refused" and step.rule not in self.open)

    def outcome(self, step: Step) -> str:
        """A step's outcome; a rule of which the policy does not speak, or that was not asked, is not open."""
        return "open" if step.outcome in ("refused", "passed") and step.rule in self.open else step.outcome


def preflight(
    run_file: Path,
    policy_file: Path,
    now: datetime,
    manifest: Path | None = None,
    silo: str | None = None,
    operator: str | None = None,
    app: Path | None = None,
) -> tuple[Stage, ...]:
    """Trace every stage of a run under a policy; raises ConcordatError or PolicyError for what cannot be read."""
    policy = load_policy(policy_file)
    run = load_run(read_limited(run_file, LIMITS.document), source=str(run_file)).model
    source = app or run_file.resolve().parent / run.app.path
    bundle = build_app(source) if source.is_dir() else read_limited(source, LIMITS.app)
    parties = _parties(run, manifest, silo, operator)
    quorum = quorum_of(run, sum(party.role == "silo" for party in parties)) if parties else None
    standing = Standing(quorum=quorum, privacy=_declared(run))
    rounds = run.strategy.rounds
    requests: dict[str, Request] = {
        "admission": admission_of(run, app_digest(bundle), parties, silo, standing),
        "view": View(run.dataset, run.columns, 0),
        "ingress": Ingress(rounds, rounds, 0, 0, "", finite=False, size_bytes=0),
        "egress": Egress(
            round=rounds, examples=0, metrics=dict.fromkeys(run.metrics, 0.0), declared_metrics=run.metrics
        ),
    }
    stages = []
    for name, request in requests.items():
        steps = trace(policy, request, now)
        unknown = (*AT_THE_SILO[name], *(PARTIES if not parties else ()))
        stages.append(Stage(name, steps, frozenset(step.rule for step in steps if _matches(step.rule, unknown))))
    return tuple(stages)


def lines(stages: Sequence[Stage]) -> Iterator[str]:
    """The stages for people: what refuses, with its remedy, then every rule."""
    for stage in stages:
        still_open = [step for step in stage.steps if stage.outcome(step) == "open"]
        if stage.refused:
            yield f"{stage.name}: refused by {', '.join(step.rule for step in stage.refused)}"
        else:
            yield f"{stage.name}: nothing refuses" + (f", {len(still_open)} open" if still_open else "")
        for step in stage.steps:
            outcome = stage.outcome(step)
            if outcome == "refused" and step.decision is not None:
                yield f"  {outcome:8} {step.rule:{WIDTH}} {step.location}  {step.decision.reason}"
                yield f"           remedy: {step.decision.remedy}"
            elif outcome not in ("absent", "unasked"):
                yield f"  {outcome:8} {step.rule:{WIDTH}} {step.location}"


def plain(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """The stages as JSON values."""
    return [
        {
            "stage": stage.name,
            "refused": bool(stage.refused),
            "trace": [
                {
                    "rule": step.rule,
                    "outcome": stage.outcome(step),
                    "location": step.location,
                    "reason": step.decision.reason if step.decision else None,
                    "remedy": step.decision.remedy if step.decision else None,
                }
                for step in stage.steps
            ],
        }
        for stage in stages
    ]


def _matches(rule: str, patterns: Sequence[str]) -> bool:
    return any(rule == pattern or (pattern.endswith(".") and rule.startswith(pattern)) for pattern in patterns)


def _declared(run: Run) -> Privacy:
    """What a run says of its privacy itself; noise and epsilon are made from the silo's rows."""
    masked = run.secure_aggregation is not None
    if run.privacy is None:
        return Privacy(mode="none", secure_aggregation=masked)
    return Privacy(mode=run.privacy.mode, clip_norm=run.privacy.largest_clip_norm, secure_aggregation=masked)


def _parties(run: Run, manifest: Path | None, silo: str | None, operator: str | None) -> tuple[Party, ...]:
    """Who takes part, from the manifest's text; what the gate takes is the signed one."""
    if manifest is None:
        if silo or operator:
            raise UsageError("got a silo or an operator without a manifest", advice="give --manifest too")
        return ()
    federation = load_document(read_limited(manifest, LIMITS.document), Federation, source=str(manifest)).model
    operators = [member.name for member in federation.with_role(Role.OPERATOR)]
    if operator is None and len(operators) != 1:
        raise UsageError(f"{manifest} has {len(operators)} operators", advice="say with --operator who will submit")
    name = operator or operators[0]
    if silo is not None and federation.member(silo).role is not Role.SILO:
        raise ManifestError(f"{silo} is a {federation.member(silo).role} in the manifest, expected a silo")
    return parties_of(federation, run, Peer(federation.metadata.name, Role.OPERATOR, name, b""))
