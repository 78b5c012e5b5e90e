"""Processes that belong together: started with their output in a file, ended together, gone when their parent is."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from federation.errors import ConcordatError

PARENT_VARIABLE = "CONCORDAT_END_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent_if_asked() -> None:
    """Follow the wish of a parent that started this process as part of itself."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent()
        if os.getppid() != int(parent):
            sys.exit(1)


def command_line(*arguments: str) -> list[str]:
    """The `concordat` command with arguments."""
    return [sys.executable, "-P", "-m", "federation", *arguments]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the end of the block, so that a process that was started is also known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


class Child:
    """One process; its output goes to a log file and can be waited on, line by line."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**(os.environ if environment is None else environment), PARENT_VARIABLE: str(os.getpid())},
        )
        self._thread = threading.Thread(target=self._read, name=f"log-{name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def expect(self, text: str, timeout: float) -> str:
        """Wait for a line that contains the text; raises ConcordatError where it ends first or time runs out."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(text in line for line in self._lines), timeout)
            for line in self._lines:
                if text in line:
                    return line
            last = self._lines[-1].strip() if self._lines else "nothing was printed"
        state = "ended" if self._ended else f"did not say {text!r} within {timeout:.0f} s"
        raise ConcordatError(f"{self.name} {state}: {last}", advice=f"see {self.log}")

    def output(self) -> str:
        """What the process printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait(self, timeout: float) -> int:
        """Wait for the process to end; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def join(self) -> None:
        """Wait until everything the process printed has been read."""
        self._thread.join()

    def signal(self, number: int) -> None:
        """Send a signal where the process still runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  a pipe was asked for
        with self.log.open("a", encoding="utf-8") as file:
            for line in self._process.stdout:
                file.write(line)
                file.flush()
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def stop_all(children: Sequence[Child], timeout: float = 10.0) -> list[str]:
    """End processes gently, then by force; returns the names of those that had to be forced."""
    for child in children:
        child.signal(signal.SIGTERM)
    forced = []
    for child in children:
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            forced.append(child.name)
            child.signal(signal.SIGKILL)
            child.wait(timeout)
    return forced
