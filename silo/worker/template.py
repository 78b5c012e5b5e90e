"""The trainers' template: a process with TensorFlow imported in which no app ever runs; each trainer is its fork.

A fork starts in a tenth of a second and shares the template's memory. Importing starts no thread, so the fork is whole.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from silo.worker.children import adopt_orphans, end_children, forked
from silo.worker.leftovers import remove_trainers

RETRY_SECONDS = 1.0


def import_training(scratch: Path) -> None:
    """Import what every trainer needs; what the import wants to write goes to a directory that is then removed."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trainer-", dir=scratch) as home:
        os.environ.update(TMPDIR=home, KERAS_HOME=home, HOME=home, TF_CPP_MIN_LOG_LEVEL="3")
        import silo.worker.trainer  # noqa: PLC0415
        import silo.worker.training.model  # noqa: F401, PLC0415
    # It remembers the directory that was asked of it first; a trainer has its own.
    tempfile.tempdir = None


def keep_trainers(trainer: Callable[[], int], scratch: Path, say: Callable[[str], None]) -> int:
    """Fork one trainer after another, each for one run, until SIGINT or SIGTERM; returns the exit code.

    `trainer` is the fork's work and returns its exit code. Once it ended, so does every process that it left behind,
    and the trainers' directories in scratch are removed.
    """
    # What imports left in a buffer is written once, here, not again by each fork.
    sys.stdout.flush()
    sys.stderr.flush()
    stopping: list[int] = []
    current: list[int] = []

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        for process in current:
            os.kill(process, signal.SIGKILL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    adopt_orphans()
    while not stopping:
        process = forked(trainer)
        current[:] = [process]
        if stopping:
            os.kill(process, signal.SIGKILL)
        # Its number stays its own until it is reaped, so that no other process is killed in its place.
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        current.clear()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        end_children()
        remove_trainers(scratch)
        if code and not stopping:
            say(f"the trainer ended with code {code}; starting a fresh one")
            time.sleep(RETRY_SECONDS)
    return 0
