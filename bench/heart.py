"""Four real hospitals: the federated model beside each hospital's own and one of all rows in one place.

    python bench/heart.py DIRECTORY    # with the four files of the UCI data set Heart Disease (id 45)

Ten seeds of weights, batches and splits. The same model, epochs and batch size for all three; the pooled model is what
a federation may not have. Intervals are 95 % of Student's t over seeds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from demo.baselines import pooled, train_alone
from demo.scenarios import EXAMPLES, HEART_COLUMNS, HEART_FILES, DataSource, write_heart
from federation.run import load_run
from silo.config import CsvSource
from silo.worker.app import load_builder
from silo.worker.data.view import build_view, read_columns
from silo.worker.metrics import auc
from silo.worker.training.model import FederatedModel, configure
from simulation.engine import Simulation

STUDENT = {9: 2.262, 4: 2.776}
"""The 97.5 % quantile of Student's t by degrees of freedom."""
WANTED = 0.01


def interval(values: list[float]) -> str:
    half = STUDENT[len(values) - 1] * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seeds", type=int, default=10, choices=(5, 10))
    arguments = parser.parse_args()
    configure(1)
    example = EXAMPLES / "heart"
    run = load_run((example / "run.yaml").read_text()).model
    builder = load_builder(example / run.app.path, run.app.model)
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: Path(scratch) / f"{name}.csv" for name in HEART_FILES}
        write_heart(paths, DataSource(arguments.directory))
        frames = {
            name: read_columns(CsvSource(format="csv", path=path, columns=HEART_COLUMNS, missing=("?",)), run.columns)
            for name, path in paths.items()
        }
    found: dict[str, dict[str, list[float]]] = {}

    def note(where: str, kind: str, value: float | None) -> None:
        if value is not None:
            found.setdefault(where, {}).setdefault(kind, []).append(value)

    rows: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        seeded = run.model_copy(update={"seed": seed})
        views = {name: build_view(frame, seeded, name) for name, frame in frames.items()}
        rows = {name: (view.rows, len(view.validation_x)) for name, view in views.items()}
        simulation = Simulation(seeded, builder, views)
        *_, last = simulation.rounds()
        alone = FederatedModel(builder, len(run.features), seed, 0.0, run.strategy.local)
        start = alone.get()
        together = pooled(views)
        models = {"federated": last.weights, "pooled": train_alone(seeded, alone, together)}
        for kind, weights in models.items():
            alone.set(weights)
            note("all rows", kind, auc(together.validation_y, alone.predict(together.validation_x)))
        for name, view in views.items():
            alone.set(start)
            own = train_alone(seeded, alone, view)
            for kind, weights in {**models, "own": own}.items():
                note(name, kind, alone.evaluate(weights, view, ("auc",)).get("auc"))
    print(f"validation AUC over {arguments.seeds} seeds, mean [95 % interval]\n")
    print("| hospital | rows | of them validation | federated | pooled | its own |\n|---|---|---|---|---|---|")
    for name in [*sorted(rows), "all rows"]:
        total, held = rows.get(name, (sum(r for r, _ in rows.values()), sum(v for _, v in rows.values())))
        cells = [
            interval(values) if (values := found.get(name, {}).get(kind)) else "-"
            for kind in ("federated", "pooled", "own")
        ]
        print(f"| {name} | {total} | {held} | " + " | ".join(cells) + " |")
    both = found["all rows"]
    differences = [one - two for one, two in zip(both["federated"], both["pooled"], strict=True)]
    print("\n- : the validation rows are of one class, or no such model")
    print(f"federated minus pooled on all rows: {interval(differences)}")
    raise SystemExit(0 if np.mean(differences) >= -WANTED else 1)


if __name__ == "__main__":
    main()
