"""The worker's process: leaves the network, then keeps one trainer warm, a fresh one for each run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from federation.processes import PARENT_VARIABLE, end_with_parent_if_asked
from silo.config import load_worker_config
from silo.confinement import leave_network

NETWORK_VARIABLE = "CONCORDAT_WORKER_NETWORK"
RETRY_SECONDS = 1.0
INHERITED = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "LD_LIBRARY_PATH"})
"""What a trainer inherits; app code sees no other variable of the host."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Landlock binds the thread that asks for it and those it starts: NumPy and Arrow must not start any before."""


def run_worker(config_path: Path, say: Callable[[str], None]) -> None:
    """Supervise trainers until SIGINT or SIGTERM."""
    config = load_worker_config(config_path)
    network = leave_network()
    say(f"worker of {config.silo}: {network}")
    stopping = threading.Event()
    current: list[subprocess.Popen[bytes]] = []

    def stop(*_: object) -> None:
        stopping.set()
        for process in current:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for left_over in config.scratch.glob("trainer-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    command = [sys.executable, "-P", "-m", "silo.worker.service", str(config_path.resolve())]
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    environment |= {**ONE_THREAD, NETWORK_VARIABLE: network, PARENT_VARIABLE: str(os.getpid())}
    while not stopping.is_set():
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd="/")
        current[:] = [process]
        if stopping.is_set():
            process.terminate()
        code = process.wait()
        # The trainer empties its own scratch directory; the right to remove the directory itself it gave up.
        shutil.rmtree(config.scratch / f"trainer-{process.pid}", ignore_errors=True)
        if code and not stopping.is_set():
            say(f"worker of {config.silo}: the trainer ended with code {code}; starting a fresh one")
            stopping.wait(RETRY_SECONDS)


def main() -> None:
    """The trainer's entry point, started by the worker alone."""
    end_with_parent_if_asked()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    # Imported here alone: NumPy starts threads, and a process with threads may not enter a user namespace.
    from silo.worker.trainer import serve  # noqa: PLC0415

    config = load_worker_config(Path(sys.argv[1]))
    sys.exit(serve(config, os.environ.pop(NETWORK_VARIABLE, "unknown")))


if __name__ == "__main__":
    main()
