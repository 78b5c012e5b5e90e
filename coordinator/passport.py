"""Ends a run: says in a statement what is known of its model, and puts it, signed, beside the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from federation.home import replace_file
from federation.manifest import SignedManifest
from federation.passport import Agreed, Contribution, Predicate, Seal, Summed, Trained, file_digest
from federation.run import Run, SignedRun

MODEL, PASSPORT = "model.npz", "passport.json"
"""The files in a run's directory in which it ends."""


@dataclass(frozen=True)
class Submitted:
    """A run as it came in: its id, what was signed, who submitted it, and the manifest of then."""

    run_id: str
    signed: SignedRun
    operator: str
    manifest: SignedManifest


def predicate_of(
    submitted: Submitted,
    weights: str,
    silos: Mapping[str, Contribution],
    logs: Mapping[str, str],
    finished: datetime,
    agreed: Agreed | None = None,
) -> Predicate:
    """What is said of a run's final weights, named by their digest; pure."""
    signed, manifest = submitted.signed, submitted.manifest
    run = signed.document().model
    return Predicate(
        federation=manifest.federation.metadata.name,
        coordinator=manifest.federation.coordinator.name,
        manifest=manifest.document.digest,
        manifest_version=manifest.version,
        run=Trained(
            id=submitted.run_id,
            digest=signed.digest,
            name=run.metadata.name,
            purpose=run.purpose,
            dataset=run.dataset,
            strategy=run.strategy.name,
            rounds=run.strategy.rounds,
            seed=run.seed,
            operator=submitted.operator,
            secure_aggregation=_summed(run),
        ),
        app=signed.app_digest,
        weights=weights,
        silos={name: _in_mode(part, run) for name, part in silos.items()},
        logs=dict(logs),
        finished=finished.astimezone(UTC).replace(microsecond=0),
        agreed=agreed,
    )


def _summed(run: Run) -> Summed | None:
    wanted = run.secure_aggregation
    if wanted is None:
        return None
    return Summed(threshold=wanted.threshold, largest_change=wanted.largest_change)


def _in_mode(part: Contribution, run: Run) -> Contribution:
    """A contribution whose epsilon says of what it is."""
    if part.privacy is None or not run.silo_dp:
        return part
    return part.model_copy(update={"privacy": part.privacy.model_copy(update={"mode": "silo_dp"})})


def issue_in(directory: Path, seal: Seal, predicate: Predicate, record: Callable[[dict[str, str]], None]) -> None:
    """Sign the passport of the model in a run's directory; `record` makes its digests durable before it is there."""
    model = file_digest(directory / MODEL)
    passport = seal(model, predicate)
    own = "sha256:" + hashlib.sha256(passport).hexdigest()
    record({"passport": own, "file": f"sha256:{model}", "model": predicate.weights})
    replace_file(directory / PASSPORT, passport)
