"""The worker as the processes that it is, the test in the place of the gate."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import socket
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from demo.scenarios import EXAMPLES, WISCONSIN_SHARES, DataSource, write_wisconsin
from federation.operator import build_app
from federation.processes import Child, command_line
from federation.wire import weights_digest
from silo.channel import ChannelError, Frame, payload_of, receive, send

from .simulator import listener

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SECONDS = 90.0


@dataclass
class Site:
    """A silo's worker with its data, and the socket on which its gate would listen."""

    path: Path
    listener: socket.socket
    child: Child
    trainers: list[int] = field(default_factory=list)

    def accept(self) -> tuple[socket.socket, Frame, int]:
        """The next trainer's connection, its hello and its process id, by the kernel's word.

        It is another process than those before, they are gone, and with them what they had in scratch space.
        """
        connection, _ = self.listener.accept()
        connection.settimeout(SECONDS)
        hello = receive(connection)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        trainer: int = struct.unpack("3i", credentials)[0]
        assert trainer not in self.trainers
        assert not [pid for pid in self.trainers if Path(f"/proc/{pid}").exists()], "one trainer at a time"
        assert [path.name for path in (self.path / "scratch").iterdir()] == [f"trainer-{trainer}"]
        self.trainers.append(trainer)
        return connection, hello, trainer


def _worker_yaml(path: Path) -> Path:
    config = {
        "apiVersion": "concordat/v1",
        "kind": "Worker",
        "silo": "hospital-a",
        "socket": "gate/worker.sock",
        "scratch": "scratch",
        "threads": 1,
        "datasets": {
            "wisconsin": {"format": "csv", "path": "data/table.csv"},
            "archive": {"format": "parquet", "path": "data/table.parquet"},
        },
    }
    out = path / "worker.yaml"
    with out.open("w") as file:
        YAML().dump(config, file)
    return out


@contextmanager
def _site(prefix: tuple[str, ...] = ()) -> Iterator[Site]:
    """A worker with the breast-cancer table of hospital-a."""
    path = Path(tempfile.mkdtemp(prefix="cc-")).resolve()
    (path / "gate").mkdir()
    (path / "data").mkdir()
    tables = {name: path / "data" / f"{name}.csv" for name in WISCONSIN_SHARES}
    write_wisconsin({**tables, "hospital-a": path / "data" / "table.csv"}, DataSource())
    pd.read_csv(path / "data" / "table.csv").to_parquet(path / "data" / "table.parquet")
    try:
        with listener(path / "gate" / "worker.sock") as sock:
            sock.settimeout(SECONDS)
            command = [*prefix, *command_line("silo", "worker", str(_worker_yaml(path)))]
            child = Child("worker", command, path / "worker.log", {**os.environ, "CONCORDAT_TEST_SECRET": "hidden"})
            try:
                yield Site(path, sock, child)
            finally:
                child.signal(signal.SIGKILL)
                child.wait(30)
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with _site() as site:
        yield site


def _ask(connection: socket.socket, op: str, payload: Any = b"", **fields: object) -> Frame:
    send(connection, Frame(op, fields, payload))
    return receive(connection)


def _failure(answer: Frame) -> str:
    assert answer.op == "error", answer
    return str(answer.fields["message"])


RUN = (EXAMPLES / "breast_cancer" / "run.yaml").read_text()
PARAMETERS = 30 * 32 + 32 + 32 * 16 + 16 + 16 + 1


