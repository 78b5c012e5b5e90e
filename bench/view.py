"""Building a view, Concordat beside plain pandas: `.venv/bin/python bench/view.py`; see bench/README.md.

Plain pandas reads the same columns of the same CSV file whole, keeps consenting and complete rows, and makes float32 of
them. It checks no value, and hashes none.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROWS = 5_000_000
WANTED_RATIO = 0.8
HEAD = f"{'':10} {'load':>5} {'seconds':>8} {'processor':>10} {'rows/s':>9} {'MiB':>8} {'reader':>8} {'view':>8}"
FEATURES = ("age", "sex", "chol", "trestbps", "thalach", "oldpeak")
CONTRACT = """\
apiVersion: concordat/v1
kind: Dataset
metadata: {name: heart, version: 1}
source: {format: csv, path: heart.csv}
columns:
  pid: {type: integer, sensitivity: medical_record, required: true}
  age: {type: integer, sensitivity: none, range: [0, 120]}
  sex: {type: integer, sensitivity: none, values: [0, 1]}
  chol: {type: number, sensitivity: none, range: [0, 1000]}
  trestbps: {type: number, sensitivity: none, range: [0, 400]}
  thalach: {type: number, sensitivity: none, range: [0, 400]}
  oldpeak: {type: number, sensitivity: none, range: [-20, 20]}
  agreed: {type: text, sensitivity: none}
  sick: {type: boolean, sensitivity: none}
key: pid
label: sick
"""


def write(directory: Path, rows: int) -> None:
    """A table of so many rows, 5 in 100 without a cholesterol and 10 without consent, written in parts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    generator = np.random.default_rng(0)
    (directory / "heart.dataset.yaml").write_text(CONTRACT)
    with (directory / "heart.csv").open("wb") as file:
        for start in range(0, rows, 1_000_000):
            n = min(1_000_000, rows - start)
            chol = pa.array(np.round(generator.normal(240, 40, n).clip(1, 999), 1), mask=generator.random(n) < 0.05)
            part = pa.table(
                {
                    "pid": np.arange(start, start + n),
                    "age": generator.integers(20, 90, n),
                    "sex": generator.integers(0, 2, n),
                    "chol": chol,
                    "trestbps": np.round(generator.normal(130, 15, n).clip(1, 399), 1),
                    "thalach": np.round(generator.normal(150, 20, n).clip(1, 399), 1),
                    "oldpeak": np.round(generator.normal(1, 1, n), 2),
                    "agreed": np.where(generator.random(n) < 0.1, "no", "yes"),
                    "sick": generator.integers(0, 2, n),
                }
            )
            pa_csv.write_csv(part, file, pa_csv.WriteOptions(include_header=start == 0))


def concordat(directory: Path) -> tuple[int, int, float]:
    """Rows, bytes of the view, sum of its labels."""
    from silo.constraint import Constraint
    from silo.dataset.loading import load_contract
    from silo.worker.data.building import Asked
    from silo.worker.data.reader import read_view_apart

    contract = load_contract(directory / "heart.dataset.yaml")
    constraint = Constraint((*FEATURES, "sick"), consent="agreed")
    found = read_view_apart(Asked(contract, FEATURES, "sick", 0.5, constraint), None)
    return len(found.labels), found.features.nbytes + found.labels.nbytes, float(found.labels.sum())


def plain(directory: Path) -> tuple[int, int, float]:
    """The same with plain pandas."""
    import numpy as np
    import pandas as pd

    columns = [*FEATURES, "sick", "agreed"]
    frame = pd.read_csv(directory / "heart.csv", usecols=columns)
    frame = frame[frame["agreed"] == "yes"].dropna()
    features = frame[list(FEATURES)].to_numpy(dtype=np.float32)
    labels = (frame["sick"].to_numpy() > 0.5).astype(np.float32)
    return len(labels), features.nbytes + labels.nbytes, float(labels.sum())


SIDES = {"concordat": concordat, "pandas": plain}


def measure(side: str, directory: Path) -> dict[str, Any]:
    """Seconds, also of processors, and the largest resident memory in MiB, here and in the started process."""
    before = time.perf_counter()
    rows, size, positives = SIDES[side](directory)
    seconds = time.perf_counter() - before
    own, child = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "processor": own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime,
        "rows": rows,
        "view": size / 2**20,
        "positives": positives,
        "own": own.ru_maxrss / 1024,
        "child": child.ru_maxrss / 1024 if side == "concordat" else 0.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Building a view: Concordat beside plain pandas, on this machine.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the table (default {ROWS})")
    parser.add_argument("--repeats", type=int, default=3, help="times each side runs, in turn (default 3)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sys.stdout.write(json.dumps(measure(options.side, options.directory)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="concordat-bench-") as name:
        directory = Path(name)
        write(directory, options.rows)
        print(f"{options.rows} rows, {(directory / 'heart.csv').stat().st_size / 2**20:.0f} MiB of CSV")
        print(HEAD)
        for _ in range(options.repeats):
            for side, measured in found.items():
                load = os.getloadavg()[0]
                command = [sys.executable, __file__, "--side", side, "--directory", name]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                one = json.loads(done.stdout)
                measured.append(one)
                rate = options.rows / one["seconds"]
                print(f"{side:10} {load:5.2f} {one['seconds']:8.2f} {one['processor']:10.2f} {rate:9.0f}", end=" ")
                print(f"{one['own']:8.0f} {one['child']:8.0f} {one['view']:8.0f}", flush=True)
    outcome = {(one["rows"], one["positives"]) for side in found.values() for one in side}
    if len(outcome) != 1:
        print(f"the sides built different views: {sorted(outcome)}")
        return 1
    middle = {side: statistics.median(one["seconds"] for one in found[side]) for side in SIDES}
    ratio = middle["pandas"] / middle["concordat"]
    print(f"speed: {ratio:.2f} of plain pandas, medians of {options.repeats} (wanted: at least {WANTED_RATIO})")
    return 0 if ratio >= WANTED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
