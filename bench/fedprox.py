"""FedProx against FedAvg on the paper's synthetic devices, with stragglers; the table and plots of docs/fedprox.md.

Every method sees the same devices, the same choice of ten of them a round, the same stragglers and the same order of
batches. FedAvg drops stragglers, FedProx keeps their partial work. Measured runs are kept in a file, so that an
interrupted bench goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt

from federation.run import LocalWork, Run
from federation.wire import Weights

from synthetic import BATCH, CLASSES, FEATURES, devices  # isort: skip  beside this file

DATA = {"(1,1)": (1.0, 1.0, False), "(0,0)": (0.0, 0.0, False), "IID": (0.0, 0.0, True)}
STRAGGLERS = (0.9, 0.5, 0.0)
METHODS = {"FedAvg": 0.0, "FedProx mu=0": 0.0, "FedProx mu=1": 1.0}
EPOCHS, SAMPLE, LEARNING_RATE = 20, 10, 0.01
LATE = 50
"""After this round the loss should have settled."""
Case = tuple[str, float, str, int]
Array = npt.NDArray[np.float64]


def cases(seeds: int) -> list[Case]:
    """What is measured; without stragglers FedProx with mu = 0 is FedAvg and not measured twice."""
    return [
        (data, share, method, seed)
        for data in DATA
        for share in STRAGGLERS
        for seed in range(seeds)
        for method in METHODS
        if share or method != "FedProx mu=0"
    ]


def scores(weights: Weights, rows: Array, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of the softmax regression whose flat weights are given."""
    kernel, bias = weights[: FEATURES * CLASSES].reshape(FEATURES, CLASSES), weights[FEATURES * CLASSES :]
    logits = rows @ kernel.astype(np.float64) + bias
    logits -= logits.max(axis=1, keepdims=True)
    log_odds = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-log_odds[np.arange(len(rows)), labels].mean()), float((logits.argmax(axis=1) == labels).mean())


def measure(case: Case, rounds: int, most: int) -> dict[str, Any]:
    """Train one case; returns its loss on all training rows and its accuracy on all test rows, round by round."""
    import keras

    from silo.worker.training.model import configure
    from simulation.engine import Simulation

    if not measure.__dict__.get("configured"):
        configure(1)
        measure.__dict__["configured"] = True
    data, share, method, seed = case
    alpha, beta, iid = DATA[data]
    views = devices(alpha, beta, seed, most, iid=iid)

    def build(features: int) -> keras.Model:
        model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(CLASSES, activation="softmax")])
        model.compile(optimizer=keras.optimizers.SGD(LEARNING_RATE), loss="sparse_categorical_crossentropy")
        return model

    run = Run.model_validate_json(json.dumps({
        "apiVersion": "concordat/v1", "kind": "Run", "metadata": {"name": "synthetic"}, "purpose": "bench",
        "dataset": "synthetic", "features": [f"x{i}" for i in range(FEATURES)], "label": {"column": "y"},
        "app": {"model": "bench:build"}, "seed": seed,
        "strategy": {"mu": METHODS[method], "rounds": rounds, "local": {"epochs": EPOCHS, "batch_size": BATCH}},
    }))  # fmt: skip
    simulation = Simulation(run, build, views, sample=SAMPLE, outputs=CLASSES)

    def work(number: int, silo: str) -> LocalWork | None:
        """The same stragglers for every method: of the chosen ten, a share does 1 to E epochs."""
        chosen = list(simulation._chosen(number))
        generator = np.random.default_rng([seed, number, 0x57])
        slow = generator.permutation(chosen)[: round(share * len(chosen))].tolist()
        epochs = dict(zip(slow, generator.integers(1, EPOCHS + 1, len(slow)).tolist(), strict=True))
        if silo not in epochs:
            return run.strategy.local
        return None if method == "FedAvg" else LocalWork(epochs=epochs[silo], batch_size=BATCH)

    every = list(views.values())
    train_x = np.concatenate([view.train_x for view in every]).astype(np.float64)
    test_x = np.concatenate([view.validation_x for view in every]).astype(np.float64)
    train_y = np.concatenate([view.train_y for view in every]).astype(np.int64).ravel()
    test_y = np.concatenate([view.validation_y for view in every]).astype(np.int64).ravel()
    losses, accuracies = [], []
    for closed in simulation.rounds(work, measure=False):
        losses.append(scores(closed.weights, train_x, train_y)[0])
        accuracies.append(scores(closed.weights, test_x, test_y)[1])
    return {"case": list(case), "loss": losses, "accuracy": accuracies, "rows": len(train_y)}


