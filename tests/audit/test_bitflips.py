"""Every single bit of every file of a small log is flipped, and verification must notice each.

There is no benign bit: `lock`, empty once the writer has closed the log, and `reserve`, all zeros, are no evidence.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from audit import verify as verifier
from audit.entry import Event
from audit.log import AuditLog
from audit.verify import VerificationFailure, verify


@functools.cache
def check_fast(public: bytes, message: bytes, signature: bytes) -> None:
    """What the verifier's own Ed25519 finds, which other tests compare with this, in a hundredth of the time."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        verifier.fail("the signature does not verify")


def survivors(path: Path, check: Callable[[], object]) -> list[tuple[int, int]]:
    """The (byte, bit) whose flip went unnoticed."""
    original, unnoticed = path.read_bytes(), []
    assert original
    with path.open("r+b", buffering=0) as file:
        for position in range(len(original)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([original[position] ^ 1 << bit]), position)
                try:
                    check()
                except VerificationFailure:
                    continue
                else:
                    unnoticed.append((position, bit))
            os.pwrite(file.fileno(), original[position : position + 1], position)
    assert path.read_bytes() == original
    return unnoticed


def test_every_flipped_bit_is_noticed(
    tmp_path: Path, open_log: Callable[[Path], AuditLog], vkey: str, monkeypatch: pytest.MonkeyPatch
):
    with open_log(tmp_path) as log:
        log.append(Event("g", "gate.start", "s"))
        log.append(Event("g", "run.admit", "r", decision="deny", rule="purpose", reason="né", run="1"))
        log.append(Event("g", "round.ingress", "m", decision="allow", round=1, detail={"n": 2, "ok": True}))
        log.append(Event("g", "round.egress", "m", payload={"x": 0.5}))
        for n in range(5):
            log.append(Event("g", "x", "m", detail={"n": n}))
        log.append(Event("g", "gate.stop", "s"))
    monkeypatch.setattr(verifier, "check_ed25519", check_fast)
    assert verify(tmp_path, vkey).size == 10
    files = {path for path in tmp_path.rglob("*") if path.is_file() and path.name not in {"lock", "reserve"}}
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
    assert verify(tmp_path, vkey).size == 10


def test_every_truncation_and_every_swap_is_noticed(
    tmp_path: Path, build, vkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, 10)
    monkeypatch.setattr(verifier, "check_ed25519", check_fast)
    for name in ("segments/000000000000.jsonl", "segments/000000000000.hashes", "checkpoint", "log.vkey"):
        path = tmp_path / name
        whole = path.read_bytes()
        for length in reversed(range(len(whole))):
            os.truncate(path, length)
            with pytest.raises(VerificationFailure):
                verify(tmp_path, vkey)
        path.write_bytes(whole)
    path, hashes = tmp_path / "segments/000000000000.jsonl", tmp_path / "segments/000000000000.hashes"
    lines = path.read_bytes().splitlines(keepends=True)
    leaves = [hashes.read_bytes()[at : at + 32] for at in range(0, 320, 32)]
    for i in range(10):
        for j in range(i):
            for both in (False, True):
                swapped, moved = list(lines), list(leaves)
                swapped[i], swapped[j] = lines[j], lines[i]
                moved[i], moved[j] = leaves[j], leaves[i]
                path.write_bytes(b"".join(swapped))
                hashes.write_bytes(b"".join(moved if both else leaves))
                with pytest.raises(VerificationFailure) as caught:
                    verify(tmp_path, vkey)
                assert caught.value.seq == j
