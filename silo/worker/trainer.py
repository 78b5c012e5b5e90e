"""The trainer: one process for one run, warm before it, gone after it; no run sees another's code or data."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from federation import __version__
from federation.control_variates import LEARNING_RATE, parted
from federation.errors import ConcordatError
from federation.logs import tell
from federation.run import OWN_METRICS, Run, load_run
from federation.wire import Weights, weights_digest
from policies.errors import PolicyError
from silo.channel import ChannelError, Frame, payload_of, receive, send
from silo.config import ContractSource, CsvSource, ParquetSource, WorkerConfig, contracts_of
from silo.confinement import confine_files, drop_capabilities, forbid_sockets, network_interfaces, runtime_paths
from silo.constraint import Constraint, parse_constraint
from silo.dataset.contract import Contract
from silo.dataset.sources import files_of
from silo.devices import HIDDEN
from silo.transport import connect
from silo.worker import normalizing
from silo.worker.app import load_builder, unpack
from silo.worker.door import shut
from silo.worker.enclosure import Enclosed
from silo.worker.errors import WorkError, kind_of
from silo.worker.leftovers import remove_tree
from silo.worker.statistics import summarised

if TYPE_CHECKING:
    from silo.worker.data.view import PolicyView
    from silo.worker.training.model import FederatedModel, Privacy

TURNED_AWAY_SECONDS = 5.0
CONNECTED = "connected"
"""A file in the trainer's scratch directory that is there while it is connected to its gate, for a readiness probe."""
NO_CONTRACTS: Mapping[str, Contract] = MappingProxyType({})


