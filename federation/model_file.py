"""A trained model at the operator's side: verified against its passport, as NumPy archive or as Keras file."""

from __future__ import annotations

import errno
import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from federation.errors import ConcordatError, IdentityError, UsageError
from federation.home import Home, read_limited, replace_file
from federation.limits import LIMITS
from federation.manifest import load_manifest
from federation.operator import OperatorClient
from federation.passport import Passport, verify
from federation.run import SignedRun, app_digest

KERAS = ".keras"
BUILD_SECONDS = 600.0
"""How long the app's model function and Keras may take to write the file."""
HANG_UP_SECONDS = 5.0
"""How long its process may still hold on to what it says once it ended."""
WORDS = 4096
"""The bytes that are kept of what the app's process says, the last ones."""


@dataclass(frozen=True)
class Fetched:
    """A model of which a verified passport speaks."""

    content: bytes = field(repr=False)
    passport: Passport


def fetch_verified(client: OperatorClient, home: Home, run_id: str) -> Fetched:
    """The final model of a run and its passport; raises where the passport is not of this run and of this file."""
    passport = client.passport(run_id)
    content = client.model(run_id)
    found = verify(passport, load_manifest(home), hashlib.sha256(content).hexdigest())
    said = found.statement.predicate.run.id
    if said != run_id:
        raise IdentityError(f"the passport is of run {said}, expected {run_id}")
    return Fetched(content, found)


def write_keras(client: OperatorClient, home: Home, run_id: str, fetched: Fetched, out: Path) -> None:
    """Have the run's own app make its model, here, with the fetched weights, and write it as a Keras file.

    The app is the one that the passport names. It runs in a process of its own that may open no other files and no
    sockets; where this machine cannot confine it, only an app that this operator submitted is run. Raises
    ConcordatError.
    """
    if importlib.util.find_spec("tensorflow") is None:
        advice = "install the silo extra (TensorFlow), or take the weights: --out model.npz"
        raise UsageError("a .keras file is made by TensorFlow, which is not installed here", advice=advice)
    signed, app = client.submission(run_id)
    _require_same(signed, app, fetched.passport)
    own = fetched.passport.statement.predicate.run.operator == home.identity().name
    with _scratch() as place:
        for name, content in (("run.yaml", signed.text.encode()), ("app.fab", app), ("model.npz", fetched.content)):
            (place / name).write_bytes(content)
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"HOME": str(place), "TMPDIR": str(place)}
        # By name: this package knows none of those that use it.
        command = [sys.executable, "--check-hash-based-pycs", "always", "-P", "-m", "silo.worker.keras_file"]
        command += [str(place), "own" if own else "foreign"]
        code, said = _ended(command, environment)
        if code != 0:
            words = said.strip().splitlines()[-1:] or ["it gave no reason"]
            raise ConcordatError(f"the model cannot be made: {words[0][:500]}")
        replace_file(out, _made(place / f"model{KERAS}"))


def _made(path: Path) -> bytes:
    """The file that the app made; raises ConcordatError for a link, which could lead to a key of the operator's.

    The name is followed once: a process that the app left behind may put a link there at any moment.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConcordatError("the app ended well, and its model is missing") from None
    except OSError as error:
        said = "a link" if error.errno == errno.ELOOP else f"what cannot be read ({error.strerror})"
        raise ConcordatError(f"the app left {said} in place of its model") from None
    try:
        return read_limited(Path(f"/proc/self/fd/{descriptor}"), 4 * LIMITS.model_values + LIMITS.app_unpacked)
    finally:
        os.close(descriptor)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for an app, which is removed however deep the directories are that the app makes in it."""
    place = Path(tempfile.mkdtemp(prefix="concordat-model-"))
    try:
        yield place
    finally:
        # By name, as below.
        importlib.import_module("silo.worker.leftovers").remove_tree(place)


def _ended(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit code of a process and the last of its words, of which it may have any number, in any bytes."""
    said = bytearray()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        pipe = process.stderr
        assert pipe is not None  # noqa: S101  one was asked for

        def listen() -> None:
            with suppress(OSError, ValueError):  # it was closed meanwhile
                while part := os.read(pipe.fileno(), 65536):
                    said.extend(part)
                    del said[:-WORDS]

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            code = process.wait(BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise ConcordatError(f"the app made no model within {BUILD_SECONDS:.0f} s") from None
        finally:
            process.kill()
            # Whoever the process left behind ends soon after it.
            listener.join(HANG_UP_SECONDS)
    return code, said.decode("utf-8", "replace")


def _require_same(signed: SignedRun, app: bytes, passport: Passport) -> None:
    said = passport.statement.predicate
    for what, found, expected in (
        ("run", signed.digest, said.run.digest),
        ("app", app_digest(app), said.app),
        ("app", signed.app_digest, said.app),
    ):
        if found != expected:
            raise IdentityError(f"got {what} {found}, expected {expected}, of which the passport speaks")
