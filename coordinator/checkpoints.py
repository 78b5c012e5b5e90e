"""The state of a run on disk: the global model after each closed round, and the final model with its shapes."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from federation.errors import ConcordatError, WireError
from federation.home import replace_file
from federation.limits import LIMITS
from federation.statistics.normalization import Normalization
from federation.wire import Weights, weights_digest

KEPT = 2
MAX_DIMENSIONS = 32


@dataclass(frozen=True)
class LayerShape:
    """One weight array of the model: its name and its dimensions."""

    name: str
    dimensions: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.dimensions)


def parse_shapes(text: str) -> tuple[LayerShape, ...]:
    """Read the shapes a silo reports; raises WireError."""
    try:
        shapes = tuple(LayerShape(str(item["name"])[:200], tuple(item["shape"])) for item in json.loads(text))
        for shape in shapes:
            shape.name.encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WireError("got model shapes that are not a list of names and dimensions") from None
    for shape in shapes:
        fits = (type(n) is int and 0 < n <= LIMITS.model_values for n in shape.dimensions)
        if len(shape.dimensions) > MAX_DIMENSIONS or not all(fits):
            raise WireError(f"the model has a weight without usable dimensions, expected up to {MAX_DIMENSIONS}")
    total = sum(shape.size for shape in shapes)
    if not 0 < total <= LIMITS.model_values:
        raise WireError(f"got a model of {total!s:.20} values, expected 1 to {LIMITS.model_values}")
    return shapes


@dataclass(frozen=True)
class Checkpoint:
    """A closed round: the model after it, what is said of it, and the strategy's vectors by name.

    `damaged` are the numbers of newer rounds whose checkpoints cannot be read.
    """

    number: int
    weights: Weights
    state: dict[str, Any]
    strategy: Mapping[str, Weights]
    damaged: tuple[int, ...] = ()

    def shapes(self) -> tuple[LayerShape, ...]:
        """The model's shapes; raises KeyError, TypeError or ValueError where the state does not name them."""
        return tuple(LayerShape(str(name), tuple(map(int, dimensions))) for name, dimensions in self.state["shapes"])


class Checkpoints:
    """The checkpoints in one run's directory; the newest two are kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "checkpoints"
        self._directory.mkdir(mode=0o700, exist_ok=True)

    def save(
        self, number: int, weights: Weights, state: Mapping[str, Any], strategy: Mapping[str, Weights] | None = None
    ) -> None:
        """Write a closed round: weights and the strategy's vectors first, then the state that names them; all durable.

        `strategy` is what a server's strategy keeps from round to round: vectors of float32 by name.
        """
        name = f"{number:06d}"
        partial = self._directory / f".{name}.new"
        vectors = dict(sorted((strategy or {}).items()))
        try:
            with partial.open("wb") as file:
                for vector in (weights, *vectors.values()):
                    file.write(np.ascontiguousarray(vector, dtype="<f4").data.cast("B"))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._directory / f"{name}.f32")
            described = {**state, "round": number, "values": int(weights.size)}
            if vectors:
                described["strategy"] = {
                    key: {"values": int(vector.size), "digest": weights_digest(vector)}
                    for key, vector in vectors.items()
                }
            replace_file(self._directory / f"{name}.json", json.dumps(described).encode() + b"\n")
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ConcordatError(
                f"the checkpoint of round {number} cannot be written: {error.strerror}",
                advice=f"make room in {self._directory}",
            ) from None
        for old in sorted(self._directory.glob("[0-9]*.json"))[:-KEPT]:
            old.unlink()
            old.with_suffix(".f32").unlink(missing_ok=True)

    def load(self, number: int) -> tuple[Weights, dict[str, Any]]:
        """Read a closed round back, checked against its digest; raises ConcordatError."""
        found = self._load(number)
        return found.weights, found.state

    def archive(self, number: int) -> bytes:
        """The model after a closed round as a NumPy archive; raises ConcordatError."""
        found, content = self._load(number), io.BytesIO()
        try:
            write_model(content, found.weights, found.shapes())
        except (KeyError, TypeError, ValueError):
            raise ConcordatError(f"the checkpoint of round {number} does not name the model's shapes") from None
        return content.getvalue()

    def numbers(self) -> list[int]:
        """The closed rounds whose checkpoints are kept, oldest first."""
        return sorted(int(path.stem) for path in self._directory.glob("[0-9]*.json"))

    def newest(self) -> Checkpoint | None:
        """The newest closed round that can be read whole; None where none was closed.

        Raises ConcordatError where rounds were closed and none of them can be read.
        """
        damaged: list[int] = []
        for path in sorted(self._directory.glob("[0-9]*.json"), reverse=True):
            try:
                return replace(self._load(int(path.stem)), damaged=tuple(damaged))
            except ConcordatError:
                damaged.append(int(path.stem))
        if damaged:
            raise ConcordatError(
                f"no checkpoint can be read: those of rounds {', '.join(map(str, damaged))} are damaged",
                advice=f"restore {self._directory} from a backup",
            )
        return None

    def _load(self, number: int) -> Checkpoint:
        name = self._directory / f"{number:06d}"
        try:
            state = json.loads(name.with_suffix(".json").read_bytes())
            if not isinstance(state, dict) or state["round"] != number:
                raise TypeError(state)
            vectors = {"": (int(state["values"]), str(state["digest"]))}
            for key, described in state.get("strategy", {}).items():
                vectors[str(key)] = int(described["values"]), str(described["digest"])
            values = np.fromfile(name.with_suffix(".f32"), dtype="<f4")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConcordatError(f"the checkpoint of round {number} cannot be read") from None
        out: dict[str, Weights] = {}
        start = 0
        for key, (size, digest) in vectors.items():
            # The last vector is all that is left: a file with more than its checkpoint names is not that checkpoint's.
            end = start + size if key != list(vectors)[-1] else len(values)
            out[key] = values[start:end]
            if weights_digest(out[key]) != digest:
                raise ConcordatError(f"the weights of round {number} do not have the digest of their checkpoint")
            start = end
        return Checkpoint(number, out.pop(""), state, out)


def save_model(
    path: Path, weights: Weights, shapes: Sequence[LayerShape], normalization: Normalization | None = None
) -> None:
    """Write the final model as a NumPy archive, one array a layer, named `<index>:<name>` in the model's order.

    What its inputs are normalised by, if anything, follows as `normalization:mean` and `normalization:scale` (float64).
    """
    partial = path.with_name(f".{path.name}.new")
    with partial.open("wb") as file:
        write_model(file, weights, shapes, normalization)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_model(
    file: IO[bytes], weights: Weights, shapes: Sequence[LayerShape], normalization: Normalization | None = None
) -> None:
    """Write such an archive into an open file."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for index, shape in enumerate(shapes):
        arrays[f"{index:03d}:{shape.name}"] = weights[start : start + shape.size].reshape(shape.dimensions)
        start += shape.size
    if normalization is not None:
        arrays |= {"normalization:mean": normalization.mean, "normalization:scale": normalization.scale}
    np.savez(file, allow_pickle=False, **arrays)