class Trainer:
    """Answers the gate's requests for one run."""

    def __init__(
        self,
        config: WorkerConfig,
        scratch: Path,
        contracts: Mapping[str, Contract] = NO_CONTRACTS,
        *,
        own_ipc: bool = False,
    ) -> None:
        """`own_ipc` says that this process is in an IPC namespace of its run's own."""
        self._config = config
        self._contracts = contracts
        self._scratch = scratch
        self._own_ipc = own_ipc
        self._run: Run | None = None
        self._view: PolicyView | None = None
        self._model: FederatedModel | None = None
        self._normalization: str | None = None
        self._own: Weights | None = None
        """The silo's model of its own rows alone, where the run compares with it."""
        self._operations: dict[str, Callable[[Frame], Frame]] = {
            "prepare": self._prepare,
            "initial": self._initial,
            "train": self._train,
            "evaluate": self._evaluate,
            "summarise": lambda frame: summarised(frame, self._config, self._contracts),
        }

    def answer(self, frame: Frame) -> Frame:
        """Do what a frame asks; a failure is an answer with one sentence that holds no data."""
        operation = self._operations.get(frame.op)
        if operation is None:
            return Frame("error", {"message": f"the worker does not know how to {frame.op[:40]}"})
        try:
            return operation(frame)
        except Exception as error:  # noqa: BLE001  submitted code runs in here; its words may hold data and stay inside
            if isinstance(error, WorkError) and not self._is_of_app(error):
                return Frame("error", {"message": str(error)})
            if isinstance(error, PolicyError) and not self._is_of_app(error):
                return Frame("error", {"message": f"the run cannot be read: {error}"[:1000]})
            return Frame("error", {"message": f"training raised {kind_of(error)}"})

    def _is_of_app(self, error: Exception) -> bool:
        """Whether an exception came by way of the app's code, which may raise this package's kinds too."""
        scratch = f"{self._scratch}{os.sep}"
        return any(frame.f_code.co_filename.startswith(scratch) for frame, _ in traceback.walk_tb(error.__traceback__))

    def _prepare(self, frame: Frame) -> Frame:
        from silo.worker.training.devices import use_device  # noqa: PLC0415
        from silo.worker.training.model import FederatedModel  # noqa: PLC0415

        if self._run is not None:
            raise WorkError("this worker already serves a run")
        self._run = run = load_run(str(frame.fields["run"])).model
        source = self._config.datasets.get(run.dataset)
        if source is None:
            raise WorkError(f"this worker has no dataset {run.dataset}")
        constraint = parse_constraint(frame.fields["view"]) if "view" in frame.fields else Constraint(run.columns)
        if not set(run.columns) <= set(constraint.allow):
            raise WorkError("the run asks for columns that the policy does not allow")
        pseudonymized = [name for name in run.columns if name in constraint.pseudonymize]
        if isinstance(source, ContractSource):
            self._view, withheld, contract = self._by_contract(self._contracts[run.dataset], run, constraint)
        else:
            self._view, withheld = self._by_source(source, run, constraint)
            contract = None
        view = self._view
        moments = normalizing.moments_of(view, run, frame)
        # The view is in memory: from here on, and so for the app's code, the data source is out of reach.
        shut()
        confine_files(runtime_paths(), [self._scratch])
        drop_capabilities()
        if use_device(self._config.device):
            _complain("trains on a GPU")
        sockets = forbid_sockets(own_ipc=self._own_ipc)
        if sockets.startswith("SOCKETS NOT") and isinstance(source, ContractSource):
            raise WorkError(f"the app could reach what listens on this host, such as a database: {sockets}")
        _silence()
        sys.dont_write_bytecode = True
        app = self._scratch / "app"
        app.mkdir()
        unpack(frame.payload, app)
        builder = load_builder(app, run.app.model)
        self._model = model = FederatedModel.of(run, builder)
        return Frame(
            "prepared",
            {
                "rows": view.rows,
                "examples": len(view.train_x),
                "validation": len(view.validation_x),
                "dropped": view.dropped,
                "withheld": withheld,
                "contract": contract,
                "constraint": constraint.digest,
                "consent": constraint.consent,
                "opt_out": constraint.opt_out,
                "pseudonymized": pseudonymized,
                "view_digest": view.digest,
                "shapes": model.shapes,
                "values": model.size,
                "initial_digest": weights_digest(model.get()),
                "sockets": sockets,
                **moments,
                LEARNING_RATE: model.learning_rate,
            },
        )

    def _by_source(self, source: CsvSource | ParquetSource, run: Run, constraint: Constraint) -> tuple[PolicyView, int]:
        """The view of a plain file, and how many rows were withheld."""
        from silo.worker.data.constrain import Constrained  # noqa: PLC0415
        from silo.worker.data.reader import read_apart  # noqa: PLC0415
        from silo.worker.data.view import build_view, read_columns  # noqa: PLC0415

        columns = tuple(dict.fromkeys((*run.columns, *constraint.deciding)))
        if constraint.changes_rows_or_values:
            constrained = read_apart(source, columns, constraint, self._config.pseudonym_key)
        else:
            constrained = Constrained(read_columns(source, columns), withheld=0)
        return build_view(constrained.frame, run, self._config.silo), constrained.withheld

    def _by_contract(self, contract: Contract, run: Run, constraint: Constraint) -> tuple[PolicyView, int, str]:
        """The view of a dataset with a contract, how many rows were withheld, and the contract's digest."""
        from silo.worker.data.building import Asked  # noqa: PLC0415
        from silo.worker.data.reader import read_view_apart  # noqa: PLC0415
        from silo.worker.data.view import split_view  # noqa: PLC0415

        asked = Asked(contract, run.features, run.label.column, run.label.positive_above, constraint)
        asked.check(key=self._config.pseudonym_key is not None)
        found = read_view_apart(asked, self._config.pseudonym_key)
        basis = "\0".join((contract.digest, constraint.digest, found.identities)).encode()
        view = split_view(found.features, found.labels, run, self._config.silo, found.kept, basis)
        return view, found.withheld, contract.digest

    def _ready(self) -> tuple[Run, PolicyView, FederatedModel]:
        if self._run is None or self._view is None or self._model is None:
            raise WorkError("the worker was asked for work before a run was prepared")
        return self._run, self._view, self._model

    def _initial(self, _frame: Frame) -> Frame:
        model = self._ready()[2]
        return Frame("initial", {}, payload_of(model.get_initial()))

    def _train(self, frame: Frame) -> Frame:
        from silo.worker.training.model import batches  # noqa: PLC0415
        from silo.worker.training.pace import Pace  # noqa: PLC0415

        self._normalise(frame)
        run, view, model = self._ready()
        weights, mu = frame.weights(), frame.fields.get("mu")
        correction = None
        if run.strategy.name == "scaffold":
            weights, correction = parted(weights, model.size)
        metrics = self._metrics(weights)
        model.at_round(int(frame.fields["round"]))
        pace = Pace(run.strategy.local.seconds)
        if run.example_dp:
            privacy = _privacy(frame)
            planned = privacy.steps
            trained, steps = model.work_privately(weights, view, privacy, pace, mu, correction=correction)
        else:
            order = batches(len(view.train_x), run.strategy.local, run.seed, int(frame.fields["round"]))
            planned = len(order)
            trained, steps = model.work(weights, view, order, pace, mu, correction)
            if self._own is not None:
                self._own, _ = model.work(self._own, view, order, Pace(run.strategy.local.seconds), 0.0)
        fields = {"examples": len(view.train_x), "metrics": metrics, "steps": steps, "planned": planned}
        return Frame("trained", fields, payload_of(trained))

    def _evaluate(self, frame: Frame) -> Frame:
        self._normalise(frame)
        return Frame("evaluated", {"metrics": self._metrics(frame.weights())})

    def _normalise(self, frame: Frame) -> None:
        """Scale the view by what came with the model, once."""
        run, view, _ = self._ready()
        self._view, self._normalization = normalizing.normalised(view, run, frame, self._normalization)

    def _metrics(self, weights: Weights) -> dict[str, float]:
        """The metrics the run asks for, of the federated model and, as `own_...`, of the silo's own."""
        run, view, model = self._ready()
        found = model.evaluate(weights, view, tuple(name for name in run.metrics if name not in OWN_METRICS))
        own = tuple(name for name in run.metrics if name in OWN_METRICS)
        if own:
            self._own = model.get_initial() if self._own is None else self._own
            reached = model.evaluate(self._own, view, tuple(name.removeprefix("own_") for name in own))
            found |= {f"own_{name}": value for name, value in reached.items()}
        return found


