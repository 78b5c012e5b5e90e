"""The evidence interface over a log that grows while it is fetched."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from audit.log import AuditLog, utc_now
from audit.segments import Rotation
from audit.verify import verify
from audit.witness import Witness
from coordinator.evidence import Evidence
from coordinator.gateway import EVIDENCE_PREFIX
from federation.errors import UsageError

KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


@pytest.fixture
def log(tmp_path: Path):
    with AuditLog.open(tmp_path / "log", origin="f/hub", key=KEY, rotation=Rotation(max_bytes=4000)) as log:
        log.append(Event("hub", "coordinator.start", "h"))
        yield log


def get(log: AuditLog, path: str, query: str = "") -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"path": EVIDENCE_PREFIX + path, "method": "GET", "query_string": query.encode()}
    asyncio.run(Evidence(log.folder)(None, scope, b"", send))  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"]


def fetch(log: AuditLog, target: Path) -> int:
    """As an auditor does: the checkpoint first, then the segments up to its size."""
    (target / "segments").mkdir(parents=True)
    (target / "payloads").mkdir()
    note = get(log, "checkpoint")[1]
    (target / "checkpoint").write_bytes(note)
    query = "size=" + note.decode().splitlines()[1]
    for name in json.loads(get(log, "segments", query)[1]):
        status, content = get(log, f"segments/{name}", query)
        assert status == 200
        (target / "segments" / name).write_bytes(content)
    return verify(target, log.vkey).size


def test_every_copy_that_is_fetched_while_the_log_grows_verifies(log: AuditLog, tmp_path: Path) -> None:
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set():
            log.append(*[Event("hub", "round.begin", "r")] * 3)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        sizes = [fetch(log, tmp_path / str(number)) for number in range(12)]
    finally:
        stop.set()
        writer.join()
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    assert len(list((log.folder / "segments").iterdir())) > 2


def test_without_a_size_the_segments_end_at_what_is_signed(log: AuditLog) -> None:
    with (log.folder / "segments/000000000000.jsonl").open("ab") as file:
        file.write(b"not signed\n")
    content = get(log, "segments/000000000000.jsonl")[1]
    assert content.count(b"\n") == log.size
    assert len(get(log, "segments/000000000000.hashes")[1]) == 32 * log.size


@pytest.mark.parametrize("query", ["size=99", "size=-1", "size=x", "size=01", "size=" + "9" * 40])
def test_more_than_is_signed_is_refused(log: AuditLog, query: str) -> None:
    with pytest.raises(UsageError, match="which is signed"):
        get(log, "segments", query)


def test_what_the_coordinator_cosigned_and_who_cosigned_it_is_evidence(log: AuditLog, tmp_path: Path) -> None:
    assert get(log, "cosigned")[0] == 404
    assert json.loads(get(log, "witness")[1]) == []
    (log.folder / "cosigned").write_text(log.checkpoint)
    with AuditLog.open(tmp_path / "other", origin="f/silo", key=OTHER) as other:
        other.append(Event("gate", "x", "r"))
        Witness(log.folder / "witness", log.origin, KEY, utc_now).cosign(other.statement(), other.verifier)
    assert get(log, "cosigned") == (200, log.checkpoint.encode())
    (name,) = json.loads(get(log, "witness")[1])
    note = get(log, f"witness/{name}")[1]
    assert note.startswith(b"f/silo\n1\n")
    assert get(log, "witness/../lock")[0] == 404
