"""Runs as they lie on disk: what was submitted, how it stands, and what the coordinator's log says of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from coordinator.events import COORDINATOR, FINAL, EventLog
from federation.errors import RunFailedError, SubmissionError, WireError
from federation.home import read_limited, replace_file
from federation.identity import Role, load_certificate, peer_of
from federation.json_text import parse_json
from federation.limits import LIMITS
from federation.manifest import Federation
from federation.run import SignedRun, app_digest, parse_signed_run
from federation.submission import Submission

INTERRUPTED = "interrupted"
"""The state of a run that has not ended and does not execute."""
_SUBMITTED, _APP, _OWNER = "signed.json", "app.fab", "operator"
_SUBMISSION = 4 * LIMITS.document
_ACTIONS = ("run.submit", "run.begin", "round.end", "round.unmask", "statistics.merge")


def require_new(
    submission: Submission, chosen: Literal["all"] | Collection[str], federation: Federation, now: datetime
) -> None:
    """Check what each gate will check of a run that is submitted now; raises SubmissionError."""
    submission.require_open(now)
    submission.require_silos(chosen)
    silos = sorted(member.name for member in federation.with_role(Role.SILO))
    strangers = sorted(set(submission.silos) - set(silos))
    if strangers:
        raise SubmissionError(
            f"the run is signed for {strangers[0]}, expected silos of the federation: {', '.join(silos)[:500]}"
        )


def write_submission(directory: Path, signed: SignedRun, app: bytes) -> None:
    """Keep what was submitted beside the run's results; durable."""
    (directory / "run.yaml").write_text(signed.text)
    replace_file(directory / _APP, app)
    replace_file(directory / _OWNER, signer_of(signed).encode())
    replace_file(directory / _SUBMITTED, json.dumps(signed.fields()).encode() + b"\n")


def signer_of(signed: SignedRun) -> str:
    """The name in the certificate that came with a signed run; raises IdentityError. Nothing is verified here."""
    return peer_of(load_certificate(signed.operator_certificate)).name


def read_owner(directory: Path) -> str:
    """The name of the operator who submitted a run, as the door checked it then; raises ConcordatError.

    It is kept beside the submission, so that its operator can see why a run with a damaged submission failed.
    """
    if (directory / _OWNER).exists():
        return read_limited(directory / _OWNER, LIMITS.certificate).decode("utf-8", "replace")
    return signer_of(read_signed(directory))


def read_signed(directory: Path) -> SignedRun:
    """The signed run that was submitted. Raises RunFailedError if it is not there whole; it is not verified again."""
    try:
        return parse_signed_run(parse_json(read_limited(directory / _SUBMITTED, _SUBMISSION)))
    except (ValueError, WireError):
        raise RunFailedError("what was submitted cannot be read") from None


def read_submission(directory: Path) -> tuple[SignedRun, bytes]:
    """What was submitted. Raises RunFailedError where it is not there whole; nothing else is verified yet."""
    signed, app = read_signed(directory), read_limited(directory / _APP, LIMITS.app)
    if app_digest(app) != signed.app_digest:
        raise RunFailedError(f"got app {app_digest(app)[:19]}, expected {signed.app_digest[:19]}, which was signed")
    return signed, app


@dataclass
class Logged:
    """What a coordinator's log says of one run: the model after each round that it closed, by number."""

    submitted: bool = False
    begun: bool = False
    closed: dict[int, str] = field(default_factory=dict)
    opened: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """The silos of the sums that were begun to be opened under secure aggregation, by round."""
    merged: str | None = None
    """The digest of the statistics that the silos' came to."""


def logged_of(entries: Iterable[Mapping[str, Any]], run_id: str) -> Logged:
    """What entries of a log say of a run."""
    found = Logged()
    for entry in entries:
        if entry["run"] != run_id:
            continue
        match entry["action"]:
            case "run.submit":
                found.submitted = True
            case "run.begin":
                found.begun = True
            case "round.end":
                found.closed[int(entry["round"])] = str(entry["detail"]["model"])
            case "statistics.merge":
                found.merged = str(entry["detail"]["statistics"])
            case "round.unmask":
                found.opened[int(entry["round"])] = tuple(str(entry["detail"]["silos"]).split(","))
    return found


def read_logged(audit: Path, run_id: str) -> Logged:
    """What the log in a directory says of a run; the log was verified when it was opened."""
    name, marks = run_id.encode(), [f'"{action}"'.encode() for action in _ACTIONS]

    def entries() -> Iterable[Mapping[str, Any]]:
        for segment in sorted(audit.glob("segments/*.jsonl")):
            with segment.open("rb") as lines:
                for line in lines:
                    if name in line and any(mark in line for mark in marks):
                        yield json.loads(line)

    return logged_of(entries(), run_id)


class RecordedRun:
    """A run that does not execute, as its directory shows it."""

    def __init__(self, directory: Path) -> None:
        self.run_id = directory.name
        self.directory = directory

    @property
    def events(self) -> EventLog:
        """Its events; they are read anew each time."""
        log = EventLog(self.directory / "events.jsonl")
        log.close()
        return log

    @property
    def state(self) -> str:
        """How it ended, or that it was interrupted."""
        kind = str(_last_event(self.directory / "events.jsonl").get("event", ""))
        return kind.removeprefix("run.") if kind in FINAL else INTERRUPTED

    def stop(self, by: str = COORDINATOR) -> None:
        """Nothing: it does not execute."""

    def fail(self, problem: str) -> None:
        """End it with a reason."""
        log = EventLog(self.directory / "events.jsonl")
        log.emit("run.failed", problem=problem)
        log.close()


def recorded_runs(directory: Path) -> list[RecordedRun]:
    """The runs in a coordinator's directory of runs, oldest first."""
    found = [path for path in directory.glob("*") if path.is_dir()] if directory.is_dir() else []
    return [RecordedRun(path) for path in sorted(found, key=lambda path: (_began(path), path.name))]


def describe(run_id: str, state: str, events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How a run stands, from its events, for whoever asks."""
    out: dict[str, Any] = {"run": run_id, "state": state, "closed": 0, "resumed": 0}
    for event in events:
        match event["event"]:
            case "run.started":
                out |= {name: event[name] for name in ("name", "purpose", "strategy", "rounds", "silos")}
                out["submitted"] = event["time"]
            case "run.resumed":
                out["resumed"] += 1
            case "round.closed":
                out |= {"closed": event["round"], "metrics": event["metrics"], "model": event.get("model")}
            case "run.evaluated":
                out |= {"metrics": event["metrics"], "model": event["model"]}
            case "silo.admitted" if event.get("release"):
                out["release"] = sorted({*out.get("release", ()), event["silo"]})
        out["newest"], out["number"] = event["time"], event["number"]
        out["problem"] = event.get("problem")
    return out


def _began(directory: Path) -> float:
    path = directory / _SUBMITTED
    return path.stat().st_mtime if path.exists() else 0.0


def _last_event(path: Path) -> Mapping[str, Any]:
    """The last whole line of a file of events."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LIMITS.event_line))
            content = file.read()
        event = json.loads(content[: content.rfind(b"\n")].rpartition(b"\n")[2])
    except (OSError, ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