def test_a_run_from_hello_to_its_evaluation(site: Site) -> None:
    connection, hello, trainer = site.accept()
    with closing(connection):
        template = Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[1]
        assert len(list(Path(f"/proc/{template}/task").iterdir())) == 1, "a fork takes along one thread alone"
        assert hello.op == "hello"
        assert hello.fields["datasets"] == ["archive", "wisconsin"]
        assert hello.fields["network"].startswith(("empty network namespace", "NOT SEPARATED"))
        if hello.fields["network"].startswith("empty"):
            assert hello.fields["interfaces"] == "lo"
        assert hello.fields["files"].startswith(("files confined by Landlock", "FILES NOT CONFINED"))

        for op in ("initial", "train", "evaluate"):
            assert _failure(_ask(connection, op, bytes(8), round=1)).endswith("before a run was prepared")
        assert _failure(_ask(connection, "format_disk")) == "the worker does not know how to format_disk"
        unreadable = _failure(_ask(connection, "prepare", run=RUN.replace("purpose:", "urpose:")))
        assert unreadable.startswith("the run cannot be read: run.yaml:")

        app = build_app(EXAMPLES / "breast_cancer" / "app")
        prepared = _ask(connection, "prepare", app, run=RUN)
        assert prepared.op == "prepared", prepared.fields
        rows = len((site.path / "data" / "table.csv").read_text().splitlines()) - 1
        assert (prepared.fields["rows"], prepared.fields["dropped"]) == (rows, 0)
        assert prepared.fields["examples"] + prepared.fields["validation"] == rows
        assert abs(prepared.fields["validation"] - 0.3 * rows) <= 1
        assert prepared.fields["values"] == PARAMETERS

        initial = _ask(connection, "initial").weights()
        assert initial.size == PARAMETERS
        assert weights_digest(initial) == prepared.fields["initial_digest"]

        before = _ask(connection, "evaluate", payload_of(initial)).fields["metrics"]
        assert set(before) == {"loss", "auc", "accuracy", "num_examples"}
        weights = initial
        for number in (1, 2, 3):
            trained = _ask(connection, "train", payload_of(weights), round=number)
            assert trained.op == "trained", trained.fields
            if number == 1:
                assert trained.fields["metrics"] == before, "a round says what the model it received is worth"
            assert trained.fields["examples"] == prepared.fields["examples"]
            weights = trained.weights()
        assert np.isfinite(weights).all()
        after = _ask(connection, "evaluate", payload_of(weights)).fields["metrics"]
        assert after["loss"] < before["loss"]
        assert after["auc"] > 0.9

        again = _ask(connection, "train", payload_of(initial), round=1).weights()
        np.testing.assert_array_equal(again, _ask(connection, "train", payload_of(initial), round=1).weights())

        assert _failure(_ask(connection, "prepare", app, run=RUN)) == "this worker already serves a run"
        assert _failure(_ask(connection, "train", payload_of(initial[:5]), round=1)).startswith("training raised ")
        assert _ask(connection, "evaluate", payload_of(initial)).fields["metrics"] == before


# -- an app that means ill

