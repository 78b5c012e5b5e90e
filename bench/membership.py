"""Membership-inference attacks on a trained model, without privacy and with it.

Of one pool of rows each model is trained on another random half. Two attackers have a model and a row with its label:

- one says "was trained on" where the loss is small (Yeom et al., CSF 2018);
- one has the other models as shadows, of which it knows the halves: it compares how confident the model is of the row
  with how confident they are that have it and that do not, as two normal distributions (LiRA: Carlini et al., S&P 2022,
  with a variance common to all rows, as the shadows are few).

Their score is the area under the ROC curve over trained-on and left-out rows: 0.5 is guessing. Told is the mean over
the models with a 95 % interval by Student's t. The advantage is the largest difference of true and false positive rate,
which a threshold chosen with hindsight reaches, of the second attacker. A differentially private model bounds it: an
attack that knows everything else has at most (e^eps - 1 + 2 delta) / (e^eps + 1) (Humphries et al., CSF 2023).
"""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt
from scipy import stats

from federation.run import Run
from silo.worker.data.view import PolicyView
from silo.worker.metrics import auc
from silo.worker.training.model import configure
from simulation.engine import Simulation

ROWS, FEATURES, SILOS, DELTA = 150, 30, 3, 1e-4
HEAD = {"apiVersion": "concordat/v1", "kind": "Run", "metadata": {"name": "attacked"}, "purpose": "bench"}
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def build(features: int) -> keras.Model:
    """A model large enough to learn its few rows by heart."""
    chain = [keras.Input((features,)), keras.layers.Dense(256, activation="relu")]
    model = keras.Sequential([*chain, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="binary_crossentropy")
    return model


def pool() -> list[tuple[Any, Any]]:
    """Each silo's rows, twice as many as a model is trained on: a weak signal and noisy labels."""
    generator = np.random.default_rng(1)
    direction = generator.normal(size=FEATURES) / math.sqrt(FEATURES)
    found = []
    for _ in range(SILOS):
        x = generator.normal(size=(2 * ROWS, FEATURES)).astype(np.float32)
        chance = 1 / (1 + np.exp(-3 * x @ direction))
        found.append((x, (generator.random(len(x)) < chance).astype(np.float32)[:, None]))
    return found


def trained(rows: list[tuple[Any, Any]], number: int, epsilon: float | None) -> tuple[Values, Mask, float, float]:
    """One model: its confidence in each row's label as log(p / (1 - p)), who is in its half, accuracy in and out."""
    generator = np.random.default_rng([2, number])
    halves = [generator.permutation(2 * ROWS) < ROWS for _ in rows]
    views = {
        f"silo-{index}": PolicyView(x[half], y[half], x[~half], y[~half], 0, "")
        for index, ((x, y), half) in enumerate(zip(rows, halves, strict=True))
    }
    privacy = {"mode": "example_dp", "clip_norm": 1.0, "delta": DELTA, "epsilon": epsilon}
    content = {
        **HEAD, "dataset": "d", "features": [f"x{i}" for i in range(FEATURES)], "label": {"column": "y"},
        "app": {"model": "bench:build"}, "seed": number, "metrics": ["accuracy"],
        "strategy": {"rounds": 20, "local": {"epochs": 5, "batch_size": 30}},
        **({"privacy": privacy} if epsilon else {}),
    }  # fmt: skip
    simulation = Simulation(Run.model_validate_json(json.dumps(content)), build, views)
    *_, last = simulation.rounds(measure=False)
    simulation.model.set(last.weights)
    x, y, inside = np.concatenate([x for x, _ in rows]), np.concatenate([y for _, y in rows]), np.concatenate(halves)
    p = np.clip(simulation.model.predict(x).astype(np.float64), 1e-12, 1 - 1e-12).ravel()
    right = (p > 0.5) == (y.ravel() > 0.5)
    of_label = np.where(y.ravel() > 0.5, p, 1 - p)
    return np.log(of_label) - np.log1p(-of_label), inside, float(right[inside].mean()), float(right[~inside].mean())


def likelihood_ratio(confidence: Values, others: Values, inside: Mask) -> Values:
    """The second attacker's score of each row; `others` and `inside` are (shadows, rows). NaN without shadows."""
    fits = []
    for mask in (inside, ~inside):
        count = mask.sum(axis=0)
        mean = np.where(count > 0, (others * mask).sum(axis=0) / np.maximum(count, 1), np.nan)
        fits.append((mean, float(np.std((others - mean)[mask]))))
    (mean_in, deviation_in), (mean_out, deviation_out) = fits
    score: Values = stats.norm.logpdf(confidence, mean_in, deviation_in)
    return score - stats.norm.logpdf(confidence, mean_out, deviation_out)


def attacked(scores: Values, inside: Mask) -> tuple[float, float]:
    """Area under the ROC curve, and advantage."""
    known = np.isfinite(scores)
    scores, inside = scores[known], inside[known]
    thresholds = np.unique(scores)
    ins, outs = np.sort(scores[inside]), np.sort(scores[~inside])
    rates = (1 - np.searchsorted(side, thresholds) / len(side) for side in (ins, outs))
    true, false = rates
    area = auc(inside.astype(np.float32), scores)
    assert area is not None
    return area, float((true - false).max())


def told(values: list[float]) -> str:
    """Mean and 95 % interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[8.0, 2.0, 0.5])
    arguments = parser.parse_args()
    configure(1)
    print(
        "| privacy | accuracy, trained on | accuracy, left out | AUC by loss | AUC with shadows | advantage | bound |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = pool()
    for epsilon in (None, *arguments.epsilon):
        found = [trained(rows, number, epsilon) for number in range(arguments.models)]
        confidence, inside = np.stack([one[0] for one in found]), np.stack([one[1] for one in found])
        by_loss, by_shadows = [], []
        for index in range(len(found)):
            rest = np.arange(len(found)) != index
            by_loss.append(attacked(confidence[index], inside[index])[0])
            score = likelihood_ratio(confidence[index], confidence[rest], inside[rest])
            by_shadows.append(attacked(score, inside[index]))
        areas, advantages = zip(*by_shadows, strict=True)
        bound = (math.expm1(epsilon) + 2 * DELTA) / (math.exp(epsilon) + 1) if epsilon else 1.0
        label = f"epsilon {epsilon:g}" if epsilon else "none"
        accuracy = " | ".join(f"{np.mean([one[place] for one in found]):.3f}" for place in (2, 3))
        print(
            f"| {label} | {accuracy} | {told(by_loss)} | {told(list(areas))} | {np.mean(advantages):.3f} "
            f"| {bound:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
