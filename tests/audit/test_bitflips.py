"""Every single bit of every file of a small log is flipped, and verification must notice each.

There is no benign bit: the file `lock` is empty once the writer has closed the log, and is no evidence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from audit import verify as verifier
from audit.entry import Event
from audit.log import AuditLog
from audit.verify import VerificationFailure, verify


def survivors(path: Path, check: Callable[[], object]) -> list[tuple[int, int]]:
    """The (byte, bit) whose flip went unnoticed."""
    original, unnoticed = path.read_bytes(), []
    assert original
    for position in range(len(original)):
        for bit in range(8):
            changed = bytearray(original)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                check()
            except VerificationFailure:
                continue
            else:
                unnoticed.append((position, bit))
    path.write_bytes(original)
    return unnoticed


def test_every_flipped_bit_is_noticed(
    tmp_path: Path, open_log: Callable[[Path], AuditLog], vkey: str, monkeypatch: pytest.MonkeyPatch
):
    with open_log(tmp_path) as log:
        log.append(Event("g", "gate.start", "s"))
        log.append(Event("g", "run.admit", "r", decision="deny", rule="purpose", reason="né", run="1"))
        log.append(Event("g", "round.ingress", "m", decision="allow", round=1, detail={"n": 2, "ok": True}))
        log.append(Event("g", "round.egress", "m", payload={"x": 0.5}))
        log.append(Event("g", "gate.stop", "s"))
    # A signature that was found good once need not be computed again for each flip elsewhere.
    monkeypatch.setattr(verifier, "check_ed25519", functools.cache(verifier.check_ed25519))
    assert verify(tmp_path, vkey).size == 5
    files = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {
        "checkpoint",
        "log.vkey",
        "segments/000000000000.jsonl",
        "segments/000000000000.hashes",
        "payloads/000000000003.json",
    }
    assert (tmp_path / "lock").read_bytes() == b""
    for path in files:
        assert survivors(path, lambda: verify(tmp_path, vkey)) == [], path
    for name in ("log.vkey", "checkpoint"):
        assert survivors(tmp_path / name, lambda: verify(tmp_path)) == [], name
    assert verify(tmp_path, vkey).size == 5
