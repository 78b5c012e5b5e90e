"""The trainer: one process for one run, warm before it, gone after it; no run sees another's code or data."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federation import __version__
from federation.errors import ConcordatError
from federation.run import Run, load_run
from federation.wire import weights_digest
from policies.errors import PolicyError
from silo.channel import ChannelError, Frame, payload_of, receive, send
from silo.config import WorkerConfig
from silo.confinement import confine_files, drop_capabilities, network_interfaces, runtime_paths
from silo.worker.app import load_builder, unpack
from silo.worker.errors import WorkError, kind_of

if TYPE_CHECKING:
    from silo.worker.data.view import PolicyView
    from silo.worker.training.model import FederatedModel

RETRY_SECONDS = 0.2


class Trainer:
    """Answers the gate's requests for one run."""

    def __init__(self, config: WorkerConfig, scratch: Path) -> None:
        self._config = config
        self._scratch = scratch
        self._run: Run | None = None
        self._view: PolicyView | None = None
        self._model: FederatedModel | None = None
        self._operations: dict[str, Callable[[Frame], Frame]] = {
            "prepare": self._prepare,
            "initial": self._initial,
            "train": self._train,
            "evaluate": self._evaluate,
        }

    def answer(self, frame: Frame) -> Frame:
        """Do what a frame asks; a failure is an answer with one sentence that holds no data."""
        operation = self._operations.get(frame.op)
        if operation is None:
            return Frame("error", {"message": f"the worker does not know how to {frame.op[:40]}"})
        try:
            return operation(frame)
        except WorkError as error:
            return Frame("error", {"message": str(error)})
        except PolicyError as error:
            return Frame("error", {"message": f"the run cannot be read: {error}"[:1000]})
        except Exception as error:  # noqa: BLE001  submitted code runs in here; its words may hold data and stay inside
            return Frame("error", {"message": f"training raised {kind_of(error)}"})

    def _prepare(self, frame: Frame) -> Frame:
        from silo.worker.data.view import build_view, read_columns  # noqa: PLC0415
        from silo.worker.training.model import FederatedModel  # noqa: PLC0415

        if self._run is not None:
            raise WorkError("this worker already serves a run")
        self._run = run = load_run(str(frame.fields["run"])).model
        source = self._config.datasets.get(run.dataset)
        if source is None:
            raise WorkError(f"this worker has no dataset {run.dataset}")
        self._view = view = build_view(read_columns(source, run.columns), run, self._config.silo)
        # The view is in memory: from here on, and so for the app's code, the data source is out of reach.
        confine_files(runtime_paths(), [self._scratch])
        drop_capabilities()
        app = self._scratch / "app"
        app.mkdir()
        unpack(frame.payload, app)
        builder = load_builder(app, run.app.model)
        strategy = run.strategy
        self._model = model = FederatedModel(builder, len(run.features), run.seed, strategy.mu, strategy.local)
        return Frame(
            "prepared",
            {
                "rows": view.rows,
                "examples": len(view.train_x),
                "validation": len(view.validation_x),
                "dropped": view.dropped,
                "view_digest": view.digest,
                "shapes": model.shapes,
                "values": model.size,
                "initial_digest": weights_digest(model.get()),
            },
        )

    def _ready(self) -> tuple[Run, PolicyView, FederatedModel]:
        if self._run is None or self._view is None or self._model is None:
            raise WorkError("the worker was asked for work before a run was prepared")
        return self._run, self._view, self._model

    def _initial(self, _frame: Frame) -> Frame:
        model = self._ready()[2]
        return Frame("initial", {}, payload_of(model.get()))

    def _train(self, frame: Frame) -> Frame:
        from silo.worker.training.model import batches  # noqa: PLC0415

        run, view, model = self._ready()
        weights = frame.weights()
        metrics = model.evaluate(weights, view, run.metrics)
        order = batches(len(view.train_x), run.strategy.local, run.seed, int(frame.fields["round"]))
        trained = model.train(weights, view, order)
        return Frame("trained", {"examples": len(view.train_x), "metrics": metrics}, payload_of(trained))

    def _evaluate(self, frame: Frame) -> Frame:
        run, view, model = self._ready()
        return Frame("evaluated", {"metrics": model.evaluate(frame.weights(), view, run.metrics)})


def serve(config: WorkerConfig, network: str) -> int:
    """Warm up, connect to the gate, serve one run; returns the process's exit code."""
    scratch = config.scratch / f"trainer-{os.getpid()}"
    scratch.mkdir(mode=0o700, parents=True)
    os.environ.update(TMPDIR=str(scratch), KERAS_HOME=str(scratch), TF_CPP_MIN_LOG_LEVEL="3", HOME=str(scratch))
    try:
        files = confine_files(
            [*runtime_paths(), *(source.path.parent for source in config.datasets.values()), config.socket.parent],
            [scratch],
        )
        from silo.worker.training.model import configure  # noqa: PLC0415

        configure(config.threads)
        hello: dict[str, Any] = {
            "version": __version__,
            "network": network,
            "files": files,
            "interfaces": ",".join(network_interfaces()),
            "datasets": sorted(config.datasets),
        }
        connection = _connect(config.socket)
        trainer = Trainer(config, scratch)
        try:
            send(connection, Frame("hello", hello))
            while True:
                frame = receive(connection)
                with ended_by_hangup(connection):
                    answer = trainer.answer(frame)
                send(connection, answer)
        except ChannelError:
            return 0
    except ConcordatError as error:
        sys.stderr.write(f"concordat worker: {error}\n")
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def ended_by_hangup(connection: socket.socket) -> Iterator[None]:
    """Have the kernel end this process when the gate hangs up while it works, whatever submitted code is doing.

    The gate says nothing while it waits for an answer, so any signal from the socket (SIGIO) means that it is gone.
    """
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(connection, fcntl.F_SETFL, flags)


def _connect(path: Path) -> socket.socket:
    """Connect to the gate, waiting for it to listen."""
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            time.sleep(RETRY_SECONDS)
        else:
            return connection
