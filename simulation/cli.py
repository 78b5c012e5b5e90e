"""`concordat run simulate`: for data scientists, before anything is submitted."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from federation.wire import Weights
    from simulation.engine import Simulation


def simulate(
    run_file: Path,
    places: Sequence[Path],
    silos: int | None,
    sample: int | None,
    threads: int | None,
    out: Path | None,
    say: Callable[[str], None],
) -> None:
    """Run a run.yaml over local tables in this process and say what each round gave; raises ConcordatError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from coordinator.checkpoints import parse_shapes, save_model
    from federation.home import read_limited
    from federation.limits import LIMITS
    from federation.run import load_run
    from simulation.data import views_of

    run = load_run(read_limited(run_file, LIMITS.document), source=str(run_file)).model
    views = views_of(run, places, silos)
    from federation.operator import build_app
    from silo.worker.app import load_builder, unpack
    from silo.worker.training.model import configure
    from simulation.engine import Simulation

    configure(threads)
    with tempfile.TemporaryDirectory(prefix="concordat-app-") as place:
        # The bundle, not the directory: a file that is left out of the one is missed here and not at the silos.
        unpack(build_app(run_file.resolve().parent / run.app.path), Path(place))
        simulation = Simulation(run, load_builder(Path(place), run.app.model), views, sample=sample)
        for name, plan in simulation.plans.items():
            say(f"  {name}: {len(views[name].train_x)} training rows" + (f", {_privacy(plan)}" if plan else ""))
        weights = _rounds(simulation, say)
    if out is not None:
        save_model(out, weights, parse_shapes(simulation.model.shapes))
        say(f"the final model is in {out}")


def _rounds(simulation: Simulation, say: Callable[[str], None]) -> Weights:
    """Run every round, say what each gave and what the final model is worth, and return that."""
    from coordinator.fairness import spread
    from federation.progress import line_of

    weights, started = simulation.initial, time.monotonic()
    for closed in simulation.rounds():
        weights, now = closed.weights, time.monotonic()
        event = {"event": "round.closed", "round": closed.number, "silos": closed.metrics, "dropped": {}}
        line = line_of({**event, "metrics": closed.mean, "work": closed.work, "seconds": now - started})
        say(line or "")
        started = now
    final = simulation.evaluate(weights)
    event = {"event": "run.evaluated", "silos": final, "metrics": simulation.mean(final), "fairness": spread(final)}
    say(line_of(event) or "")
    return weights


def _privacy(plan: object) -> str:
    from silo.gate.accounting import Plan

    assert isinstance(plan, Plan)  # noqa: S101  narrowing for the type checker
    return f"epsilon {plan.epsilon:.3g} at delta {plan.delta:g} with noise {plan.noise_multiplier:g}"
