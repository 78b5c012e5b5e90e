"""A worker asked for consent and pseudonyms, as the processes that it is; the app looks for what it must not see."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from federation.processes import Child, command_line
from silo.channel import Frame, receive, send
from silo.constraint import Constraint

from .simulator import listener

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

SECONDS = 90.0
ROWS = 400
KEY = b"KEY-" + b"4" * 60
ASKED = Constraint(("pid", "age", "sick"), ("pid",), "agreed", "objected")
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: view}
purpose: HMB
dataset: heart
features: [pid, age]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 1}
metrics: [loss]
"""

# Patterns do not match themselves. What is found is told by the type of the exception, which is all that gets out.
APP = """
import os, re

CONTROL = b"".join([b"CONTROL-", str(20261124).encode(), b"-MARKER"])
PATIENT, SECRET, KNOWN = rb"PATIENT-[0-9]{4}-MARKER", rb"KEY-[4]{60}", rb"CONTROL-[0-9]{8}-MARKER"


def seen():
    found = set()
    pattern = re.compile(b"|".join([PATIENT, SECRET, KNOWN]))
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            region, rights = line.split()[:2]
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in region.split("-"))
            for at in range(start, end, 1 << 24):
                try:
                    memory.seek(at)
                    part = memory.read(min(1 << 24, end - at))
                except OSError:
                    break
                found |= {match[:3] for match in pattern.findall(part)}
    return found


def build_model(features):
    found = seen()
    if b"CON" not in found:
        raise IndexError
    if b"PAT" in found:
        raise KeyError
    if b"KEY" in found:
        raise BufferError
    try:
        open(KEY_FILE, "rb")
        raise EOFError
    except PermissionError:
        pass
    import keras

    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""


def _table() -> pd.DataFrame:
    """400 rows: a quarter without consent, and of the others every tenth with an objection."""
    numbers = np.arange(ROWS)
    return pd.DataFrame(
        {
            "pid": [f"PATIENT-{number:04}-MARKER" for number in numbers],
            "age": 40 + numbers % 50,
            "sick": numbers % 2,
            "agreed": np.where(numbers % 4 == 0, "", "yes"),
            "objected": np.where(numbers % 10 == 1, "yes", "no"),
        }
    )


@contextmanager
def _worker(key: bool) -> Iterator[tuple[socket.socket, Path]]:
    """A worker of such a table, with a key for pseudonyms or without: where it connects to, and the key's place."""
    path = Path(tempfile.mkdtemp(prefix="cc-")).resolve()
    (path / "gate").mkdir()
    (path / "data").mkdir()
    _table().to_csv(path / "data" / "table.csv", index=False)
    secret = path / "pseudonym.key"
    secret.write_bytes(KEY)
    secret.chmod(0o600)
    config = {
        "apiVersion": "concordat/v1",
        "kind": "Worker",
        "silo": "hospital-a",
        "socket": "gate/worker.sock",
        "scratch": "scratch",
        "threads": 1,
        "datasets": {"heart": {"format": "csv", "path": "data/table.csv"}},
        **({"pseudonym_key": "pseudonym.key"} if key else {}),
    }
    with (path / "worker.yaml").open("w") as file:
        YAML().dump(config, file)
    try:
        with listener(path / "gate" / "worker.sock") as sock:
            sock.settimeout(SECONDS)
            child = Child(
                "worker", command_line("silo", "worker", str(path / "worker.yaml")), path / "log", dict(os.environ)
            )
            try:
                yield sock, secret
            finally:
                child.signal(signal.SIGKILL)
                child.wait(30)
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def keyed() -> Iterator[tuple[socket.socket, Path]]:
    with _worker(key=True) as worker:
        yield worker


def _prepared(worker: tuple[socket.socket, Path], view: Constraint) -> Frame:
    """What the worker's next trainer answers where it is asked to prepare a run."""
    sock, secret = worker
    connection, _ = sock.accept()
    connection.settimeout(SECONDS)
    with closing(connection):
        assert receive(connection).op == "hello"
        send(connection, Frame("prepare", {"run": RUN, "view": view.fields()}, _bundle(secret)))
        return receive(connection)


def _bundle(secret: Path) -> bytes:
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("model.py", f"KEY_FILE = {str(secret)!r}\n{APP}")
    return bundle.getvalue()


def test_rows_are_withheld_values_replaced_and_neither_is_in_the_apps_process(
    keyed: tuple[socket.socket, Path],
) -> None:
    answer = _prepared(keyed, ASKED)
    # KeyError: a patient's number was found. BufferError: the key. IndexError: the search found not even its own mark.
    assert answer.op == "prepared", answer.fields
    table = _table()
    used = (table["agreed"] == "yes") & (table["objected"] == "no")
    assert answer.fields["rows"] == used.sum() < ROWS
    assert answer.fields["withheld"] == (~used).sum()
    assert answer.fields["constraint"] == ASKED.digest
    assert (answer.fields["consent"], answer.fields["opt_out"]) == ("agreed", "objected")
    assert answer.fields["pseudonymized"] == ["pid"]


def test_a_worker_without_a_key_builds_no_view_of_pseudonyms() -> None:
    with _worker(key=False) as worker:
        answer = _prepared(worker, ASKED)
    assert answer.op == "error"
    assert answer.fields["message"] == "the policy asks for pseudonyms and this worker has no key; set pseudonym_key"


def test_a_column_that_the_policy_does_not_allow_is_not_read(keyed: tuple[socket.socket, Path]) -> None:
    answer = _prepared(keyed, Constraint(("age", "sick")))
    assert answer.fields["message"] == "the run asks for columns that the policy does not allow"
