"""The state of a run on disk: the global model after each closed round, and the final model with its shapes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from federation.errors import ConcordatError, WireError
from federation.home import replace_file
from federation.limits import LIMITS
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


class Checkpoints:
    """The checkpoints in one run's directory; the newest two are kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "checkpoints"
        self._directory.mkdir(mode=0o700, exist_ok=True)

    def save(self, number: int, weights: Weights, state: Mapping[str, Any]) -> None:
        """Write a closed round: the weights first, then the state that names them; both durable."""
        name = f"{number:06d}"
        partial = self._directory / f".{name}.new"
        try:
            with partial.open("wb") as file:
                file.write(weights.data.cast("B"))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._directory / f"{name}.f32")
            described = {**state, "round": number, "values": int(weights.size)}
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
        name = self._directory / f"{number:06d}"
        state = json.loads(name.with_suffix(".json").read_bytes())
        weights = np.fromfile(name.with_suffix(".f32"), dtype="<f4")
        if weights_digest(weights) != state["digest"]:
            raise ConcordatError(f"the weights of round {number} do not have the digest of their checkpoint")
        return weights, state


def save_model(path: Path, weights: Weights, shapes: Sequence[LayerShape]) -> None:
    """Write the final model as a NumPy archive, one array a layer, named `<index>:<name>` in the model's order."""
    arrays: dict[str, Weights] = {}
    start = 0
    for index, shape in enumerate(shapes):
        arrays[f"{index:03d}:{shape.name}"] = weights[start : start + shape.size].reshape(shape.dimensions)
        start += shape.size
    partial = path.with_name(f".{path.name}.new")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