def table(results: dict[Case, dict[str, Any]], seeds: int) -> str:
    """The Markdown table: accuracy as mean and standard deviation over seeds, and the worst late loss.

    A row holds the seeds of which all methods were measured.
    """
    lines = [
        "| data | stragglers | seeds | FedAvg | FedProx mu=0 | mu=1 | max loss after round 50: FedAvg | mu=0 | mu=1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data in DATA:
        for share in sorted(STRAGGLERS):
            methods = [method for method in METHODS if share or method != "FedProx mu=0"]
            whole = [seed for seed in range(seeds) if all((data, share, method, seed) in results for method in methods)]
            if not whole:
                continue
            accuracy, loss = [], []
            for method in METHODS:
                if method not in methods:
                    accuracy.append("= FedAvg")
                    loss.append("=")
                    continue
                done = [results[data, share, method, seed] for seed in whole]
                final = [100 * float(np.mean(one["accuracy"][-10:])) for one in done]
                spread = f" ± {np.std(final, ddof=1):.1f}" if len(final) > 1 else ""
                accuracy.append(f"{np.mean(final):.1f}{spread}")
                loss.append(f"{np.mean([max(one['loss'][LATE:]) for one in done]):.2f}")
            lines.append(f"| {data} | {share:.0%} | {len(whole)} | " + " | ".join([*accuracy, *loss]) + " |")
    return "\n".join(lines)


def plot(results: dict[Case, dict[str, Any]], seeds: int, directory: Path) -> None:
    """Loss and accuracy round by round, the mean over seeds, a panel for each share of stragglers."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "fedprox", "font.size": 9})
    from matplotlib import pyplot as plt

    colours = dict(zip(METHODS, ("#b35806", "#7f7f7f", "#2166ac"), strict=True))
    for data in sorted({case[0] for case in results}):
        figure, axes = plt.subplots(2, len(STRAGGLERS), figsize=(9, 4.6), sharex=True, sharey="row")
        for column, share in enumerate(sorted(STRAGGLERS)):
            for method in METHODS:
                found = [results.get((data, share, method, seed)) for seed in range(seeds)]
                done = [one for one in found if one is not None]
                for row, kind in enumerate(("loss", "accuracy")):
                    if done:
                        mean = np.mean([one[kind] for one in done], axis=0)
                        axes[row, column].plot(
                            range(1, len(mean) + 1), mean, color=colours[method], label=method, lw=1.2
                        )
            axes[0, column].set_title(f"{share:.0%} stragglers")
            axes[0, column].set_yscale("log")
            axes[1, column].set_xlabel("round")
        axes[0, 0].set_ylabel("training loss")
        axes[1, 0].set_ylabel("test accuracy")
        axes[0, -1].legend(frameon=False)
        figure.suptitle(f"Synthetic {data}" if data != "IID" else "Synthetic IID")
        figure.tight_layout()
        name = data.strip("()").replace(",", "-").lower()
        figure.savefig(directory / f"fedprox-{name}.svg", metadata={"Date": None})
        plt.close(figure)


def verdict(results: dict[Case, dict[str, Any]], seeds: int) -> bool:
    """Whether mu = 1 beats FedAvg on the mean at 90 % stragglers of (1,1), with less than half its late loss."""
    final, late = {}, {}
    for method in ("FedAvg", "FedProx mu=1"):
        done = [results["(1,1)", 0.9, method, seed] for seed in range(seeds)]
        final[method] = float(np.mean([np.mean(one["accuracy"][-10:]) for one in done]))
        late[method] = float(np.mean([max(one["loss"][LATE:]) for one in done]))
        print(f"(1,1), 90 %: {method} accuracy {100 * final[method]:.1f}, max loss after {LATE} {late[method]:.2f}")
    return final["FedProx mu=1"] > final["FedAvg"] and late["FedProx mu=1"] < late["FedAvg"] / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--most", type=int, default=300, help="the largest device's rows")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("fedprox.jsonl"), help="measured cases, one a line")
    parser.add_argument("--images", type=Path, help="where to put the plots")
    parser.add_argument("--report", action="store_true", help="report what is in the results, measure nothing")
    arguments = parser.parse_args()
    results: dict[Case, dict[str, Any]] = {}
    if arguments.results.exists():
        for line in arguments.results.read_text().splitlines():
            one = json.loads(line)
            results[tuple(one["case"])] = one  # type: ignore[index]  # a list in JSON, a tuple here
    missing = [] if arguments.report else [case for case in cases(arguments.seeds) if case not in results]
    with ProcessPoolExecutor(arguments.processes) as pool, arguments.results.open("a") as file:
        jobs = [pool.submit(measure, case, arguments.rounds, arguments.most) for case in missing]
        for job in jobs:
            one = job.result()
            results[tuple(one["case"])] = one  # type: ignore[index]  # a list in JSON, a tuple here
            file.write(json.dumps(one) + "\n")
            file.flush()
            print(*one["case"], f"accuracy {np.mean(one['accuracy'][-10:]):.3f}", file=sys.stderr, flush=True)
    print(table(results, arguments.seeds))
    if arguments.images:
        plot(results, arguments.seeds, arguments.images)
    raise SystemExit(0 if verdict(results, arguments.seeds) else 1)


if __name__ == "__main__":
    main()
