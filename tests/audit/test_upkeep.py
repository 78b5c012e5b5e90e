"""A running member looks after its log when a file asks it to, and does nothing that the file may not ask."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from audit.errors import AuditError
from audit.limits import LIMITS
from audit.log import AuditLog
from audit.upkeep import Upkeep, Wanted, ask
from audit.verify import verify


@pytest.fixture
def log(tmp_path: Path, key: Ed25519PrivateKey, origin: str) -> Iterator[AuditLog]:
    with AuditLog.open(tmp_path / "log", origin=origin, key=key) as opened:
        opened.append(Event("gate", "round.egress", "m", payload={"loss": 0.5}))
        yield opened


@pytest.fixture
def running(log: AuditLog) -> Iterator[AuditLog]:
    upkeep = Upkeep(log, "spiffe://heart.example/silo/a")
    upkeep.start()
    yield log
    upkeep.stop()
    assert not (log.folder / "upkeep").exists()


def test_what_is_asked_is_done_and_recorded_by_who_writes(running: AuditLog, vkey: str):
    assert ask(running.folder, Wanted("erase", "asked for", seq=0)) == [
        "the payload of entry 0 is erased, and that is recorded"
    ]
    assert ask(running.folder, Wanted("retention", rules=("payload:*=P1D..P2Y",), apply=True)) == [
        "rule: payload:*=P1D..P2Y",
        "due: 0 payloads, 0 segments with 0 entries",
        "removed, and recorded in the log",
    ]
    for wanted, reason in (
        (Wanted("erase", "again", seq=0), "is not there any more"),
        (Wanted("erase", "beyond", seq=99), "99"),
        (Wanted("acknowledge-rollback", "why"), "nothing to acknowledge"),
        (Wanted("purge", "everything"), "expected erase, retention or acknowledge-rollback"),
        (Wanted("retention", rules=("nonsense",)), "nonsense"),
    ):
        with pytest.raises(AuditError, match=reason):
            ask(running.folder, wanted)
    assert list((running.folder / "upkeep").iterdir()) == []
    report = verify(running.folder, vkey)
    assert (report.size, report.erased_payloads, report.unrecorded_erasures) == (3, 1, 0)
    lines = (running.folder / "segments" / "000000000000.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["actor"] == "spiffe://heart.example/silo/a"


def test_a_process_that_does_not_listen_is_not_waited_for(log: AuditLog):
    assert ask(log.folder, Wanted("erase", "asked for", seq=0)) is None
    (log.folder / "upkeep").mkdir()
    with pytest.raises(AuditError, match="did not take up the request"):
        ask(log.folder, Wanted("erase", "asked for", seq=0), taken_seconds=0.1)
    assert list((log.folder / "upkeep").iterdir()) == []
    assert log.size == 1


def test_what_was_asked_of_an_earlier_process_is_not_done_by_the_next(log: AuditLog):
    folder = log.folder / "upkeep"
    folder.mkdir()
    (folder / "old.request").write_text(json.dumps(REQUEST))
    upkeep = Upkeep(log, "gate")
    upkeep.start()
    with pytest.raises(AuditError, match="nothing to acknowledge"):
        ask(log.folder, Wanted("acknowledge-rollback", "comes after it"))
    upkeep.stop()
    assert log.size == 1


REQUEST = {"action": "erase", "reason": "x", "seq": 0, "despite_minimum": False, "rules": [], "apply": False}


def linked(path: Path) -> None:
    path.with_name("elsewhere").write_text(json.dumps(REQUEST))
    path.symlink_to("elsewhere")


def for_all(path: Path) -> None:
    path.write_text(json.dumps(REQUEST))
    path.chmod(0o666)


@pytest.mark.parametrize(
    "write",
    [
        linked,
        for_all,
        lambda path: os.mkfifo(path, 0o600),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(json.dumps({**REQUEST, "reason": "x" * LIMITS.retention})),
        lambda path: path.write_text(json.dumps({**REQUEST, "seq": True})),
        lambda path: path.write_text(json.dumps({**REQUEST, "rules": [1]})),
        lambda path: path.write_text(json.dumps({**REQUEST, "more": 1})),
        lambda path: path.write_text("{}"),
    ],
    ids=["link", "anybody's", "pipe", "directory", "no text", "deep", "large", "type", "rule", "unknown", "empty"],
)
def test_a_file_that_is_no_request_is_refused_and_the_next_is_served(running: AuditLog, write: Callable[[Path], Any]):
    write(running.folder / "upkeep" / "0.request")
    with pytest.raises(AuditError, match="nothing to acknowledge"):
        ask(running.folder, Wanted("acknowledge-rollback", "comes after it"))
    assert running.size == 1, "nothing was erased"