def _privacy(frame: Frame) -> Privacy:
    """How the gate wants a round to be made private; without it a private run does not train."""
    from silo.worker.training.model import Privacy  # noqa: PLC0415

    try:
        return Privacy(**frame.fields["privacy"])
    except (KeyError, TypeError):
        raise WorkError("the gate asked for a private round without saying how") from None


def serve(config: WorkerConfig, network: str, enclosed: Enclosed) -> int:
    """Warm up, connect to the gate, serve one run; returns the process's exit code."""
    scratch = config.scratch / f"trainer-{enclosed.number}"
    scratch.mkdir(mode=0o700, parents=True)
    os.environ.update(TMPDIR=str(scratch), KERAS_HOME=str(scratch), TF_CPP_MIN_LOG_LEVEL="3", HOME=str(scratch))
    if config.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = HIDDEN
    try:
        contracts = contracts_of(config)
        files = confine_files(
            [
                *runtime_paths(),
                *(source.path.parent for source in config.datasets.values()),
                *(path for contract in contracts.values() for path in files_of(contract.dataset.source)),
                *([config.pseudonym_key] if config.pseudonym_key else []),
                *_channel_paths(config),
            ],
            [scratch],
        )
        from silo.worker.training.model import configure  # noqa: PLC0415

        configure(config.threads)
        hello: dict[str, Any] = {
            "version": __version__,
            "network": network,
            "files": files,
            "processes": enclosed.said,
            "interfaces": ",".join(network_interfaces()),
            "datasets": sorted(config.datasets),
        }
        connection = connect(config, _complain)
        enclosed.end_with(connection)
        trainer = Trainer(config, scratch, contracts, own_ipc=enclosed.own_ipc)
        began, asked = time.monotonic(), False
        try:
            send(connection, Frame("hello", hello))
            (scratch / CONNECTED).touch()
            while True:
                frame = receive(connection)
                asked = True
                send(connection, trainer.answer(frame))
        except ChannelError:
            # With TLS 1.3 a gate turns a certificate away after the worker's side of the handshake is done.
            if config.connect is not None and not asked and time.monotonic() - began < TURNED_AWAY_SECONDS:
                _complain("the gate hung up at once; compare the channel's certificates: concordat silo doctor")
                return 1
            return 0
    except (ConcordatError, PolicyError) as error:
        _complain(str(error))
        return 1
    finally:
        remove_tree(scratch)


def _complain(text: str) -> None:
    tell(f"concordat worker: {text}")


def _channel_paths(config: WorkerConfig) -> list[Path]:
    """What the way to the gate needs to be open: the socket's directory, or those of the certificate files."""
    if config.socket is not None:
        return [config.socket.parent]
    assert config.connect is not None  # noqa: S101  the configuration names one of the two
    return [path.parent for path in (config.connect.certificate, config.connect.key, config.connect.authority)]


def _silence() -> None:
    """Have what submitted code prints go nowhere: a log that is collected is a way out for data."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
