"""The coordinator's running mean beside Flower's own aggregation of the same updates, in one process, in turns.

Both begin with what came over the wire as arrays in memory and end with the float32 mean. Peak memory is that of a
process of its own that folds updates as they come, beside one that holds them all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from coordinator.aggregation import RunningMean
from federation.wire import Weights

WANTED = 0.5


def updates(silos: int, values: int) -> list[Weights]:
    generator = np.random.default_rng(1)
    return [generator.normal(size=values).astype(np.float32) for _ in range(silos)]


def ours(parts: list[Weights], examples: list[int]) -> Weights:
    mean = RunningMean(parts[0].size, sum(examples))
    for number, (part, count) in enumerate(zip(parts, examples, strict=True)):
        mean.fold(f"silo-{number}", part, count)
    return mean.result()


def flowers(records: list[RecordDict]) -> Any:
    return aggregate_arrayrecords(records, "num-examples")


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak(silos: int, values: int) -> None:
    """Fold updates that are made one at a time; print how far the process's memory rose, in models."""
    generator = np.random.default_rng(1)
    buffer = np.empty(values, dtype=np.float32)
    buffer[:] = 1
    before = high_water()
    mean = RunningMean(values, silos)
    for number in range(silos):
        buffer[:: 1 << 10] = generator.normal()
        mean.fold(f"silo-{number}", buffer, 1)
    mean.result()
    print(json.dumps({"models": 1024 * (high_water() - before) / (4 * values)}))


def high_water() -> int:
    """The most memory this process has held, in KiB; getrusage would tell its parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silos", type=int, default=10)
    parser.add_argument("--values", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(arguments.peak, arguments.values)
        return
    parts = updates(arguments.silos, arguments.values)
    examples = [100 + number for number in range(arguments.silos)]
    records = [
        RecordDict({"w": ArrayRecord({"w": Array(part)}), "m": MetricRecord({"num-examples": count})})
        for part, count in zip(parts, examples, strict=True)
    ]
    theirs = flowers(records)["w"].numpy()
    print(f"largest difference {np.abs(ours(parts, examples) - theirs).max():.2g}, theirs is {theirs.dtype}")
    pairs = [(seconds(lambda: ours(parts, examples)), seconds(lambda: flowers(records)))
             for _ in range(arguments.repeats)]  # fmt: skip
    ratio = statistics.median(one / two for one, two in pairs)
    one, two = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{arguments.silos} x {arguments.values:,} float32: {one:.1f} ms, Flower {two:.1f} ms, ratio {ratio:.2f}")
    command = [sys.executable, __file__, "--peak", "100", "--values", str(arguments.values)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    models = json.loads(done.stdout)["models"]
    print(f"peak memory for 100 silos: {models:.2f} models, {models + 1:.2f} with the update in hand")
    raise SystemExit(0 if ratio <= WANTED and models <= 3 else 1)


if __name__ == "__main__":
    main()