# A `{...}` is filled in by the test. What an attempt comes to is told through the exception's type name.
EVIL = """
import os, socket, subprocess, sys, threading
from pathlib import Path

DATA, KEY, OUTSIDE, PORT, ABSTRACT = {data!r}, {key!r}, {outside!r}, {port}, {abstract!r}
SCRATCH = os.environ["TMPDIR"]
FOUND = {{}}
THREADS = len(os.listdir("/proc/self/task"))

def attempt(name, what):
    try:
        what()
        FOUND[name] = "WORKED"
    except BaseException as error:
        FOUND[name] = type(error).__name__

def connect(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as s:
        s.settimeout(10)
        s.connect(address)
        s.send(b"x")

def child(*command):
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise ChildProcessError(done.stderr)

def in_a_thread():
    problems = []
    def read():
        try:
            open(DATA, "rb").read()
        except OSError as error:
            problems.append(error)
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]

def by_a_link():
    link = SCRATCH + "/link"
    os.symlink(DATA, link)
    open(link, "rb").read()

def in_tensorflow_s_threads():
    import tensorflow as tf
    read = lambda _: tf.numpy_function(lambda: (open(DATA, "rb").read(), b"")[1], [], tf.string)
    list(tf.data.Dataset.range(8).map(read, num_parallel_calls=4))

def in_arrow_s_threads():
    import pyarrow as pa, pyarrow.compute as pc, pyarrow.dataset as ds
    came = []
    def read(context, values):
        try:
            came.append(open(DATA, "rb").read())
        except OSError as error:
            came.append(error)
        return values
    pc.register_scalar_function(read, "read", {{"summary": "", "description": ""}}, {{"x": pa.int64()}}, pa.int64())
    table = pa.table({{"a": list(range(100_000))}})
    ds.dataset(table).to_table(columns={{"b": pc.Expression._call("read", [pc.field("a")])}})
    if not any(isinstance(what, bytes) for what in came):
        raise came[0]

def in_tensorflow():
    import tensorflow as tf
    tf.io.read_file(DATA)

def probe():
    attempt("control_scratch", lambda: Path(SCRATCH, "own").write_text("x"))
    attempt("control_runtime", lambda: Path(os.__file__).read_text())
    attempt("control_child", lambda: child("/bin/true"))
    attempt("open_data", lambda: open(DATA, "rb").read())
    attempt("append_data", lambda: open(DATA, "a").close())
    attempt("delete_data", lambda: os.unlink(DATA))
    attempt("list_data", lambda: os.listdir(os.path.dirname(DATA)))
    attempt("link_data", by_a_link)
    attempt("hard_link_data", lambda: os.link(DATA, SCRATCH + "/hard"))
    attempt("move_data", lambda: os.rename(DATA, SCRATCH + "/moved"))
    attempt("data_by_proc_root", lambda: open("/proc/self/root" + DATA, "rb").read())
    attempt("data_by_parent_root", lambda: open(f"/proc/{{os.getppid()}}/root" + DATA, "rb").read())
    attempt("data_in_a_thread", in_a_thread)
    attempt("data_by_a_child", lambda: child("/bin/cat", DATA))
    attempt("data_by_tensorflow", in_tensorflow)
    attempt("data_in_arrow_s_threads", in_arrow_s_threads)
    attempt("data_in_tensorflow_s_threads", in_tensorflow_s_threads)
    attempt("gate_key", lambda: open(KEY).read())
    attempt("list_gate", lambda: os.listdir(os.path.dirname(KEY)))
    attempt("write_outside", lambda: open(OUTSIDE, "w").write("x"))
    attempt("parent_environment", lambda: open(f"/proc/{{os.getppid()}}/environ", "rb").read())
    attempt("worker_environment", lambda: open("/proc/{worker}/environ", "rb").read())
    attempt("gate_environment", lambda: open("/proc/{gate}/environ", "rb").read())
    attempt("parent_memory", lambda: open(f"/proc/{{os.getppid()}}/mem", "rb").read(1))
    attempt("tcp", lambda: connect(socket.AF_INET, ("127.0.0.1", PORT)))
    attempt("udp", lambda: connect(socket.AF_INET, ("127.0.0.1", PORT), socket.SOCK_DGRAM))
    attempt("tcp_by_a_child", lambda: child(sys.executable, "-I", "-c",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 10)"))
    attempt("abstract_socket", lambda: connect(socket.AF_UNIX, ABSTRACT))
    attempt("disk", lambda: [open("/dev/" + n, "rb") for n in ("vda", "sda", "nvme0n1", "mem", "loop0")])
    attempt("own_secrets", lambda: os.environ["CONCORDAT_TEST_SECRET"])
    FOUND["threads_at_start"] = THREADS
    text = ";".join(f"{{name}}={{came}}" for name, came in FOUND.items())
    return text

def build_model(features):
    import keras
    # What an app may say is names and shapes of its weights: the findings go there.
    layers = [keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid", name=probe())]
    model = keras.Sequential(layers)
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""

EVIL_RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: evil}
purpose: HMB
dataset: archive
features: [mean_radius]
label: {column: malignant}
app: {model: "model:build_model"}
strategy: {rounds: 1}
"""


def test_an_app_that_means_ill_reaches_nothing(site: Site) -> None:
    connection, hello, _ = site.accept()  # a fresh trainer: the one that served the run before is gone
    if hello.fields["network"].startswith("NOT") or hello.fields["files"].startswith("FILES NOT"):
        connection.close()
        pytest.skip(
            f"this host allows no network namespace, or no Landlock: {hello.fields['network']}; {hello.fields['files']}"
        )
    data, key = site.path / "data" / "table.parquet", site.path / "home" / "key.pem"
    key.parent.mkdir()
    key.write_text("the gate's key")
    abstract = f"\0{site.path}"
    with (
        closing(connection),
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as outside,
    ):
        outside.bind(abstract)
        outside.listen(1)
        code = EVIL.format(
            data=str(data),
            key=str(key),
            outside=str(site.path / "gate" / "written"),
            port=tcp.getsockname()[1],
            abstract=abstract,
            gate=os.getpid(),
            worker=site.child.pid,
        )
        bundle = io.BytesIO()
        with zipfile.ZipFile(bundle, "w") as archive:
            archive.writestr("model.py", code)
        # Without confinement each of these is open to the worker's user.
        assert data.read_bytes()
        assert Path(f"/proc/{site.child.pid}/environ").read_bytes()
        content = data.read_bytes()
        answer = _ask(connection, "prepare", bundle.getvalue(), run=EVIL_RUN)
        assert answer.op == "prepared", answer.fields
        said = json.loads(answer.fields["shapes"])[0]["name"].removeprefix("sequential/").removesuffix("/kernel")
        found = dict(part.split("=") for part in said.split(";"))
        controls = {name: came for name, came in found.items() if name.startswith("control")}
        assert set(controls.values()) == {"WORKED"}, controls
        # Landlock does not bind threads that ran before it was asked for: there must have been none.
        assert found.pop("threads_at_start") == "1"
        assert len(found) == EVIL.count("    attempt(")
        assert {name: came for name, came in found.items() if came == "WORKED"} == controls
        tcp.setblocking(False)
        with pytest.raises(BlockingIOError):
            tcp.accept()
        assert data.read_bytes() == content
        assert not (site.path / "gate" / "written").exists()


