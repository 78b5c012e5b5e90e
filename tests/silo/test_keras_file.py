"""The process that has an app make a Keras file: it gets the model's directory and nothing else."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from federation.errors import ConcordatError
from silo.worker.keras_file import _weights

from .simulator import RUN
from .test_confinement import needs_landlock

LAYERS = [("dense/kernel", (2, 1)), ("dense/bias", (1,))]
APP = """
import json, os, pathlib, socket
import keras

def build_model(features):
    here = pathlib.Path(__file__).parent.parent
    found = {}
    for name, attempt in (
        ("read", lambda: pathlib.Path("@SECRET@").read_text()),
        ("write", lambda: pathlib.Path("@SECRET@").write_text("changed")),
        ("connect", lambda: socket.create_connection(("127.0.0.1", 1), 1)),
    ):
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = type(error).__name__
    (here / "found.json").write_text(json.dumps(found))
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid", name="dense")])
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""


def archive(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)


@needs_landlock
@pytest.mark.tensorflow
def test_an_app_that_reaches_out_gets_nothing(tmp_path: Path) -> None:
    """Someone else's app, which reads a file of the operator's and connects: neither works, and the model is made."""
    place, secret = tmp_path / "place", tmp_path / "key.pem"
    place.mkdir()
    secret.write_text("secret")
    (place / "run.yaml").write_text(RUN)
    with zipfile.ZipFile(place / "app.fab", "w") as bundle:
        bundle.writestr("model.py", APP.replace("@SECRET@", str(secret)))
    weights = {"000:sequential/dense/kernel": [[1.0], [2.0]], "001:sequential/dense/bias": [3.0]}
    command = [sys.executable, "-P", "-m", "silo.worker.keras_file", str(place), "foreign"]
    environment = {**os.environ, "HOME": str(place), "TMPDIR": str(place), "TF_CPP_MIN_LOG_LEVEL": "3"}
    archive(place / "model.npz", **{name: np.array(values, dtype=np.float32) for name, values in weights.items()})
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((place / "found.json").read_text()) == {
        "read": "PermissionError",
        "write": "PermissionError",
        "connect": "PermissionError",
    }
    assert secret.read_text() == "secret"
    assert zipfile.is_zipfile(place / "model.keras")


@pytest.mark.parametrize(
    "arrays",
    [
        {"000:dense/kernel": np.ones((2, 1))},
        {"000:dense/kernel": np.ones((1, 2)), "001:dense/bias": np.ones(1)},
        {"000:dense/kernel": np.ones((2, 1)), "001:other": np.ones(1)},
        {"000:dense/kernel": np.array([[{}], [1]], dtype=object), "001:dense/bias": np.ones(1)},
    ],
)
def test_an_archive_of_another_model_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path / "model.npz"
    archive(path, **arrays)
    with pytest.raises(ConcordatError, match=r"other weights|no NumPy archive"):
        _weights(path, LAYERS)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"weights"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ConcordatError, match="no NumPy archive"):
        _weights(path, LAYERS)


def test_an_archive_is_read_in_the_models_order(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    archive(path, **{"001:dense/bias": np.array([3.0]), "000:dense/kernel": np.array([[1.0], [2.0]])})
    assert _weights(path, LAYERS).tolist() == [1, 2, 3]


def test_attack_an_archive_that_unfolds_to_any_size_is_not_unfolded(tmp_path: Path) -> None:
    """The coordinator sends the archive; 200 MB of zeros are 200 kB of it."""
    path = tmp_path / "model.npz"
    np.savez_compressed(path, **{"000:dense/kernel": np.zeros(25_000_000), "001:dense/bias": np.ones(1)})  # type: ignore[arg-type]
    tracemalloc.start()
    with pytest.raises(ConcordatError, match="other weights"):
        _weights(path, LAYERS)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_attack_an_array_that_says_it_is_of_any_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    head += b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 1), }" % 10**14
    with zipfile.ZipFile(path, "w") as archived:
        archived.writestr("000:dense/kernel.npy", head.ljust(127) + b"\n")
    with pytest.raises(ConcordatError, match="no NumPy archive"):
        _weights(path, LAYERS)
