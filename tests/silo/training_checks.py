"""FedProx on a Keras model: the proximal term, SCAFFOLD's correction, batches, state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_models import (
    FEATURES,
    METRICS,
    federated,
    flat,
    fresh,
    logistic,
    network,
    noisy,
    normalised,
    order_of,
    round_of,
    view_of,
)

from federation.control_variates import control_change
from federation.run import LocalWork, Run
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError
from silo.worker.training.model import FederatedModel, batches
from silo.worker.training.pace import Pace

# -- the proximal term


def check_the_proximal_gradient_is_mu_times_the_distance() -> None:
    view = view_of(64)
    for mu in (0.1, 37.5):
        model = federated(network(), mu)
        start = noisy(model.get())
        after = round_of(model, start, view)
        assert not np.array_equal(after, start)
        found = np.concatenate([tensor.numpy().ravel() for tensor in model.proximal_gradient()])
        np.testing.assert_array_equal(found, np.float32(mu) * (after - start))


def check_the_proximal_gradient_is_that_of_the_squared_norm_over_all_weights() -> None:
    model = federated(network(), mu=0.7)
    start = model.get()
    round_of(model, start, view_of(64))
    moved = noisy(start)
    model.set(moved)
    found = [tensor.numpy() for tensor in model.proximal_gradient()]
    anchors = fresh(network(), start).get_weights()
    variables = [tf.Variable(array) for array in fresh(network(), moved).get_weights()]
    with tf.GradientTape(persistent=True) as tape:
        squared = tf.add_n([tf.reduce_sum((v - a) ** 2) for v, a in zip(variables, anchors, strict=True)])
        term = 0.7 / 2 * squared
        per_layer = 0.7 / 2 * tf.add_n([tf.norm(v - a) for v, a in zip(variables, anchors, strict=True)])
    for one, two in zip(found, tape.gradient(term, variables), strict=True):
        np.testing.assert_allclose(one, two.numpy(), rtol=1e-6, atol=1e-7)
    # The sum of the layers' norms, not squared, is another term: the check tells the two apart.
    other = tape.gradient(per_layer, variables)
    assert not np.allclose(found[0], other[0].numpy(), rtol=1e-2)


def plain_fedavg(builder: Callable[[int], Any], start: Any, view: PolicyView, order: Any, penalty: float = 0.0) -> Any:
    """FedAvg's local work as one would write it, a batch at a time; with a penalty, FedProx by its definition."""
    model = fresh(builder, start)
    anchors = [tf.constant(v.numpy()) for v in model.trainable_variables]

    @tf.function
    def step(rows: Any, labels: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, model(rows, training=True)))
            if penalty:
                pairs = zip(model.trainable_variables, anchors, strict=True)
                loss += penalty / 2 * tf.add_n([tf.reduce_sum((v.value - a) ** 2) for v, a in pairs])
        gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
        model.optimizer.apply(gradients, model.trainable_variables)

    for batch in order:
        index = batch[batch >= 0]
        step(tf.constant(view.train_x[index]), tf.constant(view.train_y[index]))
    return flat(model)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


def check_without_the_term_a_round_is_fedavg_bit_for_bit() -> None:
    view = view_of(96)
    for optimizer in OPTIMIZERS.values():
        model = federated(network(optimizer), epochs=3)
        start = model.get()
        expected = plain_fedavg(network(optimizer), start, view, order_of(model, view))
        np.testing.assert_array_equal(round_of(model, start, view), expected)


def check_with_the_term_a_round_is_training_on_the_penalised_loss() -> None:
    view = view_of(90)  # the last batch is partial
    for mu in (0.1, 5.0):
        model = federated(network(OPTIMIZERS["momentum"]), mu, epochs=3)
        start = model.get()
        order = order_of(model, view)
        expected = plain_fedavg(network(OPTIMIZERS["momentum"]), start, view, order, mu)
        found = round_of(model, start, view)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        without = plain_fedavg(network(OPTIMIZERS["momentum"]), start, view, order)
        assert np.abs(found - without).max() > 1e-3, "the term has an effect"


def check_a_huge_mu_keeps_the_weights_near_where_they_were() -> None:
    view = view_of(96)
    builder = network(lambda: keras.optimizers.SGD(5e-4))
    start = federated(builder).get()
    moved = {mu: np.linalg.norm(round_of(federated(builder, mu, epochs=60), start, view) - start) for mu in (0.0, 1e3)}
    assert moved[1e3] < 0.05 * moved[0.0], moved


# -- SCAFFOLD's correction


def corrected(builder: Callable[[int], Any] = logistic, mu: float = 0.0, epochs: int = 2) -> FederatedModel:
    return FederatedModel(builder, FEATURES, 3, mu, LocalWork(epochs=epochs, batch_size=16), corrected=True)


