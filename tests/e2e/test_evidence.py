"""The logs of a live federation: cosigned by one another, and a silo that was restored from an older copy."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.cosignature import cosigned
from audit.note import VerifierKey, parse_vkey
from audit.verify import verify
from audit.witness import read_seen
from federation.home import Home
from federation.identity import Role
from federation.processes import command_line

from .conftest import Running, entries_of, running_in

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]


def homes(federation: Running) -> dict[str, Home]:
    silos = {name: place.gate for name, place in federation.founded.silos.items()}
    return {"coordinator": federation.founded.coordinator, **silos}


def keys(federation: Running) -> dict[str, VerifierKey]:
    members = federation.founded.manifest.federation.members
    return {
        member.name: parse_vkey(member.log or "") for member in members if member.role in {Role.COORDINATOR, Role.SILO}
    }


def run_once(federation: Running, name: str, **changes: str) -> list[dict[str, Any]]:
    return federation.follow(federation.submit(federation.run_file(name, **changes)))


@pytest.fixture
def fresh(short_tmp: Callable[[str], Path]) -> Iterator[Running]:
    """A federation that has not run anything."""
    yield from running_in(short_tmp("first"))


def test_a_log_is_cosigned_before_its_first_run_and_a_policy_may_demand_that(fresh: Running) -> None:
    home = homes(fresh)["hospital-a"]
    policy, newer = home.path / "policy.yaml", home.path / "newer"
    text = policy.read_text().replace("version: 1,", "version: 2,") + "audit: {witnesses: {quorum: 3}}\n"

    def put(content: str) -> None:
        newer.write_text(content)
        newer.replace(policy)

    put(text)
    wait_for((home.audit / "cosigned").exists, "the log cosigned while no run is executed")
    events = run_once(fresh, "first", rounds="1")
    assert events[-1]["event"] == "run.completed", events[-1]
    (admitted,) = entries_of(home.audit, action="run.admit")
    activated = entries_of(home.audit, action="policy.activate")
    assert (admitted["decision"], admitted["policy"]) == ("allow", activated[-1]["policy"])
    put(text.replace("version: 2,", "version: 3,").replace("quorum: 3", "quorum: 4"))
    events = run_once(fresh, "more", rounds="1", quorum="2")
    refused = [(event["silo"], event["rule"]) for event in events if event["event"] == "silo.refused"]
    assert refused == [("hospital-a", "audit.witnesses.quorum")]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_everybody_cosigns_everybody(federation: Running) -> None:
    events = run_once(federation, "cosigned", rounds="4")
    assert events[-1]["event"] == "run.completed", events[-1]
    known = keys(federation)
    for name, home in homes(federation).items():
        found = cosigned((home.audit / "cosigned").read_bytes(), known[name], known.values())
        assert found.root == root_at(home, found.size), name
        assert set(found.witnesses) >= {known["coordinator"].name} - {known[name].name}, name
        for path in (one for one in (home.audit / "witness").iterdir() if one.suffix != ".tmp"):
            origin = path.read_text().partition("\n")[0]
            seen = read_seen(path.read_bytes(), origin, known[name])
            owner = next(member for member, key in known.items() if key.name == origin)
            assert seen.checkpoint.root == root_at(homes(federation)[owner], seen.checkpoint.size)
    hub = cosigned(
        (homes(federation)["coordinator"].audit / "cosigned").read_bytes(), known["coordinator"], known.values()
    )
    assert len(hub.witnesses) == 3, "each silo cosigned the coordinator's log"


def root_at(home: Home, size: int) -> bytes:
    from audit.merkle import leaf_hash, root_of

    paths = sorted((home.audit / "segments").glob("*.jsonl"))
    lines = [line for path in paths for line in path.read_bytes().splitlines()]
    return root_of(leaf_hash(line) for line in lines[:size])


def test_every_model_that_a_silo_took_is_in_the_coordinators_log(federation: Running) -> None:
    run_once(federation, "published", rounds="3")
    published = {
        (entry["run"], entry["round"], entry["detail"]["model"])
        for entry in entries_of(homes(federation)["coordinator"].audit)
        if entry["action"] in {"round.begin", "evaluation.begin"}
    }
    for name, home in homes(federation).items():
        if name != "coordinator":
            taken = {
                (entry["run"], entry["round"], entry["detail"]["model"])
                for entry in entries_of(home.audit)
                if entry["action"] == "round.ingress"
            }
            assert taken
            assert taken <= published, name


def test_a_silo_restored_from_an_older_copy_acts_only_once_that_is_acknowledged(
    federation: Running, tmp_path: Path
) -> None:
    silo, home = "hospital-b", homes(federation)["hospital-b"]
    shutil.copytree(home.audit, tmp_path / "backup")
    assert run_once(federation, "before", rounds="2")[-1]["event"] == "run.completed"
    stop(federation, f"{silo}-gate")
    shutil.rmtree(home.audit)
    shutil.copytree(tmp_path / "backup", home.audit)
    federation.restart(f"{silo}-gate").expect("connected to", 30)
    events = run_once(federation, "after", rounds="2", quorum="2")
    refusals = [event for event in events if event["event"] == "silo.refused"]
    assert [(event["silo"], event["rule"]) for event in refusals] == [(silo, "log.rollback")]

    def upkeep(command: str, *arguments: str) -> str:
        """By the running gate, which alone writes to its log."""
        words = command_line("audit", command, *arguments, "--home", str(home.path))
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "recorded as entry" in upkeep("acknowledge-rollback", "--reason", "restored from the backup")
    for name in ("again", "once-more"):
        events = run_once(federation, name, rounds="2")
        assert events[-1]["event"] == "run.completed", events[-1]
    held = next(entry for entry in reversed(entries_of(home.audit)) if entry["payload_commitment"] is not None)
    assert (home.audit / "payloads" / f"{held['seq']:012d}.json").exists()
    assert "is erased" in upkeep("erase", str(held["seq"]), "--reason", "asked for by the data subject")
    assert not (home.audit / "payloads" / f"{held['seq']:012d}.json").exists()
    assert "due: 0 payloads" in upkeep("retention", "--rule", "payload:round.*=P30D..P2Y", "--apply")
    assert run_once(federation, "afterwards", rounds="1")[-1]["event"] == "run.completed"
    actions = [entry["action"] for entry in entries_of(home.audit)]
    assert {"log.erased", "log.retention"} <= set(actions)
    assert actions.index("log.rollback") < actions.index("log.rollback.acknowledged")
    assert "witness.restarted" in [entry["action"] for entry in entries_of(homes(federation)["coordinator"].audit)]
    for name, key in keys(federation).items():
        verify(homes(federation)[name].audit, str(key))


def stop(federation: Running, name: str) -> None:
    import signal

    child = federation.deployment.children[name]
    child.signal(signal.SIGTERM)
    assert child.wait(20) == 0
