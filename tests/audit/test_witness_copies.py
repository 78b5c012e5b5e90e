"""A log against the copies of its checkpoints that witnesses hold: what an auditor finds out with the lone verifier."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify as verifier
from audit.entry import Event
from audit.log import AuditLog
from audit.verify import VerificationFailure, verify
from audit.witness import Witness

EVENT = Event("gate", "x", "r")
KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
Opener = Callable[[Path], AuditLog]


@pytest.fixture
def witnessed(tmp_path: Path, open_log: Opener, clock) -> tuple[Path, Path]:
    """A log of six entries whose witness saw four of them."""
    with open_log(tmp_path / "log") as log:
        log.append(EVENT, EVENT, EVENT, EVENT)
        Witness(tmp_path / "witness", "fed/w", KEY, clock).cosign(log.statement(), log.verifier)
        log.append(EVENT, EVENT)
    return tmp_path / "log", tmp_path / "witness"


def test_a_copy_that_agrees_is_reported(witnessed: tuple[Path, Path], vkey: str) -> None:
    log, copies = witnessed
    assert verify(log, vkey, copies=[str(copies)]).witnessed == 4
    (copy,) = copies.iterdir()
    assert verify(log, vkey, copies=[str(copy), str(log / "checkpoint")]).witnessed == 6


def test_a_log_that_was_cut_back_is_noticed(
    tmp_path: Path, witnessed: tuple[Path, Path], open_log: Opener, vkey: str
) -> None:
    _, copies = witnessed
    with open_log(tmp_path / "short") as short:
        short.append(EVENT)
    assert verify(tmp_path / "short", vkey).size == 1, "on its own it is sound"
    with pytest.raises(VerificationFailure, match="cut or rolled back"):
        verify(tmp_path / "short", vkey, copies=[str(copies)])


@pytest.mark.parametrize("entries", [4, 5, 9])
def test_a_second_history_is_noticed(
    tmp_path: Path, witnessed: tuple[Path, Path], open_log: Opener, vkey: str, entries: int
) -> None:
    _, copies = witnessed
    with open_log(tmp_path / "fork") as fork:
        for n in range(entries):
            fork.append(Event("gate", "forged", "r", detail={"n": n}))
    assert verify(tmp_path / "fork", vkey).size == entries
    with pytest.raises(VerificationFailure, match="another history of 4 entries"):
        verify(tmp_path / "fork", vkey, copies=[str(copies)])


def test_two_witnesses_who_saw_two_histories_are_noticed_by_either_log(
    tmp_path: Path, witnessed: tuple[Path, Path], open_log: Opener, clock, vkey: str
) -> None:
    log, copies = witnessed
    with open_log(tmp_path / "fork") as fork:
        fork.append(EVENT, EVENT, EVENT, Event("gate", "forged", "r"))
        Witness(tmp_path / "other", "fed/v", KEY, clock).cosign(fork.statement(), fork.verifier)
    for order in ([copies, tmp_path / "other"], [tmp_path / "other", copies]):
        with pytest.raises(VerificationFailure, match="two histories of 4 entries, both signed"):
            verify(log, vkey, copies=[str(path) for path in order])


def test_a_copy_that_the_logs_key_did_not_sign_is_refused(witnessed: tuple[Path, Path], vkey: str) -> None:
    log, copies = witnessed
    (copy,) = copies.iterdir()
    copy.write_bytes(copy.read_bytes().replace(b"\n4\n", b"\n3\n"))
    with pytest.raises(VerificationFailure, match="does not verify"):
        verify(log, vkey, copies=[str(copies)])


def test_copies_of_other_logs_are_left_alone(witnessed: tuple[Path, Path], vkey: str) -> None:
    log, copies = witnessed
    (copies / "stranger").write_text("another/log\n7\n")
    assert verify(log, vkey, copies=[str(copies)]).witnessed == 4


def test_the_lone_file_takes_copies(tmp_path: Path, witnessed: tuple[Path, Path], vkey: str) -> None:
    log, copies = witnessed
    alone = shutil.copy(verifier.__file__, tmp_path / "verify.py")
    command = [sys.executable, "-I", "-S", alone, log, "--key", vkey, "--witness", copies]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "their copies agree, the latest has 4 entries" in done.stdout
