"""A trained model at the operator's side: verified against its passport, as NumPy archive or as Keras file."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
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
    with tempfile.TemporaryDirectory(prefix="concordat-model-") as directory:
        place = Path(directory)
        for name, content in (("run.yaml", signed.text.encode()), ("app.fab", app), ("model.npz", fetched.content)):
            (place / name).write_bytes(content)
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"HOME": directory, "TMPDIR": directory}
        # By name: this package knows none of those that use it.
        command = [sys.executable, "--check-hash-based-pycs", "always", "-P", "-m", "silo.worker.keras_file"]
        command += [directory, "own" if own else "foreign"]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_SECONDS,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ConcordatError(f"the app made no model within {BUILD_SECONDS:.0f} s") from None
        if done.returncode != 0:
            words = done.stderr.strip().splitlines()[-1:] or ["it gave no reason"]
            raise ConcordatError(f"the model cannot be made: {words[0][:500]}")
        replace_file(out, read_limited(place / f"model{KERAS}", 4 * LIMITS.model_values + LIMITS.app_unpacked))


def _require_same(signed: SignedRun, app: bytes, passport: Passport) -> None:
    said = passport.statement.predicate
    for what, found, expected in (
        ("run", signed.digest, said.run.digest),
        ("app", app_digest(app), said.app),
        ("app", signed.app_digest, said.app),
    ):
        if found != expected:
            raise IdentityError(f"got {what} {found}, expected {expected}, of which the passport speaks")
