"""An append returns only once it is recorded, whatever happens to the thread that writes for those that wait."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditWriteError
from audit.log import AuditLog, Rotation
from audit.verify import verify

INTERRUPTIONS = [MemoryError, KeyboardInterrupt, SystemExit, RuntimeError, OSError, RecursionError, GeneratorExit]
FOLLOWERS = 5


class Fault:
    """Raises in the thread that leads, once it is armed; every other call goes through."""

    def __init__(self, call: Callable[..., object], error: type[BaseException]) -> None:
        self._call, self._error, self.armed = call, error, False

    def __call__(self, *arguments: object) -> object:
        if self.armed and threading.current_thread().name == "leader":
            self.armed = False
            raise self._error("as it may befall any thread")
        return self._call(*arguments)


def append_together(log: AuditLog, fault: Fault) -> dict[str, list[int] | BaseException]:
    """The outcomes of one leader's append and of those that are written with it."""
    outcomes: dict[str, list[int] | BaseException] = {}

    def work(name: str) -> None:
        try:
            outcomes[name] = log.append(Event("gate", "round.egress", name))
        except BaseException as error:  # noqa: BLE001  the outcome of the thread
            outcomes[name] = error

    threads = [
        threading.Thread(target=work, args=(name,), name=name) for name in ("leader", *map(str, range(FOLLOWERS)))
    ]
    with log._mutex:  # the leader comes no further until all have queued
        for count, thread in enumerate(threads, 1):
            thread.start()
            while len(log._waiting) < count:
                threading.Event().wait(0.001)
        fault.armed = True
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    return outcomes


def check(folder: Path, outcomes: dict[str, list[int] | BaseException], error: type[BaseException]) -> None:
    """Who was told a number has that entry; the leader got its own error, and all others one of the log's."""
    lines = (folder / "segments/000000000000.jsonl").read_text().splitlines()
    for name, outcome in outcomes.items():
        if isinstance(outcome, list):
            (number,) = outcome
            assert f'"resource":"{name}"' in lines[number]
        else:
            assert type(outcome) is (error if name == "leader" else AuditWriteError)
    assert isinstance(outcomes["leader"], error)


@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_a_leader_that_fails_in_the_clock_lets_nobody_believe_in_a_record(
    tmp_path: Path, key, origin: str, clock, error: type[BaseException]
) -> None:
    fault = Fault(clock, error)
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=fault) as log:  # type: ignore[arg-type]
        log.append(Event("gate", "first", "r"))
        outcomes = append_together(log, fault)
        check(tmp_path, outcomes, error)
        assert not any(isinstance(outcome, list) for outcome in outcomes.values())
        assert log.append(Event("gate", "next", "r")) == [1], "nothing was written: the log goes on"
    assert verify(tmp_path).size == 2


@pytest.mark.parametrize("error", INTERRUPTIONS)
@pytest.mark.parametrize("stage", ["rotate", "encode", "write", "sign"])
def test_a_leader_that_fails_while_it_writes_closes_the_log_and_lets_nobody_believe_in_a_record(
    tmp_path: Path, key, origin: str, clock, stage: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=clock) as log:
        log.append(Event("gate", "first", "r"))
        place, name = (log._live, "append") if stage == "write" else (log, f"_{stage}")
        fault = Fault(getattr(place, name), error)
        monkeypatch.setattr(place, name, fault)
        outcomes = append_together(log, fault)
        if (stage, error) == ("write", OSError) or (stage, error) == ("sign", OSError):  # the disk's, not the thread's
            assert {type(outcome) for outcome in outcomes.values()} == {AuditWriteError}
        else:
            check(tmp_path, outcomes, error)
        with pytest.raises(AuditWriteError, match=r"refuses to append: an append (was interrupted|failed)"):
            log.append(Event("gate", "next", "r"))
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=clock) as log:
        log.append(Event("gate", "after", "r"))
    kept = 1 + FOLLOWERS + 1 if stage == "sign" else 0  # on disk though not signed: adopted, which is an entry as well
    assert verify(tmp_path).size == 2 + kept


@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_a_leader_that_fails_between_two_segments_loses_nothing(
    tmp_path: Path, key, origin: str, clock, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=clock, rotation=Rotation(max_bytes=1)) as log:
        log.append(Event("gate", "first", "r"))
        fault = Fault(log._stored.add, error)
        monkeypatch.setattr(log._stored, "add", fault)
        outcomes = append_together(log, fault)
        assert not any(isinstance(outcome, list) for outcome in outcomes.values())
        with pytest.raises(AuditWriteError):
            log.append(Event("gate", "next", "r"))
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=clock) as log:
        log.append(Event("gate", "after", "r"))
    assert verify(tmp_path).size == 3, "the first, that its segment was sealed, and the one after"


WAITING = """
import os, signal, sys, threading
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from audit.entry import Event
from audit.log import AuditLog, utc_now

entered, go = threading.Event(), threading.Event()

def clock():
    if threading.current_thread().name == "leader":
        entered.set()
        go.wait(30)
    return utc_now()

log = AuditLog.open(Path(sys.argv[1]), origin="x.example/log", key=Ed25519PrivateKey.generate(), clock=clock)
event = lambda name: Event("gate", "round.egress", name)
leader = threading.Thread(target=lambda: print("leader", log.append(event("leader"))), name="leader")
leader.start()
entered.wait(30)

def interrupt():
    while not log._waiting:
        threading.Event().wait(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    print("main", log.append(event("main")))
except KeyboardInterrupt:
    print("interrupted")
go.set()
leader.join(30)
print("next", log.append(event("next")))
log.close()
"""


def test_one_that_is_interrupted_while_it_waits_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["interrupted", "leader [0]", "next [1]"]
    assert verify(tmp_path / "log").size == 2
