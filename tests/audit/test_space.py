"""A full disk: the reserve lets the log say so, and nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditWriteError
from audit.log import AuditLog
from audit.reserve import RESERVE_BYTES
from audit.verify import verify

EVENT = Event("gate", "round.egress", "m", payload={"loss": 0.5})


def entries(directory: Path) -> list[dict[str, object]]:
    lines = [line for path in sorted((directory / "segments").glob("*.jsonl")) for line in path.open()]
    return [json.loads(line) for line in lines]


def test_the_reserve_is_allocated(tmp_path: Path, open_log: Callable[[Path], AuditLog]) -> None:
    with open_log(tmp_path) as log:
        assert log.health.reserve
        assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync"])
@pytest.mark.parametrize("at", range(1, 6))
def test_a_refusal_for_want_of_space_is_recorded_at_any_call(
    tmp_path: Path, open_log: Callable[[Path], AuditLog], monkeypatch: pytest.MonkeyPatch, code: int, call: str, at: int
) -> None:
    """The disk is full until the reserve is given up."""
    with open_log(tmp_path) as log:
        log.append(EVENT)
        real, calls = getattr(os, call), []

        def full(*args: object) -> object:
            calls.append(args)
            if len(calls) >= at and (tmp_path / "reserve").exists():
                raise OSError(code, os.strerror(code))
            return real(*args)

        monkeypatch.setattr(os, call, full)
        refused = False
        try:
            log.append(Event("gate", "run.admit", "r", decision="allow", payload={"x": 1}))
        except AuditWriteError:
            refused = True
            assert not log.health.reserve
            with pytest.raises(AuditWriteError, match="refuses to append"):
                log.append(EVENT)
        monkeypatch.undo()
    last = entries(tmp_path)[-1]
    if refused:
        assert (last["action"], last["decision"], last["rule"]) == ("log.full", "deny", "log.space")
        assert last["detail"] == {"refused": "run.admit", "events": 1}
    assert verify(tmp_path).erased_payloads == 0
    with open_log(tmp_path) as log:
        assert log.health.reserve
        log.append(EVENT)
    found = [e["action"] for e in entries(tmp_path)]
    # What was written whole but not signed stays: it says that something was decided.
    wanted = ["log.full"] if refused and "run.admit" not in found else ["run.admit", *["log.full"] * refused]
    assert found == ["round.egress", *wanted, "round.egress"]
    verify(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_disk_that_is_really_full(tmp_path: Path, open_log: Callable[[Path], AuditLog]) -> None:
    import subprocess

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("needs root with the right to mount")
    try:
        acknowledged: list[int] = []
        event = Event("gate", "round.egress", "m", reason="x" * 10_000)

        def fill(log: AuditLog) -> None:
            while len(acknowledged) < 1000:
                acknowledged.extend(log.append(event))

        with open_log(tmp_path / "log") as log, pytest.raises(AuditWriteError, match="No space left"):
            fill(log)
        found = [entry["action"] for entry in entries(tmp_path / "log")]
        assert found[: len(acknowledged)] == ["round.egress"] * len(acknowledged)
        assert found[-1] == "log.full"
        assert verify(tmp_path / "log").size == len(found) <= len(acknowledged) + 2
        with (tmp_path / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while ballast.write(bytes(4096)):
                pass
        with pytest.raises(AuditWriteError, match="cannot open the log"):
            open_log(tmp_path / "log")
        assert verify(tmp_path / "log").size == len(found)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
