"""Seconds a round, Concordat beside stock Flower: `.venv/bin/python bench/rounds.py`; see bench/README.md."""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from sides import Measured, SideFailedError, measure_concordat, measure_stock
from strays import adopt_orphans, end_descendants
from workload import prepare

from federation.errors import ConcordatError

MINIMUM_ROUNDS = 5
LARGE = 25_000_000
WANTED_RATIO = 30.0
WANTED_SECONDS = 1.0
WANTED_SECONDS_LARGE = 3.0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds a round: Concordat beside stock Flower, on this machine.")
    parser.add_argument("--rounds", type=int, default=6, help="rounds a side, at least 5 (default 6)")
    parser.add_argument("--silos", type=int, default=3, help="silos, at least 1 (default 3)")
    parser.add_argument("--floats", type=int, help="about this many float32 weights instead of the example's model")
    parser.add_argument("--skip-stock", action="store_true", help="measure Concordat alone")
    options = parser.parse_args()
    if options.rounds < MINIMUM_ROUNDS:
        parser.error(f"got --rounds {options.rounds}, expected at least {MINIMUM_ROUNDS}")
    if options.silos < 1:
        parser.error(f"got --silos {options.silos}, expected at least 1")
    if options.floats is not None and options.floats < 1:
        parser.error(f"got --floats {options.floats}, expected at least 1")
    return options


def measure(options: argparse.Namespace) -> list[Measured]:
    """Run both sides, one after the other; raises SideFailedError. Every process is gone when it returns or raises."""
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="concordat-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        try:
            (directory / "workload").mkdir()
            workload = prepare(directory / "workload", options.rounds, options.silos, options.floats)
            sides = [measure_concordat(workload, directory / "concordat", say)]
            if not options.skip_stock:
                sides.append(measure_stock(workload, directory / "stock", say))
        finally:
            end_descendants()
    return sides


def table(sides: list[Measured]) -> str:
    """The figures of each side; load is the machine's average as it started, loss that of the final model."""
    lines = [f"{'seconds a round':16} {'first':>8} {'median':>8} {'min':>8} {'max':>8}   {'load':>5} {'loss':>7}"]
    for side in sides:
        figures = (side.first, statistics.median(side.others), min(side.others), max(side.others))
        lines.append(f"{side.name:16} {' '.join(f'{x:8.2f}' for x in figures)}   {side.load:5.2f} {side.loss:7.3f}")
    lines += [f"{side.name}, after the first: {' '.join(f'{x:.2f}' for x in side.others)}" for side in sides]
    return "\n".join(lines)


def verdicts(sides: list[Measured], floats: int | None) -> list[str]:
    """What was wanted and whether it is reached; nothing where no figure was asked for."""
    ours = statistics.median(sides[0].others)
    lines = []
    if len(sides) > 1:
        ratio = statistics.median(sides[1].others) / ours
        lines.append("stock Flower runs without TLS and without node authentication here: a concession in its favour")
        lines.append(f"ratio: stock Flower takes {ratio:.1f} times as long a round")
        if floats is None:
            lines.append(f"wanted at least {WANTED_RATIO:.0f} times: {_reached(ratio >= WANTED_RATIO)}")
    if floats is None:
        lines.append(f"wanted under {WANTED_SECONDS:.0f} s a round on 2 cores: {_reached(ours < WANTED_SECONDS)}")
    elif floats == LARGE:
        lines.append(f"wanted at most {WANTED_SECONDS_LARGE:.0f} s a round: {_reached(ours <= WANTED_SECONDS_LARGE)}")
    return lines


def _reached(yes: bool) -> str:  # noqa: FBT001  its only argument
    return "reached" if yes else "not reached"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    cores = len(os.sched_getaffinity(0))
    model = f"about {options.floats:,} weights" if options.floats else "the breast-cancer example's model"
    print(f"{options.silos} silos, {options.rounds} rounds, {model}; {cores} cores", flush=True)
    try:
        sides = measure(options)
    except (SideFailedError, ConcordatError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(sides))
    print(*verdicts(sides, options.floats), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
