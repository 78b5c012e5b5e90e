"""What an operator can fetch of a run, also of one that ended long ago: checkpoints, model, passport, submission."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Literal, Protocol

from coordinator.checkpoints import Checkpoints
from coordinator.passport import MODEL, PASSPORT
from coordinator.recorded import read_submission
from coordinator.statistics import STATISTICS
from coordinator.superlink import Response
from federation.errors import UsageError

_BINARY, _JSON = "application/octet-stream", "application/json"


class Kept(Protocol):
    """A run and the directory in which it is kept."""

    run_id: str
    directory: Path


def kept_of(directory: Path) -> dict[str, list[int] | list[str]]:
    """What a run's directory holds: the closed rounds whose checkpoints are kept, and the files of its end."""
    files = [name for name in (MODEL, PASSPORT, STATISTICS) if (directory / name).exists()]
    return {"checkpoints": Checkpoints(directory).numbers(), "files": files}


def fetched(run: Kept, what: Literal["model", "passport", "submission", "statistics"]) -> Response:
    """A file of a run; raises UsageError for what is not there, RunFailedError for what cannot be read."""
    match what:
        case "model":
            return Response(200, _file(run, MODEL, what), _BINARY)
        case "passport":
            return Response(200, _file(run, PASSPORT, what), _JSON)
        case "statistics":
            return Response(200, _file(run, STATISTICS, what), _JSON)
        case "submission":
            signed, app = read_submission(run.directory)
            content = {**signed.fields(), "app": base64.b64encode(app).decode()}
            return Response(200, json.dumps(content).encode(), _JSON)


def checkpoint(run: Kept, number: str) -> Response:
    """The model after a closed round as a NumPy archive; raises UsageError where it is not kept."""
    checkpoints = Checkpoints(run.directory)
    kept = checkpoints.numbers()
    if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) not in kept:
        advice = f"it keeps those of rounds {', '.join(map(str, kept))}" if kept else "it has closed no round"
        raise UsageError(f"run {run.run_id} keeps no checkpoint of round {number[:20]!r}", advice=advice)
    return Response(200, checkpoints.archive(int(number)), _BINARY)


def _file(run: Kept, name: str, what: str) -> bytes:
    path = run.directory / name
    if not path.exists():
        raise UsageError(f"run {run.run_id} has no {what}", advice="it has not completed")
    return path.read_bytes()
