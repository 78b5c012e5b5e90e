"""The privacy ledger: what each dataset has spent, durable before anything it paid for leaves (promise 7).

One file, one line a debit: canonical JSON (RFC 8785) with its number and the digest of the line before, and at the end
the digest of the line itself. A line is forced to disk before `debit` returns. An end that was cut off by a crash was
never followed by a release, and is removed; any other damage is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import rfc8785

from federation.errors import ConcordatError
from federation.limits import LIMITS
from silo.gate.accounting import Mechanism, Plan, epsilon_of

LEDGER = "ledger.jsonl"
"""The ledger's file in a gate's home."""

FIRST = "sha256:" + "0" * 64
"""What the first line names as the digest of the line before."""

LATEST = datetime.max.replace(tzinfo=UTC)


class LedgerError(ConcordatError):
    """The ledger cannot be read or written: nothing private may be trained or released."""


@dataclass(frozen=True)
class Debit:
    """What one round of one run may have cost a dataset."""

    time: datetime
    dataset: str
    run: str
    round: int
    operator: str
    mechanism: Mechanism
    clip_norm: float
    mode: str = "example_dp"
    submission: str = ""
    """The digest of the signed run that it is of; a line of an earlier version names none."""

    def is_of(self, submission: str, dataset: str) -> bool:
        """Whether this signed run spent it of this dataset; what is not known to be a run's is another's."""
        return bool(submission) and (self.submission, self.dataset) == (submission, dataset)


@dataclass(frozen=True)
class Entry:
    """A debit in the ledger: its number from 1 and the digest of its line."""

    number: int
    digest: str
    debit: Debit


@dataclass(frozen=True)
class PrivacyFacts:
    """What a policy decides on: what a run does for privacy, and what is spent of a dataset once it has.

    `epsilon` is what the whole run costs at `delta`; `spent` is the epsilon at `delta` of everything debited to the
    dataset in the window, with the whole of this run. The epsilons of a run are not added up: they are composed.
    """

    mode: str
    clip_norm: float
    noise_multiplier: float
    epsilon: float
    spent: float
    delta: float


def within(entries: Iterable[Entry], since: datetime, now: datetime = LATEST) -> Iterator[Entry]:
    """The debits of a window that begins at `since`, by their order as well as by their times.

    Where the clock was set back, a debit has too early a time: it was made after the one before it, and counts where
    that counts. One from after `now` says nothing of those behind it, as the clock was ahead then.
    """
    begun = False
    for entry in entries:
        time = entry.debit.time
        begun = begun or since <= time <= now
        if begun or time >= since:
            yield entry


def privacy_facts(
    plan: Plan,
    submission: str,
    dataset: str,
    entries: Collection[Entry],
    since: datetime,
    delta: float,
    now: datetime = LATEST,
) -> PrivacyFacts:
    """The facts for a signed run with this plan; `since` is where the policy's window begins, `delta` the policy's.

    Of the run itself is counted what was debited, whenever that was, and for each round that is left what the plan is.
    The plan may be another than at first, where the dataset got other rows meanwhile.
    """
    own = [entry.debit.mechanism for entry in entries if entry.debit.is_of(submission, dataset)]
    counted = [entry.debit for entry in within(entries, since, now) if entry.debit.dataset == dataset]
    others = [debit.mechanism for debit in counted if not debit.is_of(submission, dataset)]
    debited = sum(mechanism.steps for mechanism in own)
    left = max(0, plan.whole.steps - debited) // plan.a_round.steps
    this = [*own, plan.a_round.times(left)] if left else own
    return PrivacyFacts(
        mode=plan.mode,
        clip_norm=plan.clip_norm,
        noise_multiplier=plan.noise_multiplier,
        epsilon=epsilon_of(this, delta),
        spent=epsilon_of([*others, *this], delta),
        delta=delta,
    )


class Ledger:
    """The ledger of one silo, open for debits by one process at a time; `removed` is what a crash had cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._broken = ""
        try:
            new = not path.exists()
            self._file: FileIO = FileIO(path, "a+", opener=_private)
            _lock(self._file, path)
            self._file.seek(0)
            content = _read(self._file, path)
            whole = content.rfind(b"\n") + 1
            self.removed = len(content) - whole
            self._entries = list(parse(content[:whole], str(path)))
            if self.removed:
                self._file.truncate(whole)
                os.fsync(self._file.fileno())
            if new:
                _sync_directory(path.parent)
        except OSError as error:
            raise LedgerError(f"the privacy ledger {path} cannot be opened: {error.strerror}") from None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All debits, oldest first."""
        return tuple(self._entries)

    @property
    def head(self) -> str:
        """The digest of the last line."""
        return self._entries[-1].digest if self._entries else FIRST

    def debit(self, debit: Debit) -> Entry:
        """Append a debit; returns once it is on disk. Raises LedgerError, and from then on always, where it is not."""
        if self._broken:
            raise LedgerError(self._broken)
        number = len(self._entries) + 1
        line = _line(number, self.head, debit)
        if len(line) > LIMITS.ledger_line:
            raise LedgerError(f"got a debit of {len(line)} bytes, expected at most {LIMITS.ledger_line}")
        try:
            if self._file.write(line) != len(line):
                raise OSError(0, "the write was cut short")
            os.fsync(self._file.fileno())
        except OSError as error:
            # Whether the line is on disk is not known; nothing is debited after it until the file is read anew.
            self._broken = f"the privacy ledger {self._path} cannot be written: {error.strerror}"
            raise LedgerError(self._broken) from None
        entry = Entry(number, _digest_of(line), debit)
        self._entries.append(entry)
        return entry

    def close(self) -> None:
        """Let another process open it."""
        self._file.close()


def read_ledger(path: Path) -> tuple[Entry, ...]:
    """The debits of a ledger that a gate may be writing to; a line not yet whole is left out. Raises LedgerError."""
    try:
        with path.open("rb") as file:
            content = _read(file, path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise LedgerError(f"the privacy ledger {path} cannot be read: {error.strerror}") from None
    return tuple(parse(content[: content.rfind(b"\n") + 1], str(path)))


def parse(content: bytes, source: str) -> Iterator[Entry]:
    """Read whole lines; raises LedgerError at the first that is not what it was when it was written."""
    before = FIRST
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            if len(line) > LIMITS.ledger_line:
                raise ValueError(len(line))
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise TypeError(fields)
            debit = _debit_of(fields)
            sound = line == _line(number, before, debit)
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, rfc8785.CanonicalizationError):
            sound = False
        if not sound:
            raise LedgerError(
                f"{source}, line {number} is damaged: got content without its digest, or out of its place",
                advice="restore the file from a backup that holds every debit in the audit log",
            )
        before = _digest_of(line)
        yield Entry(number, before, debit)


def _line(number: int, before: str, debit: Debit) -> bytes:
    fields: dict[str, Any] = {
        "number": number,
        "before": before,
        "time": debit.time.astimezone(UTC).isoformat(),
        "dataset": debit.dataset,
        "run": debit.run,
        "round": debit.round,
        "operator": debit.operator,
        "sampling_rate": debit.mechanism.sampling_rate,
        "noise_multiplier": debit.mechanism.noise_multiplier,
        "steps": debit.mechanism.steps,
        "clip_norm": debit.clip_norm,
        **({} if debit.mode == "example_dp" else {"mode": debit.mode}),
        **({"submission": debit.submission} if debit.submission else {}),
    }
    digest = "sha256:" + hashlib.sha256(rfc8785.dumps(fields)).hexdigest()
    return bytes(rfc8785.dumps({**fields, "digest": digest})) + b"\n"


def _digest_of(line: bytes) -> str:
    return str(json.loads(line)["digest"])


def _debit_of(fields: Mapping[str, Any]) -> Debit:
    mechanism = Mechanism(float(fields["sampling_rate"]), float(fields["noise_multiplier"]), int(fields["steps"]))
    if not (0 < mechanism.sampling_rate <= 1 and mechanism.noise_multiplier > 0 and mechanism.steps >= 1):
        raise ValueError(mechanism)
    time = datetime.fromisoformat(fields["time"])
    if time.tzinfo is None:
        raise ValueError(time)
    return Debit(
        time,
        str(fields["dataset"]),
        str(fields["run"]),
        int(fields["round"]),
        str(fields["operator"]),
        mechanism,
        float(fields["clip_norm"]),
        str(fields.get("mode", "example_dp")),
        str(fields.get("submission", "")),
    )


def _read(file: FileIO | BufferedReader, path: Path) -> bytes:
    content = file.read(LIMITS.ledger + 1)
    if len(content) > LIMITS.ledger:
        raise LedgerError(f"the privacy ledger {path} is larger than {LIMITS.ledger} bytes")
    return content


def _lock(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LedgerError(f"the privacy ledger {path} is held by another gate", advice="stop that one first") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
