"""What an operator signed, submitted once more over a real socket to a coordinator's process."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from demo.federate import environment
from federation.errors import ConcordatError
from federation.manifest import load_manifest
from federation.operator import OperatorClient
from federation.processes import command_line
from federation.run import SignedRun, sign_run

from .conftest import Door

pytestmark = pytest.mark.federation


def post(door: Door, signed: SignedRun) -> str:
    body = {**signed.fields(), "app": base64.b64encode(door.founded.app).decode()}
    with OperatorClient(door.founded.operator) as client:
        return str(client._call("POST", "runs", body)["run"])


def signed(door: Door, silos: list[str], now: datetime | None = None) -> SignedRun:
    home = door.founded.operator
    text = door.founded.run_file.read_text()
    return sign_run(text, door.founded.app, home.private_key(), home.certificate.read_bytes(), silos, now=now)


def test_a_submission_that_the_coordinator_has_is_not_taken_again(door: Door) -> None:
    """Whoever fetched it from the coordinator, or saw it there, cannot have the silos train again."""
    run = post(door, signed(door, ["hospital-a", "hospital-b", "hospital-c"]))
    with OperatorClient(door.founded.operator) as client:
        client.stop(run)
        list(client.follow(run))
        fetched, app = client.submission(run)
    assert app == door.founded.app
    with pytest.raises(ConcordatError, match=f"was submitted before, as {run}; submit the run again"):
        post(door, fetched)
    with pytest.raises(ConcordatError, match="was good until"):
        post(door, signed(door, ["hospital-a"], datetime.now(UTC) - timedelta(days=8)))
    with pytest.raises(ConcordatError, match="expected silos of the federation"):
        post(door, signed(door, ["hospital-z"]))
    submitted = [entry for entry in door.audit_entries() if entry["action"] == "run.submit" and entry["run"] == run]
    assert len(submitted) == 1


def test_the_command_signs_for_the_silos_of_the_newest_manifest(door: Door) -> None:
    """An operator's home may have an old manifest; what is signed for is what the coordinator shows, verified."""
    home = door.founded.operator
    newest = load_manifest(home)
    arguments = command_line(
        "run", "submit", str(door.founded.run_file), "--home", str(home.path), "--no-follow", "--valid-for", "12h"
    )
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run = done.stdout.split()[-1]
    with OperatorClient(door.founded.operator) as client:
        client.stop(run)
        list(client.follow(run))
        submission = client.submission(run)[0].submission
    assert submission.silos == ("hospital-a", "hospital-b", "hospital-c")
    assert submission.not_after - submission.signed == timedelta(hours=12)
    assert load_manifest(home).document.digest == newest.document.digest
    for span in ("31d", "0s", "soon"):
        done = subprocess.run(
            [*arguments[:-1], span], env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode in {1, 2}
        assert "Traceback" not in done.stderr
        assert "30d" in done.stderr or "30 days" in done.stderr, done.stderr
