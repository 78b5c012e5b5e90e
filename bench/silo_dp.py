"""What silo-level privacy costs by the number of silos, with secure aggregation and without: AUC of a simulated run.

A logistic model of 30 columns, 50 rows a silo, 20 rounds, adaptive clipping. Without secure aggregation each update
carries all of the noise; with it the silos share it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from federation.run import Run
from silo.worker.data.view import PolicyView
from silo.worker.metrics import auc
from silo.worker.training.model import configure
from simulation.engine import Simulation

ROWS, FEATURES, DELTA = 50, 30, 1e-5
HEAD = {"apiVersion": "concordat/v1", "kind": "Run", "metadata": {"name": "noised"}, "purpose": "bench"}


def build(features: int) -> keras.Model:
    """A logistic model."""
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="binary_crossentropy")
    return model


def rows(generator: np.random.Generator, count: int) -> tuple[Any, Any]:
    """Rows with one signal for all silos."""
    direction = np.random.default_rng(3).normal(size=FEATURES) / math.sqrt(FEATURES)
    x = generator.normal(size=(count, FEATURES)).astype(np.float32)
    chance = 1 / (1 + np.exp(-3 * x @ direction))
    return x, (generator.random(count) < chance).astype(np.float32)[:, None]


def reached(silos: int, epsilon: float | None, *, secure: bool, seed: int) -> float:
    """The AUC on rows of no silo."""
    generator = np.random.default_rng([seed, silos])
    views = {}
    for number in range(silos):
        x, y = rows(generator, ROWS + 10)
        views[f"silo-{number:04d}"] = PolicyView(x[:ROWS], y[:ROWS], x[ROWS:], y[ROWS:], 0, "")
    privacy = {"mode": "silo_dp", "clip_norm": 1.0, "delta": DELTA, "epsilon": epsilon}
    content = {
        **HEAD, "dataset": "d", "features": [f"x{i}" for i in range(FEATURES)], "label": {"column": "y"},
        "app": {"model": "bench:build"}, "seed": seed, "metrics": ["num_examples"],
        "strategy": {"rounds": 20, "local": {"steps": 5, "batch_size": 25}},
        **({"privacy": {**privacy, "adaptive": {"max_clip_norm": 4.0}}} if epsilon else {}),
        **({"secure_aggregation": {"threshold": silos // 2 + 1, "largest_change": 4096}} if secure else {}),
    }  # fmt: skip
    simulation = Simulation(Run.model_validate_json(json.dumps(content)), build, views)
    *_, last = simulation.rounds(measure=False)
    simulation.model.set(last.weights)
    x, y = rows(np.random.default_rng(4), 20_000)
    found = auc(y, simulation.model.predict(x))
    assert found is not None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silos", type=int, nargs="*", default=[5, 20, 100])
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    configure(1)
    print("| silos | without privacy | each update carries the noise | shared under secure aggregation |")
    print("|---|---|---|---|")
    for silos in arguments.silos:
        cells = []
        for epsilon, secure in ((None, False), (arguments.epsilon, False), (arguments.epsilon, True)):
            found = [reached(silos, epsilon, secure=secure, seed=seed) for seed in range(arguments.seeds)]
            cells.append(f"{np.mean(found):.3f}")
        print(f"| {silos} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
