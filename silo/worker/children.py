"""Forks that end with the process that made them, and what is done about children that outlive their work."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from federation.processes import die_with_parent

_PR_SET_CHILD_SUBREAPER = 36


def number_outside() -> int:
    """The number of this process as /proc has it, which may be that of an outer namespace."""
    return int(Path("/proc/self").readlink().name)


def forked(work: Callable[[], int]) -> int:
    """A fork that works and ends, with its parent at the latest; returns its process id.

    Its exit code is what `work` returns; for a negative one, of a child that a signal ended, 128 and the signal.
    """
    parent = number_outside()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        die_with_parent()
        if _parent_of("self") == parent:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            code = work()
    except BaseException:  # noqa: BLE001  the fork ends here, whatever happened, and never goes on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if code >= 0 else 128 - code)


def exit_code_of(process: int) -> int:
    """Wait for a child, and reap every other one that ends before it; returns its exit code."""
    while True:
        ended, status = os.wait()
        if ended == process:
            return os.waitstatus_to_exitcode(status)


def adopt_orphans() -> None:
    """Have the processes that children leave behind become children of this process (prctl PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(spared: Collection[int] = ()) -> None:
    """Kill the children of this process and what they leave behind, until none is left but those to be spared."""
    while found := [process for process in _children() if process not in spared]:
        for process in found:
            os.kill(process, signal.SIGKILL)
        for process in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, 0)


def _children() -> list[int]:
    """The children of this process, ended ones that were not waited for among them."""
    names = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(name) for name in names if _parent_of(name) == os.getpid()]


def _parent_of(process: str) -> int:
    """The parent's number as /proc has it; 0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0
