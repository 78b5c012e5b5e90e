"""Example-level DP-SGD beside the same training without privacy: examples a second, in one process, in turns.

The private side does all that privacy takes: Poisson sampling, per-example clipping, noise from the keystream.
"""

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
from silo.worker.training.model import FederatedModel, Privacy, batches, configure
from silo.worker.training.pace import Pace

L = keras.layers
BATCH = 256
MODELS: dict[str, tuple[int, tuple[Callable[[], Any], ...], float | None]] = {
    "MLP 30-64-32-1": (30, (lambda: L.Dense(64, activation="relu"), lambda: L.Dense(32, activation="relu")), 0.8),
    "MLP 300-1024-512-1": (
        300,
        (lambda: L.Dense(1024, activation="relu"), lambda: L.Dense(512, activation="relu")),
        0.5,
    ),
    "CNN 28x28": (
        784,
        (
            lambda: L.Reshape((28, 28, 1)),
            lambda: L.Conv2D(16, 5, strides=2, activation="relu"),
            lambda: L.Conv2D(32, 3, strides=2, activation="relu"),
            L.Flatten,
        ),
        None,
    ),
    "MLP with LayerNormalization": (30, (lambda: L.Dense(64, activation="relu"), L.LayerNormalization), None),
}


def builder(layers: tuple[Callable[[], Any], ...]) -> Callable[[int], Any]:
    def build(features: int) -> Any:
        chain = [keras.Input((features,)), *(make() for make in layers), L.Dense(1, activation="sigmoid")]
        model = keras.Sequential(chain)
        model.compile(optimizer=keras.optimizers.SGD(0.01), loss="binary_crossentropy")
        return model

    return build


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time a model")
    parser.add_argument("--warm", type=float, default=4.0)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    configure(arguments.threads)
    generator = np.random.default_rng(1)
    failed = False
    print(f"{'model':30} {'weights':>8} {'plain ex/s':>11} {'private ex/s':>12} {'ratio':>6} {'wanted':>6}")
    for name, (features, layers, wanted) in MODELS.items():
        rows = 64 * BATCH
        x = generator.normal(size=(rows, features)).astype(np.float32)
        y = (x[:, :1] > 0).astype(np.float32)
        view = PolicyView(x, y, x[:10], y[:10], 0, "")
        work = LocalWork(epochs=1, batch_size=BATCH)
        model = FederatedModel(builder(layers), features, 1, 0.0, work, private=True)
        start, order = model.get(), batches(rows, work, 1, 1)
        privacy = Privacy(BATCH / rows, 1.0, 1.0, len(order))

        def plain(model: FederatedModel = model, order: Any = order, start: Any = start, view: Any = view) -> None:
            model.train(start, view, order)

        def private(model: FederatedModel = model, p: Any = privacy, start: Any = start, view: Any = view) -> None:
            model.work_privately(start, view, p, Pace())

        plain()
        # Every width of Poisson batch that is likely has a graph of its own, made at its first use.
        warm = time.perf_counter() + arguments.warm
        private()
        while time.perf_counter() < warm:
            private()
        pairs = []
        end = time.perf_counter() + arguments.seconds
        while len(pairs) < 5 or time.perf_counter() < end:
            pairs.append((seconds(plain), seconds(private)))
        ratio = statistics.median(one / two for one, two in pairs)
        fast, slow = (rows / statistics.median(times) for times in zip(*pairs, strict=True))
        failed |= wanted is not None and ratio < wanted
        print(f"{name:30} {model.size:8} {fast:11,.0f} {slow:12,.0f} {ratio:6.2f} {wanted or '':>6}", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
