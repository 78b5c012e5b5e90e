from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.entry import Event
from audit.keys import vkey_of
from audit.log import AuditLog
from audit.merkle import leaf_hash, root_of
from audit.note import sign_note

ORIGIN = "hospital-a.heart/concordat/audit"
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"the test log's key").digest())


class Clock:
    """A clock that a test sets: each reading is a millisecond after the last."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


@pytest.fixture
def origin() -> str:
    return ORIGIN


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return KEY


@pytest.fixture
def vkey() -> str:
    return vkey_of(ORIGIN, KEY.public_key())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_log(clock: Clock) -> Callable[[Path], AuditLog]:
    return lambda directory: AuditLog.open(directory, origin=ORIGIN, key=KEY, clock=clock)


@pytest.fixture
def build(open_log: Callable[[Path], AuditLog]) -> Callable[..., Path]:
    """Write a log of `count` entries, every second one with a payload, and close it."""

    def make(directory: Path, count: int = 5) -> Path:
        with open_log(directory) as log:
            for n in range(count):
                payload = {"loss": 0.25 + n, "who": "jürgen"} if n % 2 else None
                log.append(
                    Event(
                        "gate",
                        "round.egress",
                        "heart",
                        decision="allow",
                        round=n,
                        detail={"n": n},
                        payload=payload,
                    )
                )
        return directory

    return make


@pytest.fixture
def sign_lines(vkey: str) -> Callable[[Path, list[bytes]], Path]:
    """Sign arbitrary lines as a log, as the holder of the key could who does not use our writer."""

    def make(directory: Path, lines: list[bytes]) -> Path:
        hashes = [leaf_hash(line.removesuffix(b"\n")) for line in lines]
        (directory / "segments").mkdir(parents=True)
        (directory / "payloads").mkdir()
        (directory / "segments/000000000000.jsonl").write_bytes(b"".join(lines))
        (directory / "segments/000000000000.hashes").write_bytes(b"".join(hashes))
        (directory / "log.vkey").write_text(vkey + "\n")
        text = f"{ORIGIN}\n{len(lines)}\n{base64.b64encode(root_of(hashes)).decode()}\n"
        (directory / "checkpoint").write_text(sign_note(text, ORIGIN, KEY))
        return directory

    return make
