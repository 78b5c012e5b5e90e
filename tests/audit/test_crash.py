"""Crashes and failing disks: real processes killed, and every system call of the writer failing once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditWriteError
from audit.keys import create_key, load_key
from audit.log import AuditLog
from audit.verify import verify

SEGMENT = "segments/000000000000.jsonl"
CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "replace", "mkdir", "unlink")

Opener = Callable[[Path], AuditLog]

WRITER = """
import itertools, sys
from audit.entry import Event
from audit.keys import load_key
from audit.log import AuditLog
with AuditLog.open(sys.argv[1], origin="a/log", key=load_key(sys.argv[2])) as log:
    for n in itertools.count():
        payload = {"n": n, "loss": 0.5} if n % 3 == 0 else None
        event = Event("gate", "round.egress", "m", detail={"n": n}, payload=payload)
        for seq in log.append(*[event] * (1 + n % 4)):
            print(seq, n, flush=True)
"""


def recorded(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / SEGMENT).read_bytes().splitlines()]


def test_every_acknowledged_entry_survives_kill_9(tmp_path: Path):
    create_key(tmp_path / "key.pem")
    directory, chance = tmp_path / "log", random.Random(20261101)
    acknowledged: dict[int, int] = {}
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, directory, tmp_path / "key.pem"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randint(1, 60))]
            writer.send_signal(signal.SIGKILL)  # while it goes on writing
            lines += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged |= dict(map(int, line.split()) for line in lines if line.endswith("\n"))
        with AuditLog.open(directory, origin="a/log", key=load_key(tmp_path / "key.pem")) as log:
            assert log.size > max(acknowledged)
        entries = recorded(directory)
        assert [entry["detail"]["n"] for seq, entry in enumerate(entries) if seq in acknowledged] == list(
            acknowledged.values()
        )
        report = verify(directory)
        assert report.size == len(entries) == log.size
        assert report.erased_payloads == 0
    assert len(acknowledged) > 12


class Fault:
    """Counts the system calls of the writer and, at one of them, has something happen instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, happen: Callable[[str, tuple[object, ...]], None]):
        self.seen, self.struck = 0, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name), at, happen))

    def wrap(self, name: str, call: Callable[..., object], at: int, happen: Callable[..., None]):
        def counted(*args: object, **kwargs: object) -> object:
            self.seen += 1
            if self.seen == at:
                self.struck = True
                happen(name, args)
            return call(*args, **kwargs)

        return counted


def events(number: int) -> list[Event]:
    return [
        Event("gate", "round.egress", "m", detail={"n": number}, payload={"x": 0.5}),
        Event("gate", "x", "m"),
    ]


def check_after(directory: Path, acknowledged: list[int], open_log: Opener) -> None:
    """The log opens again, holds at least what was acknowledged, and verifies."""
    with open_log(directory) as log:
        assert log.size >= len(acknowledged)
        log.append(Event("gate", "after", "m"))
    entries = recorded(directory)
    assert [entry["action"] for entry in entries[: len(acknowledged)]] == ["round.egress", "x"] * (
        len(acknowledged) // 2
    )
    report = verify(directory)
    assert (report.size, report.erased_payloads) == (len(entries), 0)


@pytest.mark.parametrize("halved", [False, True], ids=["before the call", "half a write"])
def test_a_crash_at_any_system_call_loses_nothing_acknowledged(tmp_path: Path, open_log: Opener, halved: bool):
    real_write, at, struck = os.write, 0, True
    while struck:
        at += 1
        directory = tmp_path / str(at)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:

            def die(name: str, args: tuple[object, ...]) -> None:
                if halved and name == "write":
                    real_write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)

            with pytest.MonkeyPatch.context() as patch:
                Fault(patch, at, die)
                log = open_log(directory)
                for number in range(2):
                    for seq in log.append(*events(number)):
                        real_write(writer, bytes([seq]))
                log.close()
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            acknowledged = list(pipe.read())
        struck = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert acknowledged == list(range(len(acknowledged)))
        check_after(directory, acknowledged, open_log)
    assert at > 40


def test_a_failing_system_call_refuses_and_loses_nothing_acknowledged(tmp_path: Path, open_log: Opener):
    at, struck, refused = 0, True, 0
    while struck:
        at += 1
        directory, acknowledged = tmp_path / str(at), []

        def fail(name: str, args: tuple[object, ...]) -> None:
            raise OSError(5, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            fault = Fault(patch, at, fail)
            log = None
            with contextlib.suppress(AuditWriteError):
                log = open_log(directory)
            if log is not None:
                try:
                    for number in range(2):
                        acknowledged += log.append(*events(number))
                except AuditWriteError:
                    refused += 1
                    with pytest.raises(AuditWriteError, match="refuses to append"):
                        log.append(Event("gate", "again", "m"))
                with contextlib.suppress(OSError):
                    log.close()
        struck = fault.struck
        check_after(directory, acknowledged, open_log)
    assert refused > 20


def test_a_crash_while_recovering_can_be_recovered_from(tmp_path: Path, open_log: Opener):
    at, struck = 0, True
    while struck:
        at += 1
        directory = tmp_path / str(at)
        with open_log(directory) as log:
            log.append(*events(0))
            old = (directory / "checkpoint").read_bytes()
            log.append(*events(1))
        (directory / "checkpoint").write_bytes(old)
        (directory / "payloads/000000000004.json").write_bytes(b"orphan")
        with (directory / SEGMENT).open("ab") as file:
            file.write(b"torn")
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                Fault(patch, at, lambda name, args: os.kill(os.getpid(), signal.SIGKILL))
                open_log(directory).close()
            os._exit(0)
        struck = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        check_after(directory, [0, 1], open_log)
        adopted = [e["detail"]["entries_adopted"] for e in recorded(directory) if e["action"] == "log.recovered"]
        assert adopted[0] == 2
    assert at > 8


FULL_DISK = """
import resource, sys
from audit.entry import Event
from audit.errors import AuditWriteError
from audit.keys import load_key
from audit.log import AuditLog
with AuditLog.open(sys.argv[1], origin="a/log", key=load_key(sys.argv[2])) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    event = Event("gate", "round.egress", "m", reason="x" * 500)
    try:
        while True:
            print(*log.append(event), flush=True)
    except AuditWriteError as error:
        print(error, file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            log.append(event)
        except AuditWriteError as error:
            print(error, file=sys.stderr)
"""


def test_a_full_disk_refuses_until_the_log_is_opened_again(tmp_path: Path):
    key = create_key(tmp_path / "key.pem")
    command = [sys.executable, "-c", FULL_DISK, tmp_path / "log", tmp_path / "key.pem"]
    writer = subprocess.run(command, capture_output=True, text=True, check=True)
    acknowledged = [int(line) for line in writer.stdout.split()]
    first, second, third = writer.stderr.splitlines()
    assert "cannot record in" in first
    assert second == third
    assert "refuses to append: an append failed" in second
    with AuditLog.open(tmp_path / "log", origin="a/log", key=key) as log:
        assert log.append(Event("gate", "after", "m")) == [len(acknowledged) + 1]
    entries = recorded(tmp_path / "log")
    assert [e["action"] for e in entries] == ["round.egress"] * len(acknowledged) + ["log.recovered", "after"]
    assert entries[-2]["detail"]["bytes_removed"] > 0
    assert verify(tmp_path / "log").size == len(entries)
