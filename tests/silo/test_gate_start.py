"""A gate's process as it starts: which policy it takes, and what its log then says. No coordinator answers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.verify import verify
from federation.identity import new_key, public_key_pem
from federation.processes import Child, command_line

from .simulator import POLICY, SILO, Consortium, found_consortium

pytestmark = pytest.mark.federation

SECONDS = 30.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return found_consortium(tmp_path_factory.mktemp("start"))


@pytest.fixture
def site(short_path: Path) -> Path:
    """A directory with the gate's configuration and its policy in a directory of its own."""
    (short_path / "policy").mkdir()
    (short_path / "policy" / "policy.yaml").write_text(POLICY)
    (short_path / "silo.yaml").write_text(
        "apiVersion: concordat/v1\nkind: Silo\npolicy: policy/policy.yaml\nsocket: run/worker.sock\n"
    )
    return short_path


def entries(own: Consortium) -> list[dict[str, Any]]:
    audit = own.homes[SILO].audit
    return [json.loads(line) for path in sorted(audit.glob("segments/*.jsonl")) for line in path.open()]


@contextmanager
def gate(own: Consortium, site: Path) -> Iterator[Child]:
    """A gate's process, which is gone afterwards."""
    command = command_line("silo", "gate", str(site / "silo.yaml"), "--home", str(own.homes[SILO].path))
    child = Child("gate", command, site / "gate.log", dict(os.environ))
    try:
        yield child
    finally:
        child.signal(signal.SIGKILL)
        child.wait(SECONDS)


def stop(child: Child) -> None:
    child.signal(signal.SIGTERM)
    assert child.wait(SECONDS) == 0


def activated(own: Consortium) -> list[int]:
    return [entry["detail"]["version"] for entry in entries(own) if entry["action"] == "policy.activate"]


def test_a_gate_records_the_policy_it_starts_with_once_takes_a_newer_one_and_never_an_older(
    own: Consortium, site: Path
) -> None:
    policy = site / "policy" / "policy.yaml"
    with gate(own, site) as child:
        child.expect("waiting for the coordinator", SECONDS)
        assert activated(own) == [1]
        fresh = policy.with_name("fresh")
        fresh.write_text(POLICY.replace("version: 1,", "version: 2,"))
        fresh.replace(policy)
        child.expect("policy hospital-a version 2 is active", SECONDS)
        assert activated(own) == [1, 2]
        stop(child)

    with gate(own, site) as child:
        child.expect("waiting for the coordinator", SECONDS)
        stop(child)
    assert activated(own) == [1, 2], "the same policy is not activated again"

    policy.write_text(POLICY)
    with gate(own, site) as child:
        assert child.wait(SECONDS) != 0
    last = entries(own)[-1]
    assert last["action"] == "policy.rejected"
    assert "got version 1 with another text, expected more than 2" in last["reason"]
    assert "got version 1 with another text" in (site / "gate.log").read_text()
    verify(own.homes[SILO].audit, _vkey(own))


def test_a_directory_of_approvals_that_is_not_there_is_made_before_the_gate_confines_itself(
    own: Consortium, site: Path
) -> None:
    reviewer = site / "anna.pub.pem"
    reviewer.write_bytes(public_key_pem(new_key().public_key()))
    text = (site / "silo.yaml").read_text()
    (site / "silo.yaml").write_text(
        f"{text}approvals: {{directory: people/approvals, reviewers: {{anna: {reviewer.name}}}}}\n"
    )
    # Newer than any policy that other tests here left in the log.
    (site / "policy" / "policy.yaml").write_text(POLICY.replace("version: 1,", "version: 9,"))
    with gate(own, site) as child:
        child.expect("waiting for the coordinator", SECONDS)
        assert (site / "people" / "approvals").is_dir()
        stop(child)

    (site / "people" / "approvals").rmdir()
    (site / "people" / "approvals").write_text("a file")
    with gate(own, site) as child:
        assert child.wait(SECONDS) != 0
    said = (site / "gate.log").read_text()
    assert "approvals, cannot be made" in said
    assert "Traceback" not in said


def _vkey(own: Consortium) -> str:
    from audit import keys
    from audit.note import verifier_key
    from federation.member_logs import log_origin

    home = own.homes[SILO]
    peer = home.identity()
    key = keys.load_key(home.log_key)
    return str(verifier_key(log_origin(peer.federation, peer.role, peer.name), key.public_key()))