def check_a_correction_is_added_to_each_gradient() -> None:
    """Logistic regression in NumPy: y <- y - eta (g(y) + mu (y - x) + d)."""
    view, mu = view_of(64), 0.3
    model = corrected(mu=mu)
    start, correction = noisy(model.get()), noisy(np.zeros(FEATURES + 1), 4)
    order = order_of(model, view)
    y = start.astype(np.float64)
    for step in order:
        rows = np.column_stack([view.train_x[step], np.ones(len(step))]).astype(np.float64)
        gradient = rows.T @ (1 / (1 + np.exp(-rows @ y)) - view.train_y[step].ravel()) / len(step)
        y = y - 0.1 * (gradient + mu * (y - start) + correction)
    found, steps = model.work(start, view, order, Pace(), None, correction)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    assert steps == len(order)


def check_what_was_corrected_does_not_reach_the_next_round_or_another_model() -> None:
    view = view_of(64)
    for builder in (logistic, network()):
        model, plain = corrected(builder), federated(builder)
        start = model.get()
        order = order_of(model, view)
        model.work(start, view, order, Pace(), None, noisy(start))
        np.testing.assert_array_equal(model.work(start, view, order, Pace())[0], round_of(plain, start, view))


def check_the_mean_gradient_of_a_rounds_steps_is_read_off_its_weights() -> None:
    """Layer by layer: with d = -(x - y) / (K eta), for one step, the weights stay where they are."""
    view = view_of(16)
    model = corrected(network(), epochs=1)
    start, order = model.get(), np.arange(16, dtype=np.int32)[None]
    after, _ = model.work(start, view, order, Pace(), None, start * 0)
    assert np.abs(after - start).max() > 1e-3
    assert model.learning_rate == np.float32(0.05)
    back = -control_change(start, start * 0, after, 1, float(model.learning_rate or 0))
    np.testing.assert_allclose(model.work(start, view, order, Pace(), None, back)[0], start, atol=1e-6)


def check_a_model_that_is_not_trained_by_plain_sgd_has_no_correction() -> None:
    sgd = keras.optimizers.SGD
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    cases: dict[str, Callable[[], Any]] = {
        "by SGD with momentum": lambda: sgd(0.1, momentum=0.9),
        "by Adam": lambda: keras.optimizers.Adam(0.1),
        "has weight_decay": lambda: sgd(0.1, weight_decay=0.1),
        "has clipnorm": lambda: sgd(0.1, clipnorm=1.0),
        "has clipvalue": lambda: sgd(0.1, clipvalue=1.0),
        "has global_clipnorm": lambda: sgd(0.1, global_clipnorm=1.0),
        "has gradient_accumulation_steps": lambda: sgd(0.1, gradient_accumulation_steps=2),
        "has use_ema": lambda: sgd(0.1, use_ema=True),
        "learning rate changes": lambda: sgd(decay),
        "learning rate is 0": lambda: sgd(0.0),
    }
    for words, optimizer in cases.items():
        with pytest.raises(AppError, match=words):
            corrected(network(optimizer))

    def constrained(features: int) -> Any:
        dense = keras.layers.Dense(1, activation="sigmoid", kernel_constraint="non_neg")
        model = keras.Sequential([keras.Input((features,)), dense])
        model.compile(optimizer="sgd", loss="binary_crossentropy")
        return model

    with pytest.raises(AppError, match="constrains its weights"):
        corrected(constrained)
    with pytest.raises(AppError, match="weights that are not trained"):
        corrected(normalised)


