"""What each hospital would have without the federation: a model of its own data, and (demo only) one of all data.

A process of its own, as it imports TensorFlow: `python -m demo.baselines RUN_FILE WORKER_CONFIG...`; prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from federation.operator import build_app
from federation.run import Run, load_run
from silo.config import ContractSource, load_worker_config
from silo.worker.app import load_builder, unpack
from silo.worker.data.view import PolicyView, build_view, read_columns
from silo.worker.training.model import FederatedModel, batches, configure


def pooled(views: dict[str, PolicyView]) -> PolicyView:
    """All hospitals' training rows in one table; validation rows likewise."""
    parts = list(views.values())
    return PolicyView(
        train_x=np.concatenate([view.train_x for view in parts]),
        train_y=np.concatenate([view.train_y for view in parts]),
        validation_x=np.concatenate([view.validation_x for view in parts]),
        validation_y=np.concatenate([view.validation_y for view in parts]),
        dropped=0,
        digest="",
    )


def train_alone(run: Run, model: FederatedModel, view: PolicyView) -> Any:
    """Train on one view for as many epochs as the run trains at each silo; returns the weights."""
    weights = model.get()
    for number in range(1, run.strategy.rounds + 1):
        order = batches(len(view.train_x), run.strategy.local, run.seed, number)
        weights = model.train(weights, view, order)
    return weights


def main() -> None:
    """Print, per silo: its rows, and its validation metrics with its own model and with the pooled model."""
    run_file, *worker_configs = map(Path, sys.argv[1:])
    configure(1)
    run = load_run(run_file.read_text()).model
    views: dict[str, PolicyView] = {}
    for path in worker_configs:
        config = load_worker_config(path)
        source = config.datasets[run.dataset]
        if isinstance(source, ContractSource):
            sys.exit(f"the dataset of {config.silo} has a contract; the demo's have none")
        frame = read_columns(source, run.columns)
        views[config.silo] = build_view(frame, run, config.silo)
    with tempfile.TemporaryDirectory(prefix="concordat-baseline-") as scratch:
        unpack(build_app(run_file.resolve().parent / run.app.path), Path(scratch))
        builder = load_builder(Path(scratch), run.app.model)
        model = FederatedModel(
            builder,
            len(run.features),
            run.seed,
            0.0,
            run.strategy.local,
            class_weights=run.class_weights,
            precision=run.precision,
        )
        start = model.get()
        everyone = train_alone(run, model, pooled(views))
        out: dict[str, Any] = {}
        for silo, view in views.items():
            model.set(start)
            own = train_alone(run, model, view)
            out[silo] = {
                "rows": view.rows,
                "train": len(view.train_x),
                "validation": len(view.validation_x),
                "positive": float(view.train_y.mean()),
                "own": model.evaluate(own, view, run.metrics),
                "pooled": model.evaluate(everyone, view, run.metrics),
            }
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
