"""What both sides run: the breast-cancer example with the number of rounds, and the size of model, asked for."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML

from demo.scenarios import SCENARIOS, DataSource, Scenario

EXAMPLE = SCENARIOS["breast_cancer"]
BYTES_A_FLOAT = 4
KERNEL = 30 * 32  # the example's first layer: features times units
ALL_ROWS = 65536  # larger than any silo's table: one batch

LARGE_MODEL = '''"""The example's classifier with a first layer of about {floats} weights."""

import keras
from example_model import FEATURES, HIGH, LOW

COUNT = {count}


class Averaged(keras.layers.Layer):
    """A dense layer whose kernel is the scaled sum of many.

    It learns as one kernel does and costs a pass over its weights, however many the rows: moving the weights dominates.
    """

    def build(self, shape):
        bound = (6 / (shape[-1] + 32)) ** 0.5
        start = keras.initializers.RandomUniform(-bound, bound)
        self.kernels = self.add_weight(shape=(COUNT, shape[-1], 32), initializer=start, name="kernels")
        self.bias = self.add_weight(shape=(32,), initializer="zeros", name="bias")

    def call(self, rows):
        kernel = keras.ops.sum(self.kernels, axis=0) / COUNT**0.5
        return keras.ops.relu(rows @ kernel + self.bias)


def build_model(features):
    middle = [(low + high) / 2 for low, high in zip(LOW, HIGH, strict=True)]
    spread = [((high - low) / 4) ** 2 for low, high in zip(LOW, HIGH, strict=True)]
    model = keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Normalization(mean=middle, variance=spread),
            Averaged(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9), loss="binary_crossentropy")
    return model
'''


@dataclass(frozen=True)
class Workload:
    """An example directory (app, run.yaml, policies) and the scenario whose silos take part in it."""

    scenario: Scenario
    directory: Path
    rounds: int
    epochs: int
    batch_size: int

    @property
    def app(self) -> Path:
        """The Flower app, the same for both sides."""
        return self.directory / "app"


def prepare(directory: Path, rounds: int, silos: int, floats: int | None) -> Workload:
    """Write the workload to a directory; `floats` is about the number of weights, None for the example's own model."""
    shutil.copytree(EXAMPLE.directory / "app", directory / "app", ignore=shutil.ignore_patterns("__pycache__"))
    run = YAML().load((EXAMPLE.directory / "run.yaml").read_text())
    run["strategy"]["rounds"] = rounds
    if floats is not None:
        run["strategy"]["local"].update(epochs=1, batch_size=ALL_ROWS)
        run["strategy"]["deadline_seconds"] = 600
        model = directory / "app" / "model.py"
        model.rename(model.with_name("example_model.py"))
        model.write_text(LARGE_MODEL.format(floats=floats, count=max(1, round(floats / KERNEL))))
    out = StringIO()
    YAML().dump(run, out)
    (directory / "run.yaml").write_text(out.getvalue())
    scenario = _scenario(silos)
    (directory / "policies").mkdir()
    for name in scenario.silos:
        policy = (EXAMPLE.directory / "policies" / f"{_origin(name)}.yaml").read_text()
        (directory / "policies" / f"{name}.yaml").write_text(_with_limits(policy, rounds, floats))
    local = run["strategy"]["local"]
    return Workload(scenario, directory, rounds, int(local["epochs"]), int(local["batch_size"]))


def _scenario(count: int) -> Scenario:
    """The example's silos; beyond them each hospital again, with the same table."""
    hospitals = list(EXAMPLE.silos.items())
    silos = {}
    for index in range(count):
        name, country = hospitals[index % len(hospitals)]
        turn = index // len(hospitals)
        silos[f"{name}-{turn + 1}" if turn else name] = country
    return replace(EXAMPLE, silos=silos, write_data=_write_tables)


def _origin(silo: str) -> str:
    return re.sub(r"-\d+$", "", silo)


def _write_tables(paths: Mapping[str, Path], source: DataSource) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tables = {name: Path(scratch) / f"{name}.csv" for name in EXAMPLE.silos}
        EXAMPLE.write_data(tables, source)
        for name, path in paths.items():
            shutil.copy(tables[_origin(name)], path)


def _with_limits(policy: str, rounds: int, floats: int | None) -> str:
    """The policy with room for the rounds and for a model of this size; the rest stays the example's."""
    policy = re.sub(r"max_rounds: \d+", f"max_rounds: {max(50, rounds)}", policy)
    if floats is None:
        return policy
    limits = f"update: {{max_norm: 1000000.0, max_bytes: {max(64, floats * BYTES_A_FLOAT // 2**20 + 16)}MiB}}"
    return re.sub(r"^  update: \{[^}]*\}", f"  {limits}", policy, flags=re.MULTILINE)