def check_scaffold_learns_faster_than_fedavg_where_silos_differ() -> None:
    """Synthetic (1, 1) of the FedProx paper, ten of its devices; by the simulation, which folds as a coordinator."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
    from synthetic import CLASSES, FEATURES, devices

    from simulation.engine import Simulation

    views = dict(list(devices(1.0, 1.0, 0, 60).items())[:10])
    rows, labels = (np.concatenate([getattr(v, name) for v in views.values()]) for name in ("train_x", "train_y"))

    def build(features: int) -> Any:
        model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(CLASSES, activation="softmax")])
        model.compile(optimizer=keras.optimizers.SGD(0.01), loss="sparse_categorical_crossentropy")
        return model

    def last(name: str) -> float:
        document = {
            "apiVersion": "concordat/v1",
            "kind": "Run",
            "metadata": {"name": "drift"},
            "purpose": "HMB",
            "dataset": "synthetic",
            "features": [f"x{number}" for number in range(FEATURES)],
            "label": {"column": "y"},
            "app": {"model": "model:build"},
            "strategy": {"name": name, "rounds": 8, "local": {"epochs": 5, "batch_size": 10}},
        }
        run = Run.model_validate_json(json.dumps(document))
        simulation = Simulation(run, build, views, outputs=CLASSES)
        weights = [closed.weights for closed in simulation.rounds(measure=False)][-1]
        scores = build(FEATURES)
        scores.set_weights([weights[:-CLASSES].reshape(FEATURES, CLASSES), weights[-CLASSES:]])
        loss = keras.losses.sparse_categorical_crossentropy(labels.ravel(), scores(rows))
        return float(np.mean(loss))

    scaffold, fedavg = last("scaffold"), last("fedavg")
    assert scaffold < 0.8 * fedavg, (scaffold, fedavg)


# -- batches


def check_the_last_partial_batch_is_the_mean_of_its_own_rows() -> None:
    view = view_of(10)
    model = federated(logistic, epochs=2, batch=4)
    start = noisy(model.get())
    order = order_of(model, view)
    assert [int((step >= 0).sum()) for step in order] == [4, 4, 2, 4, 4, 2]

    def by_hand(divisor: Callable[[Any], int]) -> Any:
        kernel, bias = start[:FEATURES].astype(np.float64), float(start[FEATURES])
        for step in order:
            rows, labels = view.train_x[step[step >= 0]], view.train_y[step[step >= 0]].ravel()
            error = 1 / (1 + np.exp(-(rows @ kernel + bias))) - labels
            kernel = kernel - 0.1 * rows.T @ error / divisor(rows)
            bias -= 0.1 * error.sum() / divisor(rows)
        return np.append(kernel, bias)

    found = round_of(model, start, view)
    np.testing.assert_allclose(found, by_hand(len), rtol=1e-4, atol=1e-5)
    assert np.abs(found - by_hand(lambda _: 4)).max() > 1e-3, "a mean over the whole batch size is another"


def check_every_epoch_visits_every_row_once() -> None:
    for rows, size, epochs in ((1, 1, 1), (10, 4, 3), (16, 4, 2), (5, 32, 2), (7, 1, 1), (100, 33, 4)):
        order = batches(rows, LocalWork(epochs=epochs, batch_size=size), 3, 1)
        width = min(size, rows)
        steps = -(-rows // width)
        assert order.shape == (epochs * steps, width), (order.shape, rows, size, epochs)
        assert order.dtype == np.int32
        for epoch in order.reshape(epochs, steps * width):
            assert sorted(epoch[:rows]) == list(range(rows))
            assert (epoch[rows:] == -1).all()
        assert (order[:, 0] >= 0).all(), "no batch is without a row"


def check_the_order_is_the_seeds_and_the_rounds() -> None:
    work = LocalWork(epochs=2, batch_size=8)
    one = batches(50, work, 3, 1)
    np.testing.assert_array_equal(one, batches(50, work, 3, 1))
    for other in (batches(50, work, 4, 1), batches(50, work, 3, 2)):
        assert not np.array_equal(one, other)
    assert not np.array_equal(one[:7], one[7:]), "each epoch has an order of its own"


# -- state


def check_no_optimizer_state_is_carried_into_the_next_round() -> None:
    view = view_of(64)
    for name, optimizer in OPTIMIZERS.items():
        model = federated(network(optimizer))
        start = model.get()
        first = round_of(model, start, view)
        round_of(model, first, view, 2)
        again = round_of(model, start, view)
        np.testing.assert_array_equal(again, first, err_msg=name)
        other = federated(network(optimizer))
        np.testing.assert_array_equal(round_of(other, first, view, 2), round_of(model, first, view, 2), err_msg=name)


def check_a_decaying_learning_rate_begins_anew_with_each_round() -> None:
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    model = federated(network(lambda: keras.optimizers.SGD(decay)))
    view, start = view_of(64), model.get()
    first = round_of(model, start, view)
    np.testing.assert_array_equal(round_of(model, start, view), first)


def check_the_same_seed_gives_the_same_bits() -> None:
    view = view_of(70)
    one, two, other = (federated(network(), 0.1, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.get(), two.get())
    assert not np.array_equal(one.get(), other.get())
    weights = one.get()
    for number in (1, 2, 3):
        first, second = round_of(one, weights, view, number), round_of(two, weights, view, number)
        assert first.tobytes() == second.tobytes()
        weights = first


def check_training_leaves_its_input_alone_and_learns() -> None:
    view = view_of(200, 80)
    model = federated(network(), 0.01, epochs=10)
    start = model.get()
    kept = start.copy()
    weights = start
    for number in range(1, 6):
        weights = round_of(model, weights, view, number)
    np.testing.assert_array_equal(start, kept)
    before, after = (model.evaluate(w, view, METRICS) for w in (start, weights))
    assert after["loss"] < 0.6 * before["loss"], (before, after)
    assert after["auc"] > 0.9
