"""Keeps a run's final model until the silos that have a say in it have released it to the operator who asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audit.entry import Event
from audit.log import AuditLog
from coordinator.asides import Asides
from coordinator.recorded import read_owner, read_submission
from federation.errors import IdentityError, RefusedError, UsageError
from federation.home import read_limited, replace_file
from federation.identity import Peer
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.release import ReleaseRequest, verify_release_request
from federation.wire import Envelope, Kind

RELEASES = "releases.json"
"""The file in a run's directory: the time of each silo's release, by the party it was to."""
SECONDS = 20.0
RELEASED = "release.silo"
"""The rule under which a silo's release is recorded here."""

Run = tuple[str, Path, Iterable[Mapping[str, Any]]]
"""A run's id, its directory and its events."""


def keepers_of(events: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The silos whose policy, at admission or at the final evaluation, has the model kept until they release it."""
    found: set[str] = set()
    for event in events:
        if event["event"] == "silo.admitted" and event.get("release"):
            found.add(str(event["silo"]))
        elif event["event"] == "run.evaluated":
            found.update(map(str, event.get("release", ())))
    return frozenset(found)


def askable(directory: Path, events: Iterable[Mapping[str, Any]], operator: Peer) -> frozenset[str]:
    """The silos that have to release a run's model to an operator.

    The run's own operator was a party when the silos admitted it, so that only those whose policy keeps the model are
    asked. Any other operator was not: every silo that admitted the run decides anew.
    """
    found = list(events)
    if read_owner(directory) == operator.name:
        return keepers_of(found)
    return frozenset(str(event["silo"]) for event in found if event["event"] == "silo.admitted")


class Releases:
    """Asks silos for releases, records their answers, and hands out nothing before."""

    def __init__(
        self,
        asides: Asides,
        online: Callable[[], Mapping[str, int]],
        manifest: Callable[[], SignedManifest],
        log: AuditLog,
    ) -> None:
        self._asides, self._online, self._manifest, self._log = asides, online, manifest, log

    def require(self, run: Run, operator: Peer) -> None:
        """Raise RefusedError unless every silo that has a say in it has released the run's model to this operator."""
        run_id, directory, events = run
        waiting = sorted(askable(directory, events, operator) - set(_released(directory).get(operator.name, {})))
        if waiting:
            raise RefusedError(
                f"{', '.join(waiting)} {'has' if len(waiting) == 1 else 'have'} not released the model of {run_id} to "
                f"{operator.name}",
                advice=f"ask for it: concordat run release {run_id}",
            )

    def ask(self, run: Run, request: ReleaseRequest, operator: Peer) -> dict[str, dict[str, str]]:
        """Ask every silo that has a say in the run's model for it; returns what each said.

        Raises IdentityError or UsageError.
        """
        run_id, directory, events = run
        events = list(events)
        manifest = self._manifest()
        if verify_release_request(request, manifest).name != operator.name:
            raise IdentityError(f"the request is not signed by {operator.name}, who sends it")
        model = next((str(event["model"]) for event in events if event["event"] == "run.evaluated"), None)
        expected = (run_id, read_submission(directory)[0].digest, model)
        if (request.run, request.run_digest, request.model) != expected:
            raise UsageError(f"the request is for another model than that of {run_id}")
        released = _released(directory)
        keepers = askable(directory, events, operator) - set(released.get(operator.name, {}))
        online = self._online()
        nodes = {silo: online[silo] for silo in sorted(keepers) if silo in online}
        shown = {"manifest": manifest.document.text, "manifest_signature": manifest.signature}
        answers: Mapping[str, Envelope] = {}
        if nodes:
            with self._asides.opened() as ask:
                answers = ask(Kind.RELEASE, Envelope({**request.fields(), **shown}), nodes, SECONDS)
        said = {silo: _said(answers.get(silo)) for silo in sorted(keepers)}
        for silo, fields in said.items():
            self._record(run_id, silo, operator, request.model, fields)
            if fields["status"] == "released":
                moment = datetime.now(UTC).isoformat(timespec="seconds")
                released.setdefault(operator.name, {})[silo] = moment
        replace_file(directory / RELEASES, json.dumps(released).encode())
        return said

    def _record(self, run_id: str, silo: str, operator: Peer, model: str, said: Mapping[str, str]) -> None:
        if said["status"] == "silent":
            return
        allowed = said["status"] == "released"
        self._log.append(
            Event(
                actor=operator.uri,
                action="model.release",
                resource=f"run/{run_id}",
                decision="allow" if allowed else "deny",
                rule=RELEASED if allowed else said["rule"] or "unnamed",
                reason="the silo released the model" if allowed else said["reason"] or None,
                run=run_id,
                detail={"silo": silo, "party": operator.name, "model": model},
            )
        )


def _said(answer: Envelope | None) -> dict[str, str]:
    if answer is None:
        return {"status": "silent", "rule": "", "reason": "it is not connected or gave no answer", "location": ""}
    fields = {
        name: str(answer.config.get(name, ""))[:1000] for name in ("status", "rule", "reason", "location", "remedy")
    }
    if fields["status"] not in {"released", "refused"}:
        fields |= {"status": "refused", "rule": "release.request"}
    return fields


def _released(directory: Path) -> dict[str, dict[str, str]]:
    path = directory / RELEASES
    if not path.exists():
        return {}
    try:
        found = parse_json(read_limited(path, LIMITS.document))
        return {str(party): {str(silo): str(at) for silo, at in silos.items()} for party, silos in found.items()}
    except (ValueError, AttributeError):
        raise UsageError(f"{path} is damaged", advice="move it away and ask for the release again") from None