LOOPING_APP = "def build_model(features):\n    while True:\n        pass\n"


def test_an_app_that_never_returns_ends_when_the_gate_hangs_up(site: Site) -> None:
    """The gate drops a worker that is late; the kernel then ends the trainer, whatever its code is doing."""
    connection, _, trainer = site.accept()
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("model.py", LOOPING_APP)
    pid = os.pidfd_open(trainer)
    try:
        send(connection, Frame("prepare", {"run": EVIL_RUN.replace("archive", "wisconsin")}, bundle.getvalue()))
        connection.settimeout(1.0)
        with pytest.raises(ChannelError):
            receive(connection)
        connection.close()
        assert _gone(pid)
    finally:
        os.close(pid)
    fresh, _, other = site.accept()
    fresh.close()
    assert other != trainer


# -- the end


def _gone(descriptor: int) -> bool:
    """Whether a process has ended, waiting for it; the descriptor is one of pidfd_open(2)."""
    return bool(select.select([descriptor], [], [], SECONDS)[0])


def test_a_worker_told_to_stop_leaves_no_process_and_no_file(site: Site) -> None:
    connection, _, trainer = site.accept()
    with closing(connection):
        without = _failure(_ask(connection, "prepare", run=EVIL_RUN.replace("[mean_radius]", "[height]")))
        assert without.startswith("the data source has not the columns")
        descriptor = os.pidfd_open(trainer)
        site.child.signal(signal.SIGTERM)
        assert site.child.wait(30) == 0
        assert _gone(descriptor)
        os.close(descriptor)
        with pytest.raises(ChannelError):
            receive(connection)
    assert list((site.path / "scratch").iterdir()) == []


def test_a_killed_worker_takes_its_trainer_along() -> None:
    """Here without the right to administer the machine, as a service's user is: by way of a user namespace."""
    prefix: tuple[str, ...] = ()
    if os.getuid() == 0:
        drop = shutil.which("setpriv") or pytest.skip("needs root and setpriv(1), to drop root's rights")
        prefix = (drop, "--bounding-set=-sys_admin")
    with _site(prefix=prefix) as site:
        connection, hello, trainer = site.accept()
        with closing(connection):
            assert hello.fields["network"].startswith(("empty network namespace in a user namespace", "NOT SEPARATED"))
            if hello.fields["network"].startswith("NOT"):
                assert "Invalid argument" not in hello.fields["network"], "it had threads when it tried"
            descriptor = os.pidfd_open(trainer)
            site.child.signal(signal.SIGKILL)
            assert _gone(descriptor)
            os.close(descriptor)
            with pytest.raises(ChannelError):
                receive(connection)


def test_a_configuration_that_cannot_be_meant_starts_no_trainer(tmp_path: Path) -> None:
    config = tmp_path / "worker.yaml"
    config.write_text("apiVersion: concordat/v1\nkind: Worker\ndata: x\n")
    child = Child("worker", command_line("silo", "worker", str(config)), tmp_path / "log", os.environ)
    assert child.wait(60) != 0
    line = child.expect("concordat: ", 60)
    assert f"{config}:3:1: " in child.output()
    assert "Traceback" not in child.output()
    assert line.startswith("concordat: ")
