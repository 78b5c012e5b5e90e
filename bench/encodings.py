"""Updates packed in each encoding on the demo's data: bytes a round from all silos together, and the final model's AUC.

Simulated: the silos' training, the gate's packing with its error feedback, the coordinator's strategy. Mean over seeds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from demo.founding import found
from demo.scenarios import DataSource, scenario
from federation.encodings import packed_bytes
from federation.run import Updates, load_run
from silo.worker.app import load_builder
from silo.worker.training.model import configure
from simulation.data import views_of
from simulation.engine import Simulation

EVERY = (
    None,
    Updates(encoding="float16"),
    Updates(encoding="int8"),
    Updates(encoding="top_k", share=0.1),
    Updates(encoding="top_k", share=0.01),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--example", default="breast_cancer")
    arguments = parser.parse_args()
    configure(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        founded = found(Path(directory) / "d", scenario(arguments.example), DataSource())
        run = load_run(founded.run_file.read_text()).model.model_copy(update={"privacy": None})
        builder = load_builder(founded.run_file.parent / run.app.path, run.app.model)
        places = [place.worker_config for place in founded.silos.values()]
        print(f"| updates | bytes a round | of float32 | AUC after round 3 | after round {run.strategy.rounds} |")
        print("|---|---|---|---|---|")
        for updates in EVERY:
            early, late, size = [], [], 0
            for seed in range(arguments.seeds):
                changed = run.model_copy(update={"seed": seed, "updates": updates})
                simulation = Simulation(changed, builder, views_of(changed, places, None))
                size = simulation.initial.size
                closed = list(simulation.rounds(measure=False))
                for number, into in ((3, early), (len(closed), late)):
                    into.append(simulation.mean(simulation.evaluate(closed[number - 1].weights))["auc"])
            share = "" if updates is None or updates.share is None else f", share {updates.share:g}"
            name = "float32" if updates is None else f"{updates.encoding}{share}"
            sent, whole = (len(places) * packed_bytes(one, size) for one in (updates, None))
            reached = f"{np.mean(early):.4f} | {np.mean(late):.4f}"
            print(f"| {name} | {sent:,} | {sent / whole:.1%} | {reached} |", flush=True)


if __name__ == "__main__":
    main()
