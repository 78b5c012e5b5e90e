"""Faults that the kernel reports, injected by strace into a real writer at every one of its file-system calls.

After each, no acknowledged entry is lost, the log opens again and verifies. A kill -9 loop has a reader beside it.
"""

from __future__ import annotations

import collections
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditError
from audit.keys import create_key, load_key
from audit.log import AuditLog
from audit.segments import Rotation
from audit.served import read_checkpoint, read_segment, segment_names
from audit.verify import verify

CALLS = "openat,write,fsync,fdatasync,rename,unlink,ftruncate,fallocate"
ROTATION = Rotation(max_bytes=600)
Opener = Callable[[Path], AuditLog]


def events(number: int) -> list[Event]:
    return [
        Event("gate", "round.egress", "m", detail={"n": number}, payload={"x": 0.5} if number == 1 else None),
        Event("gate", "x", "m", detail={"n": number}),
    ]


def entries(directory: Path) -> list[dict[str, object]]:
    paths = sorted((directory / "segments").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


class Strace:
    """Runs a writer in a forked child with strace attached to it, from the moment it opens the log."""

    def __init__(self, template: Path, open_log: Opener) -> None:
        self._template, self._open = template, open_log

    def run(self, directory: Path, *options: str) -> tuple[list[int], str]:
        """Three appends, the second in a new segment; returns what was acknowledged and what strace wrote."""
        shutil.copytree(self._template, directory)
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            try:
                theirs.recv(1)
                self._write(directory, theirs)
            finally:
                os._exit(0)
        theirs.close()
        output = directory.with_suffix(".strace")
        command = ["strace", "-o", str(output), "-e", f"trace={CALLS}", *options, "-p", str(child)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            if "attached" not in said:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.skip(f"strace may not attach to a process here: {said.strip()}")
            ours.send(b"g")
            os.waitpid(child, 0)
        with ours, ours.makefile("rb") as stream:
            acknowledged = list(stream.read())
        return acknowledged, output.read_text()

    def _write(self, directory: Path, acknowledge: socket.socket) -> None:
        with self._open(directory) as log:
            for number in range(3):
                numbers = log.append(*events(number))
                acknowledge.sendall(bytes(numbers))


@pytest.fixture(scope="module")
def strace(tmp_path_factory: pytest.TempPathFactory) -> Strace:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("strace")
    key = create_key(folder / "key.pem")

    def open_log(directory: Path) -> AuditLog:
        return AuditLog.open(directory, origin="a/log", key=key, rotation=ROTATION)

    with open_log(folder / "template") as log:
        log.append(Event("gate", "first", "m"))
    return Strace(folder / "template", open_log)


def counted(trace: str) -> dict[str, int]:
    return collections.Counter(re.findall(r"^(\w+)\(", trace, re.M))


@pytest.mark.parametrize("fault", ["error=EIO", "error=ENOSPC", "signal=SIGKILL"])
def test_a_fault_at_any_call_loses_nothing_acknowledged(tmp_path: Path, strace: Strace, fault: str) -> None:
    acknowledged, trace = strace.run(tmp_path / "whole")
    calls = counted(trace)
    assert len(acknowledged) == 6
    assert {"write", "fsync", "fdatasync", "rename", "openat"} <= set(calls)
    assert sum(calls.values()) > 40
    lost = 0
    for call, count in calls.items():
        for at in range(1, count + 1):
            directory = tmp_path / f"{call}-{at}"
            acknowledged, _ = strace.run(directory, "-e", f"inject={call}:{fault}:when={at}")
            check(directory, acknowledged, strace._open)
            lost += len(acknowledged) < 6
            shutil.rmtree(directory)
    assert lost > 20, "the faults were felt"


def check(directory: Path, acknowledged: list[int], open_log: Opener) -> None:
    """The log verifies once it was opened again, and holds every entry that was acknowledged."""
    with open_log(directory) as log:
        log.append(Event("gate", "after", "m"))
    found = entries(directory)
    for index, seq in enumerate(acknowledged):
        assert found[seq]["detail"] == {"n": index // 2}, directory
    report = verify(directory)
    assert (report.size, report.unrecorded_erasures) == (len(found), 0)
    assert found[-1]["action"] == "after"


def test_a_refusal_for_want_of_space_is_the_last_entry(tmp_path: Path, strace: Strace) -> None:
    directory = tmp_path / "full"
    acknowledged, _ = strace.run(directory, "-e", "inject=fdatasync:error=ENOSPC:when=3")
    last = entries(directory)[-1]
    assert (last["action"], last["rule"]) == ("log.full", "log.space")
    assert last["detail"]["refused"] == "round.egress,x"
    assert len(acknowledged) == 2
    verify(directory)


# -- killed in a loop, and read meanwhile

WRITER = """
import itertools, sys
from audit.entry import Event
from audit.keys import load_key
from audit.log import AuditLog
from audit.segments import Rotation
with AuditLog.open(sys.argv[1], origin="a/log", key=load_key(sys.argv[2]), rotation=Rotation(max_bytes=5000)) as log:
    for n in itertools.count():
        for seq in log.append(*[Event("gate", "round.egress", "m", detail={"n": n})] * (1 + n % 4)):
            print(seq, flush=True)
"""


class Auditor(threading.Thread):
    """Fetches the log again and again as the evidence interface gives it out, and verifies each copy."""

    def __init__(self, directory: Path, copies: Path) -> None:
        super().__init__()
        self.stop, self.failure, self.sizes = threading.Event(), None, []
        self._directory, self._copies, self.acknowledged = directory, copies, -1

    def run(self) -> None:
        try:
            while not self.stop.is_set() or not self.sizes:
                before = self.acknowledged
                if (self._directory / "checkpoint").exists():
                    self.sizes.append(self.fetch())
                    assert self.sizes[-1] > before, "what was acknowledged is in the copy"
        except Exception as error:  # noqa: BLE001  the test's thread has to see it
            self.failure = error

    def fetch(self) -> int:
        copy = self._copies / str(len(self.sizes))
        (copy / "segments").mkdir(parents=True)
        (copy / "payloads").mkdir()
        note, checkpoint = read_checkpoint(self._directory)
        for name in segment_names(self._directory, checkpoint.size):
            (copy / "segments" / name).write_bytes(read_segment(self._directory, name, checkpoint.size))
        (copy / "checkpoint").write_bytes(note)
        size = verify(copy, (self._directory / "log.vkey").read_text().strip()).size
        shutil.rmtree(copy)
        assert size == checkpoint.size
        return size


def test_a_writer_killed_again_and_again_beside_a_reader(tmp_path: Path) -> None:
    create_key(tmp_path / "key.pem")
    directory, chance = tmp_path / "log", random.Random(20261124)
    auditor = Auditor(directory, tmp_path / "copies")
    auditor.start()
    try:
        for _ in range(8):
            command = [sys.executable, "-c", WRITER, directory, tmp_path / "key.pem"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout is not None
                for _ in range(chance.randint(1, 80)):
                    auditor.acknowledged = int(writer.stdout.readline())
                writer.kill()
                rest = [line for line in writer.stdout.readlines() if line.endswith("\n")]
            auditor.acknowledged = int(rest[-1]) if rest else auditor.acknowledged
    finally:
        auditor.stop.set()
        auditor.join()
    if auditor.failure is not None:
        raise auditor.failure
    assert len(auditor.sizes) > 8
    assert auditor.sizes == sorted(auditor.sizes)
    with AuditLog.open(directory, origin="a/log", key=load_key(tmp_path / "key.pem")) as log:
        assert log.size > auditor.acknowledged
    assert len(list((directory / "segments").glob("*.jsonl"))) > 2
    assert verify(directory).size == log.size


# -- silence


def test_silence_is_broken_by_a_heartbeat(tmp_path: Path, open_log: Opener) -> None:
    from audit.heartbeat import Heartbeat

    with open_log(tmp_path) as log:
        beating = Heartbeat(log, "gate", seconds=0.05)
        beating.start()
        while log.size < 2:
            threading.Event().wait(0.01)
        beating.stop()
        count = log.size
    assert [entry["action"] for entry in entries(tmp_path)] == ["log.heartbeat"] * count


def test_a_log_that_refuses_ends_the_heartbeat(tmp_path: Path, open_log: Opener) -> None:
    from audit.heartbeat import Heartbeat

    with open_log(tmp_path) as log:
        (tmp_path / "segments/000000000000.jsonl").unlink()
        beating = Heartbeat(log, "gate", seconds=0.01)
        beating.start()
        beating._thread.join(20)
        assert not beating._thread.is_alive()
        assert log.health.refusal is not None
        with pytest.raises(AuditError):
            log.append(Event("gate", "x", "m"))
