"""The last replies that a gate released, to be sent again, the same bytes, where the same question comes again.

A reply is on disk before its release is recorded. So whenever the log says that a round's update left, the gate can
answer the question it left for, and need not train again, which would be a second, different release.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from federation.errors import ConcordatError
from federation.home import sync_directory
from federation.limits import LIMITS
from federation.wire import Envelope, Kind, Packed, Weights

REPLIES = "replies"
"""The directory in a gate's home, 0700; its files are 0600."""
KEPT = 3
"""The rounds whose replies are kept: a coordinator whose newest checkpoint is damaged goes back by one round."""


@dataclass(frozen=True)
class Question:
    """What a reply answered: a run, by the digest of what was signed, a kind of work, a round, and what came with it:
    model, mu and clip norm.
    """

    run_digest: str
    kind: str
    round: int
    model: str
    mu: float | None = None
    folded: int | None = None
    """Under SCAFFOLD, the round of the control variate that the silo went on from."""
    clip_norm: float | None = None


class RepliesError(ConcordatError):
    """A reply cannot be kept: then it does not leave either."""


class Replies:
    """The replies kept in one directory; of one run alone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise RepliesError(f"{directory} cannot be made: {error.strerror}") from None

    def keep(self, question: Question, reply: Envelope, residual: Weights | None = None) -> None:
        """Put a reply on disk; returns once it is there. Raises RepliesError.

        `residual` is what the update left out, of which the next round's makes up: kept with the reply, it is there
        exactly where the reply is.
        """
        head = {"question": _fields(question), "config": dict(reply.config), "metrics": dict(reply.metrics)}
        parts = {"weights": reply.weights, "packed": reply.packed, "residual": residual}
        try:
            write_kept(self._path(question), head, {name: part for name, part in parts.items() if part is not None})
            self._forget(question)
        except OSError as error:
            raise RepliesError(f"the reply cannot be kept in {self.directory}: {error.strerror}") from None

    def find(self, question: Question) -> Envelope | None:
        """The reply that was kept for exactly this question; None where there is none, or it is not whole."""
        found = _reply(self._path(question))
        if found is None or found[0]["question"] != _fields(question):
            return None
        head, arrays = found
        return Envelope(head["config"], head["metrics"], floats_of(arrays.get("weights")), _bytes(arrays.get("packed")))

    def residual(self, run_digest: str, last: int) -> Weights | None:
        """What a run's last reply to a round left out; None where it left nothing out, or is not kept."""
        found = _reply(self.directory / _name(Kind.TRAIN, last))
        if found is None or found[0]["question"]["run_digest"] != run_digest:
            return None
        return floats_of(found[1].get("residual"))

    def clear(self) -> None:
        """Forget every reply: another run has begun."""
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)

    def _forget(self, question: Question) -> None:
        """Remove the replies of earlier rounds, up to the last few."""
        kept = sorted(self.directory.glob(f"{question.kind}-*.reply"))
        for path in kept[:-KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        return self.directory / _name(question.kind, question.round)


def _name(kind: str, number: int) -> str:
    return f"{kind}-{number:08d}.reply"


def _reply(path: Path) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    found = read_kept(path)
    return None if found is None or not {"question", "config", "metrics"} <= set(found[0]) else found


def write_kept(path: Path, head: Mapping[str, Any], arrays: Mapping[str, Weights | Packed]) -> None:
    """Put a head and arrays by name in a file, 0600; returns once they are on disk. Raises OSError."""
    partial = path.with_suffix(".new")
    payloads = {name: _payload(array) for name, array in arrays.items()}
    named = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in payloads.items()}
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps({**head, "arrays": named}).encode() + b"\n")
        for data in payloads.values():
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def read_kept(path: Path) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """What `write_kept` put there, a head and arrays by name; None for what is not whole."""
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline(LIMITS.channel_header))
            arrays = {str(name): file.read(int(length)) for name, (length, _) in head["arrays"].items()}
            named = {name: digest for name, (_, digest) in head["arrays"].items()}
            rest = file.read(1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    whole = {name: hashlib.sha256(data).hexdigest() for name, data in arrays.items()}
    return None if rest or whole != named else (head, arrays)


def _payload(array: Weights | Packed) -> memoryview:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data.cast("B")


def floats_of(data: bytes | None) -> Weights | None:
    """An array's float32 values, where it is there."""
    return None if data is None else np.frombuffer(data, dtype="<f4")


def _bytes(data: bytes | None) -> Packed | None:
    return None if data is None else np.frombuffer(data, dtype=np.uint8)


def _fields(question: Question) -> dict[str, str | int | float | None]:
    adaptive = {} if question.clip_norm is None else {"clip_norm": question.clip_norm}
    return {
        **adaptive,
        "run_digest": question.run_digest,
        "kind": question.kind,
        "round": question.round,
        "model": question.model,
        "mu": question.mu,
        "folded": question.folded,
    }
