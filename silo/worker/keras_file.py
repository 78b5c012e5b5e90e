"""A run's final weights as a Keras file, made by the run's own app: a process of its own, for `concordat run model`.

`python -P -m silo.worker.keras_file DIRECTORY own|foreign`: the directory holds run.yaml, app.fab and model.npz, and
gets model.keras. A foreign app is not run where it cannot be confined to the directory.
"""

from __future__ import annotations

import math
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from federation.errors import ConcordatError
from federation.home import read_limited
from federation.limits import LIMITS
from federation.logs import tell
from federation.run import load_run
from federation.wire import Weights
from policies.errors import PolicyError
from silo.confinement import confine_files, drop_capabilities, forbid_sockets, runtime_paths
from silo.worker.app import load_builder, unpack
from silo.worker.enclosure import enclosed
from silo.worker.errors import AppError, kind_of

HEAD = 65_536
"""The room for what stands before an array's values."""
OTHER = "the app's model has other weights than the file: was it made by another version of Keras?"
UNSOUND = (zipfile.BadZipFile, zlib.error)


def make(place: Path, *, own: bool) -> None:
    """Confine this process and make the file; raises ConcordatError."""
    run = load_run(read_limited(place / "run.yaml", LIMITS.document)).model
    if run.normalization is not None:
        advice = "take it as .npz, which has normalization:mean and normalization:scale beside the weights"
        raise ConcordatError("the run normalises its features, which the app's Keras model would not", advice=advice)
    from silo.worker.training.model import FederatedModel  # noqa: PLC0415

    app = place / "app"
    app.mkdir()
    unpack(read_limited(place / "app.fab", LIMITS.app), app)
    achieved = (confine_files(runtime_paths(), [place]), drop_capabilities(), forbid_sockets())
    lacking = [one for one in achieved if " NOT " in one]
    if lacking and not own:
        raise ConcordatError(f"another operator's app is not run here: {lacking[0]}")
    model = FederatedModel.of(run, load_builder(app, run.app.model))
    model.set(_weights(place / "model.npz", model.layers))
    try:
        model.save(place / "model.keras")
    except Exception as error:  # noqa: BLE001  a layer of the app may raise anything
        raise AppError(f"the app's model cannot be written as a Keras file: it raised {kind_of(error)}") from None


def _weights(path: Path, layers: list[tuple[str, tuple[int, ...]]]) -> Weights:
    """The archive's weights as one vector; raises ConcordatError where they are not those of these layers."""
    room = sum(8 * math.prod(shape) + HEAD for _, shape in layers)
    try:
        with zipfile.ZipFile(path) as archive:
            # Little of an archive can unfold to fill any memory.
            if sum(member.file_size for member in archive.infolist()) > room:
                raise AppError(OTHER)
        with np.load(path, allow_pickle=False) as arrays:
            found = [(name, arrays[name]) for name in sorted(arrays.files)]
    except (OSError, EOFError, ValueError, TypeError, MemoryError, NotImplementedError, RuntimeError, *UNSOUND):
        raise ConcordatError("model.npz is no NumPy archive") from None
    expected = [(f"{index:03d}:{name}", shape) for index, (name, shape) in enumerate(layers)]
    if [(name, array.shape) for name, array in found] != expected:
        raise AppError(OTHER)
    return np.concatenate([array.ravel() for _, array in found]).astype(np.float32, copy=False)


def main(arguments: list[str]) -> int:
    """Make the file; the last line of a failure's output says why."""
    place, whose = arguments

    def work() -> int:
        try:
            make(Path(place), own=whose == "own")
        except (ConcordatError, PolicyError) as error:
            tell(str(error))
            return 1
        return 0

    return enclosed(work)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
