"""The worker's process: leaves the network, then keeps the template of its trainers, a fresh one of which is warm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from federation.addresses import split_address
from federation.logs import tell
from federation.processes import PARENT_VARIABLE, end_with_parent_if_asked
from silo.config import WorkerConfig, contracts_of, load_worker_config
from silo.confinement import leave_network
from silo.dataset.contract import Contract
from silo.dataset.sources import SqlQuery
from silo.devices import check_device
from silo.sockets import keep_tcp_ports
from silo.worker.children import adopt_orphans, end_children
from silo.worker.door import open_door
from silo.worker.enclosure import find_enclosure
from silo.worker.leftovers import remove_trainers
from silo.worker.template import RETRY_SECONDS, import_training, keep_trainers

NETWORK_VARIABLE = "CONCORDAT_WORKER_NETWORK"
LINE = 2000
"""The most bytes of a trainer's line that are passed on in one piece."""
INHERITED = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "TZ", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "LD_LIBRARY_PATH"),
        "CUDA_VISIBLE_DEVICES",
    }
)
"""What a trainer inherits; app code sees no other variable of the host."""
FROM_TEXT = ("--check-hash-based-pycs", "always")
"""Python's own importer then compares each compiled file with its text, where the file says which text it is of."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Landlock binds the thread that asks for it and those it starts: NumPy and Arrow must not start any before."""


def databases_of(contracts: Iterable[Contract]) -> list[str]:
    """The addresses of the databases over TCP that contracts name, `host:port`, each once."""
    sources = [contract.dataset.source for contract in contracts]
    found = [source.address for source in sources if isinstance(source, SqlQuery)]
    return sorted({address for address in found if address is not None})


def separate(config: WorkerConfig) -> str:
    """Leave the network, or all of it but the way to the gate where that is in another pod; returns what happened."""
    if config.connect is None:
        return leave_network()
    return keep_tcp_ports([split_address(config.connect.address)[1]])


def run_worker(config_path: Path, say: Callable[[str], None], gate: str | None = None) -> None:
    """Supervise the trainers' template until SIGINT or SIGTERM; `gate` replaces the configuration's gate address."""
    config = load_worker_config(config_path, gate)
    check_device(config.device)
    addresses = databases_of(contracts_of(config).values())  # a contract that is wrong is told here, once
    door = open_door(addresses) if addresses else None
    network = separate(config)
    if door is not None:
        network += f"; a process of its own opens connections to {', '.join(addresses)}: {door[0].how()}"
    say(f"worker of {config.silo}: {network}")
    adopt_orphans()
    stopping = threading.Event()
    current: list[subprocess.Popen[bytes]] = []

    def stop(*_: object) -> None:
        stopping.set()
        for process in current:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    remove_trainers(config.scratch)
    command = [sys.executable, *FROM_TEXT, "-P", "-m", "silo.worker.service", str(config_path.resolve())]
    command += [gate] if gate is not None else []
    environment = {name: value for name, value in os.environ.items() if name in INHERITED}
    environment |= {**ONE_THREAD, NETWORK_VARIABLE: network, PARENT_VARIABLE: str(os.getpid())}
    passed = []
    if door is not None:
        environment |= door[0].variable()
        passed.append(door[0].descriptor)
    while not stopping.is_set():
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            pass_fds=passed,
        )
        threading.Thread(target=_pass_on, args=(process, say), daemon=True).start()
        current[:] = [process]
        if stopping.is_set():
            process.terminate()
        code = process.wait()
        end_children(spared=[] if door is None else [door[1].pid])
        remove_trainers(config.scratch)
        if not stopping.is_set():
            say(f"worker of {config.silo}: the trainers' template ended with code {code}; starting a fresh one")
            stopping.wait(RETRY_SECONDS)


def _pass_on(process: subprocess.Popen[bytes], say: Callable[[str], None]) -> None:
    """Say what a trainer prints, until it runs submitted code: from then on it prints nowhere."""
    pipe = process.stdout
    assert pipe is not None  # noqa: S101  one was asked for
    for line in iter(lambda: pipe.readline(LINE), b""):
        text = line.decode("utf-8", "replace").strip()
        if text:
            say(text)


def main() -> None:
    """The template's entry point, started by the worker alone."""
    end_with_parent_if_asked()
    path, gate = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    network = os.environ.pop(NETWORK_VARIABLE, "unknown")
    config = load_worker_config(path, gate)

    def complain(text: str) -> None:
        tell(f"worker of {config.silo}: {text}")

    def trainer() -> int:
        # Imported already; and not with this module, as NumPy starts threads and those may enter no user namespace.
        from silo.worker.trainer import serve  # noqa: PLC0415

        config = load_worker_config(path, gate)
        return enclosure.run(lambda enclosed: serve(config, network, enclosed))

    enclosure = find_enclosure()
    import_training(config.scratch)
    code = keep_trainers(trainer, config.scratch, complain)
    sys.stdout.flush()
    # Taking TensorFlow down in order is two seconds' work, for nothing.
    os._exit(code)


if __name__ == "__main__":
    main()
