"""One epoch of the worker's training beside `keras.fit` on the same model and rows, in one process, in turns."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from federation.run import LocalWork
from silo.worker.data.view import PolicyView
from silo.worker.training.model import FederatedModel, batches, configure

L = keras.layers
CASES: dict[str, tuple[int, int, int, tuple[Callable[[], Any], ...], float]] = {
    "tabular, MLP 30-64-32-1, batch 32": (
        30, 4096, 32, (lambda: L.Dense(64, activation="relu"), lambda: L.Dense(32, activation="relu")), 3.0,
    ),
    "tabular, MLP 30-64-32-1, batch 256": (
        30, 16384, 256, (lambda: L.Dense(64, activation="relu"), lambda: L.Dense(32, activation="relu")), 3.0,
    ),
    "images, CNN 28x28, batch 32": (
        784, 2048, 32,
        (
            lambda: L.Reshape((28, 28, 1)), lambda: L.Conv2D(16, 5, strides=2, activation="relu"),
            lambda: L.Conv2D(32, 3, strides=2, activation="relu"), L.Flatten,
        ),
        1.0,
    ),
}  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time a case")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    configure(arguments.threads)
    generator = np.random.default_rng(1)
    failed = False
    print(f"{'case':36} {'ours ex/s':>10} {'fit ex/s':>10} {'times as fast':>13} {'wanted':>6}")
    for name, (features, rows, batch, layers, wanted) in CASES.items():
        x = generator.normal(size=(rows, features)).astype(np.float32)
        y = (x[:, :1] > 0).astype(np.float32)
        view = PolicyView(x, y, x[:10], y[:10], 0, "")

        def build(width: int, layers: Any = layers) -> keras.Model:
            chain = [keras.Input((width,)), *(make() for make in layers), L.Dense(1, activation="sigmoid")]
            model = keras.Sequential(chain)
            model.compile(optimizer=keras.optimizers.SGD(0.01), loss="binary_crossentropy")
            return model

        work = LocalWork(epochs=1, batch_size=batch)
        ours, theirs = FederatedModel(build, features, 1, 0.1, work), build(features)
        start, order = ours.get(), batches(rows, work, 1, 1)

        def train(ours: Any = ours, start: Any = start, view: Any = view, order: Any = order) -> None:
            ours.train(start, view, order)

        def fit(theirs: Any = theirs, x: Any = x, y: Any = y, batch: int = batch) -> None:
            theirs.fit(x, y, epochs=1, batch_size=batch, verbose=0)

        train(), fit()
        pairs: list[tuple[float, float]] = []
        end = time.perf_counter() + arguments.seconds
        while len(pairs) < 5 or time.perf_counter() < end:
            pairs.append((seconds(train), seconds(fit)))
        ratio = statistics.median(two / one for one, two in pairs)
        fast, slow = (rows / statistics.median(times) for times in zip(*pairs, strict=True))
        failed |= ratio < wanted
        print(f"{name:36} {fast:10,.0f} {slow:10,.0f} {ratio:13.2f} {wanted:6.1f}", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
