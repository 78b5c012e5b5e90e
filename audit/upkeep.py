"""Looking after a log: the same work by a command on a stopped member, or by its running process on request.

A request is a file in the directory `upkeep` beside the log, which is there while a process listens. Whoever can write
it could stop the process and do the work without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from audit.erasure import apply, bound_of, erase, find_due, rules_of, set_rules
from audit.errors import AuditError
from audit.limits import LIMITS
from audit.log import AuditLog, utc_now
from audit.rollback import acknowledge
from audit.store import replace_file

LOOK_SECONDS = 0.5
TAKEN_SECONDS = 20.0
"""How long a request waits to be taken up."""
DONE_SECONDS = 600.0
"""How long one that was taken up may take."""
_REQUEST, _TAKEN, _ANSWER = ".request", ".taken", ".answer"


@dataclass(frozen=True)
class Wanted:
    """What is to be done: `erase`, `retention` or `acknowledge-rollback`, with what belongs to it."""

    action: str
    reason: str = ""
    seq: int = 0
    despite_minimum: bool = False
    rules: tuple[str, ...] = ()
    apply: bool = False


def carry_out(log: AuditLog, actor: str, wanted: Wanted) -> list[str]:
    """Do it and return what there is to say; raises AuditError."""
    if wanted.action == "erase":
        erase(log, wanted.seq, actor, wanted.reason, utc_now(), despite_minimum=wanted.despite_minimum)
        return [f"the payload of entry {wanted.seq} is erased, and that is recorded"]
    if wanted.action == "acknowledge-rollback":
        return [f"recorded as entry {acknowledge(log, actor, wanted.reason)}"]
    if wanted.action != "retention":
        raise AuditError(f"got the request {wanted.action[:40]!r}, expected erase, retention or acknowledge-rollback")
    rules = set_rules(log, list(wanted.rules), actor) if wanted.rules else rules_of(log)
    due = find_due(log, utc_now())
    entries = sum(segment.entries for segment in due.segments)
    said = [f"rule: {one.text}" for one in rules]
    bound = bound_of(log.folder)
    if bound is not None:
        said.append(f"policy: {bound.text}")
    said.append(f"due: {len(due.payloads)} payloads, {len(due.segments)} segments with {entries} entries")
    if wanted.apply:
        apply(log, due, actor)
        said.append("removed, and recorded in the log")
    return said


class Upkeep:
    """A thread of a running member that does what is asked of its log."""

    def __init__(self, log: AuditLog, actor: str) -> None:
        self._log, self._actor, self._folder = log, actor, log.folder / "upkeep"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-upkeep", daemon=True)

    def start(self) -> None:
        """Begin to listen; what was asked of an earlier process is dropped."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        self._thread.start()

    def stop(self) -> None:
        """End; returns once nothing is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):
                for request in sorted(self._folder.glob(f"*{_REQUEST}")):
                    self._answer(request)

    def _answer(self, request: Path) -> None:
        taken = request.rename(request.with_suffix(_TAKEN))
        try:
            answer: dict[str, object] = {"said": carry_out(self._log, self._actor, _read(taken))}
        except (AuditError, OSError) as error:
            answer = {"error": str(error)}
        replace_file(request.with_suffix(_ANSWER), json.dumps(answer).encode(), mode=0o600)
        taken.unlink()


def ask(folder: Path, wanted: Wanted, taken_seconds: float = TAKEN_SECONDS) -> list[str] | None:
    """Ask the process that writes to the log in a folder; returns what it says, or None where none listens.

    Raises AuditError with its reason, or where it does not answer.
    """
    place = folder / "upkeep" / secrets.token_hex(8)
    request, answer = place.with_suffix(_REQUEST), place.with_suffix(_ANSWER)
    try:
        replace_file(request, json.dumps(asdict(wanted)).encode(), mode=0o600)
    except FileNotFoundError:
        return None
    try:
        if not _came(answer.exists, taken_seconds):
            with contextlib.suppress(FileNotFoundError):
                request.unlink()
                raise AuditError(f"the process that writes to {folder} did not take up the request")
            if not _came(answer.exists, DONE_SECONDS):
                raise AuditError(f"the process that writes to {folder} ended or is not done: see its log")
        with answer.open("rb") as file:
            found = json.loads(file.read(LIMITS.proof_file))
    finally:
        answer.unlink(missing_ok=True)
    if "error" in found:
        raise AuditError(str(found["error"]))
    return [str(line) for line in found["said"]]


def _came(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _read(path: Path) -> Wanted:
    """A request, from a file of this user's own; raises AuditError for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
            raise AuditError("the request is not a file that this user alone can write")
        data = file.read(LIMITS.retention + 1)
    if len(data) > LIMITS.retention:
        raise AuditError(f"got a request of more than {LIMITS.retention} bytes")
    try:
        found = json.loads(data)
        kinds = {field: type(value) for field, value in asdict(Wanted("")).items()}
        fits = found.keys() == kinds.keys() and all(
            type(found[name]) is (list if kind is tuple else kind) for name, kind in kinds.items()
        )
        if not fits or not all(isinstance(rule, str) for rule in found["rules"]):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise AuditError("got a request that cannot be read") from None
    return Wanted(**{**found, "rules": tuple(found["rules"])})
