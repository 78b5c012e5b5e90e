"""Appends that wait for one another share one write, and each keeps its own outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from audit.entry import Event
from audit.errors import AuditEventError, AuditWriteError
from audit.log import AuditLog
from audit.verify import verify

Opener = Callable[[Path], AuditLog]


class Held:
    """A clock at which the first writer waits until others have queued behind it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock, self.entered, self.go = clock, threading.Event(), threading.Event()

    def __call__(self) -> datetime:
        if not self.entered.is_set():
            self.entered.set()
            assert self.go.wait(20)
        return self._clock()


def test_appends_that_wait_are_written_together(tmp_path: Path, key, origin: str, clock) -> None:
    held = Held(clock)
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=held) as log:
        checkpoints: list[str] = []
        signed = log._sign
        log._sign = lambda tree: (signed(tree), checkpoints.append(log.checkpoint))[0]  # type: ignore[method-assign]
        with ThreadPoolExecutor(21) as pool:
            first = pool.submit(log.append, Event("g", "first", "r"))
            assert held.entered.wait(20)
            others = [pool.submit(log.append, Event("g", "x", "r", detail={"n": n})) for n in range(20)]
            while len(log._waiting) < 20:
                threading.Event().wait(0.001)
            held.go.set()
            numbers = [first.result(), *(other.result() for other in others)]
        assert sorted(number for (number,) in numbers) == list(range(21))
        assert len(checkpoints) == 2, "one for the first, one for all that waited"
    assert verify(tmp_path).size == 21


def test_a_bad_event_fails_its_own_caller_alone(tmp_path: Path, key, origin: str, clock) -> None:
    """Its time has no zone, which only shows when the group is encoded."""
    naive = threading.local()

    def read() -> datetime:
        now = clock()
        return now.replace(tzinfo=None) if getattr(naive, "bad", False) else now

    with AuditLog.open(tmp_path, origin=origin, key=key, clock=read) as log:
        naive.bad = True
        with pytest.raises(AuditEventError, match="without a zone"):
            log.append(Event("g", "x", "r"))
        naive.bad = False
        assert log.append(Event("g", "x", "r")) == [0]


def test_all_that_wait_for_a_failed_write_are_refused(tmp_path: Path, open_log: Opener) -> None:
    with open_log(tmp_path) as log:
        (tmp_path / "segments/000000000000.jsonl").unlink()
        outcomes: list[str] = []

        def work() -> None:
            try:
                log.append(Event("g", "x", "r"))
            except AuditWriteError as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 8
        assert log.size == 0


def test_an_interrupted_write_leaves_the_log_closed_and_nobody_waiting(tmp_path: Path, open_log: Opener) -> None:
    with open_log(tmp_path) as log:

        def interrupt(_tree: object) -> None:
            raise KeyboardInterrupt

        log._sign = interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.append(Event("g", "x", "r"))
        with pytest.raises(AuditWriteError, match="interrupted"):
            log.append(Event("g", "x", "r"))


def test_those_that_come_back_at_once_are_written_with_the_first_of_them(
    tmp_path: Path, key, origin: str, clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a group to come back leads the next one: it waits for the others, which had to wait for it else."""
    monkeypatch.setattr("audit.log.GATHER_SECONDS", 60.0)
    with AuditLog.open(tmp_path, origin=origin, key=key, clock=clock) as log:
        log._last_group, log._last_seconds, log._last_done = 3, 60.0, time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(log.append, Event("g", "x", "r"))
            while log._gathering is None:
                assert not first.done()
                threading.Event().wait(0.001)
            others = [pool.submit(log.append, Event("g", "x", "r")) for _ in range(2)]
            assert sorted(number for one in (first, *others) for number in one.result(20)) == [0, 1, 2]
        assert log._last_group == 3
        log._last_seconds = 0.001
        assert log.append(Event("g", "alone", "r")) == [3], "nobody comes: it waits no longer than the last write took"
        assert log._last_group == 1
        log._last_seconds, log._last_done = 60.0, time.monotonic()
        assert log.append(Event("g", "alone", "r")) == [4], "one that writes alone waits for nobody"
        log._last_group, log._last_seconds, log._last_done = 3, 60.0, time.monotonic() - 61
        assert log.append(Event("g", "alone", "r")) == [5], "the last group is long ago"
    assert verify(tmp_path).size == 6
