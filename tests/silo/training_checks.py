"""Checks of training, run by test_training.py in one process that has TensorFlow.

Started as a program it reads the name of a check a line and prints what came of it, as JSON, a line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

import silo.devices
from federation.control_variates import control_change
from federation.run import OWN_METRICS, ClassWeights, LocalWork, Metric, Run
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError, WorkError
from silo.worker.training.devices import use_device
from silo.worker.training.model import FederatedModel, batches, configure
from silo.worker.training.pace import Pace

configure(1)

FEATURES = 5
METRICS = ("loss", "auc", "accuracy", "num_examples")


def view_of(train: int, validation: int = 24, seed: int = 1) -> PolicyView:
    """A view of rows whose label depends on their features."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(train + validation, FEATURES)).astype(np.float32)
    noise = generator.normal(size=len(rows)) * 0.3
    labels = (rows @ np.array([1, -2, 0.5, 0, 1]) + noise > 0).astype(np.float32)[:, None]
    return PolicyView(rows[:train], labels[:train], rows[train:], labels[train:], 0, "")


def network(optimizer: Callable[[], Any] = lambda: keras.optimizers.SGD(0.05)) -> Callable[[int], Any]:
    """A builder of a multilayer perceptron."""

    def build(features: int) -> Any:
        layers = [keras.Input((features,)), keras.layers.Dense(7, activation="tanh")]
        model = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer=optimizer(), loss="binary_crossentropy")
        return model

    return build


def logistic(features: int) -> Any:
    """Logistic regression, whose gradient is written down by hand."""
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.BinaryCrossentropy())
    return model


def federated(
    builder: Callable[[int], Any], mu: float = 0.0, epochs: int = 2, batch: int = 16, seed: int = 3
) -> FederatedModel:
    return FederatedModel(builder, FEATURES, seed, mu, LocalWork(epochs=epochs, batch_size=batch))


def order_of(model: FederatedModel, view: PolicyView, number: int = 1, seed: int = 3) -> Any:
    return batches(len(view.train_x), model._work, seed, number)


def round_of(model: FederatedModel, weights: Any, view: PolicyView, number: int = 1) -> Any:
    return model.train(weights, view, order_of(model, view, number))


def fresh(builder: Callable[[int], Any], weights: Any) -> Any:
    """A Keras model of its own, its weights set from a flat vector without the code under test."""
    model = builder(FEATURES)
    start, arrays = 0, []
    for array in model.get_weights():
        arrays.append(weights[start : start + array.size].reshape(array.shape))
        start += array.size
    assert start == weights.size
    model.set_weights(arrays)
    return model


def flat(model: Any) -> Any:
    return np.concatenate([array.ravel() for array in model.get_weights()])


def noisy(weights: Any, seed: int = 9, scale: float = 1.0) -> Any:
    return (weights + scale * np.random.default_rng(seed).normal(size=weights.size)).astype(np.float32)


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


# -- class weights

IN_ORDER = np.concatenate([np.arange(70), np.full(10, -1)]).astype(np.int32).reshape(5, 16)
"""An epoch over 70 rows, 16 a step, as keras goes over them without shuffling."""


def weighted(builder: Callable[[int], Any], wanted: Any, **others: Any) -> FederatedModel:
    return FederatedModel(builder, FEATURES, 3, 0.0, LocalWork(batch_size=16), class_weights=wanted, **others)


def check_class_weights_are_those_of_keras() -> None:
    view = view_of(70)
    own = (lambda y, p: (y - p) ** 2, lambda: keras.optimizers.SGD(0.05))
    for loss, optimizer in (("binary_crossentropy", lambda: keras.optimizers.Adam(0.01)), own):

        def build(features: int, loss: Any = loss, optimizer: Any = optimizer) -> Any:
            model = network()(features)
            model.compile(optimizer=optimizer(), loss=loss)
            return model

        model = weighted(build, ClassWeights(negative=0.5, positive=3.0))
        start = model.get()
        found = model.train(start, view, IN_ORDER)
        by_class: tuple[dict[int, float] | None, ...] = ({0: 0.5, 1: 3.0}, None)
        for class_weight in by_class:
            reference = fresh(build, start)
            reference.fit(view.train_x, view.train_y, 16, shuffle=False, verbose=0, class_weight=class_weight)
            same = np.allclose(found, flat(reference), rtol=1e-5, atol=1e-6)
            assert same is (class_weight is not None)


def check_without_class_weights_the_loss_is_the_apps_own_and_with_ones_it_counts_the_same() -> None:
    view = view_of(70)
    plain, ones = weighted(network(), None), weighted(network(), ClassWeights(negative=1, positive=1))
    assert plain._training_loss is plain._loss
    found = [model.train(model.get(), view, IN_ORDER) for model in (plain, ones)]
    np.testing.assert_array_equal(*found)


def check_class_weights_weigh_the_loss_and_not_the_proximal_term() -> None:
    """Three steps of logistic regression over all rows, written down: the weighted gradient, and mu * (w - w_t)."""
    view, mu = view_of(64), 0.7
    model = FederatedModel(
        logistic, FEATURES, 3, mu, LocalWork(), class_weights=ClassWeights(negative=0.25, positive=5)
    )
    start = noisy(model.get())
    order = np.tile(np.arange(64, dtype=np.int32), (3, 1))
    found = model.train(start, view, order)
    x = np.hstack([view.train_x, np.ones((64, 1))]).astype(np.float64)
    y, w = view.train_y[:, 0].astype(np.float64), start.astype(np.float64)
    for _ in range(3):
        errors = np.where(y == 1, 5.0, 0.25) * (1 / (1 + np.exp(-x @ w)) - y)
        w = w - 0.1 * (x.T @ errors / 64 + mu * (w - start))
    np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)
    # What is reported is the loss as it is.
    names = ("loss", "brier", "auc")
    assert model.evaluate(found, view, names) == federated(logistic).evaluate(found, view, names)


def skewed(positives: int, rows: int = 70) -> PolicyView:
    view = view_of(rows)
    labels = np.zeros((rows, 1), np.float32)
    labels[:positives] = 1
    return PolicyView(view.train_x, labels, view.validation_x, view.validation_y, 0, "")


def check_balanced_class_weights_are_those_of_scikit_learn_at_each_silo() -> None:
    """One model goes from silo to silo, as in a simulation: each has the weights of its own rows."""
    balanced = weighted(network(), "balanced")
    start = balanced.get()
    for positives in (7, 50):
        view = skewed(positives)
        zero, one = compute_class_weight("balanced", classes=np.array([0, 1]), y=view.train_y.ravel())
        given = weighted(network(), ClassWeights(negative=zero, positive=one))
        np.testing.assert_array_equal(balanced.train(start, view, IN_ORDER), given.train(start, view, IN_ORDER))
    plain = weighted(network(), None)
    for positives in (0, 70):
        view = skewed(positives)
        np.testing.assert_array_equal(balanced.train(start, view, IN_ORDER), plain.train(start, view, IN_ORDER))


def check_a_loss_without_a_value_a_row_cannot_be_weighed() -> None:
    def build(features: int) -> Any:
        model = network()(features)
        model.compile(optimizer="sgd", loss=lambda y, p: tf.reduce_mean((y - p) ** 2))
        return model

    with pytest.raises(AppError, match="one number for a batch, expected one a row with class_weights"):
        weighted(build, ClassWeights(negative=1, positive=2))


# -- precision


def mixed(features: int) -> Any:
    layers = [keras.Input((features,)), keras.layers.Dense(16, activation="tanh"), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid", dtype="float32")])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy")
    return model


def check_layers_compute_in_bfloat16_and_weights_stay_float32() -> None:
    view = view_of(200, 80)
    low = weighted(mixed, "balanced", precision="mixed_bfloat16")
    full = weighted(mixed, "balanced")
    assert keras.config.dtype_policy().name == "float32"
    assert [layer.compute_dtype for layer in low._model.layers] == ["bfloat16", "bfloat16", "float32"]
    assert {str(variable.dtype) for variable in low._model.weights} == {"float32"}
    np.testing.assert_array_equal(low.get(), full.get())
    start = low.get()

    def rounds(model: FederatedModel) -> Any:
        weights = start
        for number in range(1, 9):
            weights = round_of(model, weights, view, number)
        return weights

    found, exact = rounds(low), rounds(full)
    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact - start)
    again = weighted(mixed, "balanced", precision="mixed_bfloat16")
    assert rounds(again).tobytes() == found.tobytes()
    assert low.evaluate(found, view, ("auc",))["auc"] > 0.9


def check_the_correction_and_the_proximal_term_are_float32_under_bfloat16() -> None:
    def build(features: int) -> Any:
        model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, dtype="float32")])
        model.compile(optimizer=keras.optimizers.SGD(0.25), loss=lambda y, p: 0 * (y - p))
        return model

    model = FederatedModel(build, FEATURES, 3, 0.5, LocalWork(), corrected=True, precision="mixed_bfloat16")
    start, view = model.get(), view_of(8)
    correction = np.full(start.size, 1 + 2**-20, np.float32)
    order = np.arange(8, dtype=np.int32)[None]
    found, _ = model.work(start, view, np.tile(order, (2, 1)), Pace(), correction=correction)
    once = start - np.float32(0.25) * correction
    np.testing.assert_array_equal(found, once - np.float32(0.25) * (np.float32(0.5) * (once - start) + correction))


def check_a_model_that_ends_in_bfloat16_is_refused() -> None:
    with pytest.raises(AppError, match=r'probabilities as bfloat16, expected float32 .* dtype="float32"'):
        weighted(network(), None, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def check_an_optimizer_that_scales_the_loss_is_refused() -> None:
    """Its gradients would be divided by a scale that nobody multiplied with, and training would all but stand still."""

    def by_policy(features: int) -> Any:
        keras.config.set_dtype_policy("mixed_float16")
        return mixed(features)

    for builder in (by_policy, network(lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1024.0))):
        assert "optimizer scales the loss, expected one that does not" in refused(builder)
    assert keras.config.dtype_policy().name == "float32"


# -- the device


class Machine:
    """TensorFlow's way to a machine's devices, of a machine with so many GPUs; notes what is asked of it."""

    def __init__(self, gpus: int) -> None:
        self.gpus = [f"GPU:{number}" for number in range(gpus)]
        self.asked: list[Any] = []
        self.experimental = self

    def list_physical_devices(self, kind: str) -> list[str]:
        self.asked.append("look")
        return self.gpus if kind == "GPU" else []

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        self.asked.append((devices, kind))

    def set_memory_growth(self, device: str, grows: bool) -> None:
        self.asked.append((device, grows))

    def list_logical_devices(self, kind: str) -> list[str]:
        self.asked.append(f"start {kind}")
        return []


def check_one_gpu_is_used_and_its_memory_taken_as_needed() -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        patch.setattr(silo.devices, "DEVICES", Path(place))
        bare = Machine(2)
        assert not use_device("auto", bare)
        assert bare.asked == [], "without a GPU's node CUDA is not started"
        (Path(place) / "nvidia0").touch()
        for wanted in ("auto", "gpu"):
            machine = Machine(2)
            assert use_device(wanted, machine)
            assert machine.asked == ["look", (["GPU:0"], "GPU"), ("GPU:0", True), "start GPU"]
        hidden = Machine(2)
        assert not use_device("cpu", hidden)
        assert hidden.asked == []
        assert not use_device("auto", Machine(0))
        with pytest.raises(WorkError, match="set to train on a GPU, and TensorFlow finds none"):
            use_device("gpu")  # this TensorFlow, which sees none: CUDA is hidden from it


def check_float32_is_not_tensorfloat32() -> None:
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


# -- the flat vector


def check_the_flat_vector_goes_round() -> None:
    model = federated(network())
    assert model.size == FEATURES * 7 + 7 + 7 + 1
    weights = noisy(model.get())
    model.set(weights)
    np.testing.assert_array_equal(model.get(), weights)
    assert model.get().dtype == np.float32
    model.set(weights[::-1])
    np.testing.assert_array_equal(model.get(), weights[::-1])


def check_the_flat_vector_is_in_the_order_of_its_shapes() -> None:
    model = federated(network())
    shapes = json.loads(model.shapes)
    assert [entry["shape"] for entry in shapes] == [[FEATURES, 7], [7], [7, 1], [1]]
    assert [entry["name"].rpartition("/")[2] for entry in shapes] == ["kernel", "bias", "kernel", "bias"]
    weights, start = noisy(model.get()), 0
    model.set(weights)
    for array, entry in zip(model._model.get_weights(), shapes, strict=True):
        size = int(np.prod(entry["shape"]))
        np.testing.assert_array_equal(array, weights[start : start + size].reshape(entry["shape"]))
        start += size
    assert start == model.size


def normalised(features: int) -> Any:
    layers = [keras.Input((features,)), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(4)]
    model = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="binary_crossentropy")
    return model


def check_weights_that_are_not_trained_travel_too() -> None:
    model = federated(normalised, mu=1.0)
    names = [entry["name"].rpartition("/")[2] for entry in json.loads(model.shapes)]
    assert names == ["gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias", "kernel", "bias"]
    weights = np.abs(noisy(model.get()))
    model.set(weights)
    np.testing.assert_array_equal(model.get(), weights)
    view = view_of(64)
    after = round_of(model, weights, view)
    mean = slice(2 * FEATURES, 3 * FEATURES)
    assert not np.array_equal(after[mean], weights[mean]), "the moving mean moves"
    assert np.abs(after[mean]).max() < np.abs(weights[mean]).max(), "towards the rows' own"
    assert len(model.proximal_gradient()) == 6, "and is not pulled back"


def check_a_regulariser_of_the_model_is_trained_with() -> None:
    def regularised(features: int) -> Any:
        dense = keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=keras.regularizers.L2(5.0))
        model = keras.Sequential([keras.Input((features,)), dense])
        model.compile(optimizer=keras.optimizers.SGD(0.05), loss="binary_crossentropy")
        return model

    view = view_of(96)
    model = federated(regularised, epochs=20)
    found = round_of(model, noisy(model.get()), view)
    assert np.abs(found[:FEATURES]).max() < 0.1, "a strong regulariser draws the kernel to zero"


def check_a_model_that_is_not_yet_built_is_built() -> None:
    def lazy(features: int) -> Any:
        model = keras.Sequential([keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer="sgd", loss="binary_crossentropy")
        return model

    model = federated(lazy)
    assert model.size == FEATURES + 1
    assert not np.array_equal(round_of(model, model.get(), view_of(32)), model.get() * 0)


# -- evaluation


def check_metrics_are_those_of_keras() -> None:
    view = view_of(40, 61)
    for loss in ("binary_crossentropy", "mse", keras.losses.BinaryFocalCrossentropy(gamma=1.5)):

        def build(features: int, loss: Any = loss) -> Any:
            model = network()(features)
            model.compile(optimizer="sgd", loss=loss, metrics=["accuracy", keras.metrics.AUC(num_thresholds=2000)])
            return model

        model = federated(build)
        weights = noisy(model.get())
        found = model.evaluate(weights, view, METRICS)
        reference = fresh(build, weights)
        expected = reference.evaluate(view.validation_x, view.validation_y, verbose=0, batch_size=64)
        np.testing.assert_allclose(found["loss"], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found["accuracy"], expected[1], rtol=1e-6)
        np.testing.assert_allclose(found["auc"], expected[2], atol=5e-3)
        assert found["num_examples"] == 40.0


def check_metrics_are_those_of_the_model_at_rest() -> None:
    """Dropout does nothing and batch normalisation uses its moving averages, as for keras' own evaluation."""

    def build(features: int) -> Any:
        inner = [keras.layers.BatchNormalization(), keras.layers.Dense(9, activation="relu"), keras.layers.Dropout(0.5)]
        model = keras.Sequential([keras.Input((features,)), *inner, keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer="sgd", loss="binary_crossentropy")
        return model

    view = view_of(40, 61)
    model = federated(build)
    weights = np.abs(noisy(model.get()))
    found = model.evaluate(weights, view, ("loss",))["loss"]
    expected = fresh(build, weights).evaluate(view.validation_x, view.validation_y, verbose=0, batch_size=64)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(model.get(), weights)


def check_only_the_metrics_asked_for_are_given() -> None:
    view = view_of(40)
    model = federated(network())
    assert list(model.evaluate(model.get(), view, ("auc", "loss"))) == ["auc", "loss"]
    assert model.evaluate(model.get(), view, ()) == {}
    one_class = PolicyView(view.train_x, view.train_y, view.validation_x, np.zeros_like(view.validation_y), 0, "")
    assert sorted(model.evaluate(model.get(), one_class, METRICS)) == ["accuracy", "loss", "num_examples"]
    every = tuple(name for name in get_args(Metric) if name not in OWN_METRICS)
    assert tuple(model.evaluate(model.get(), view, every)) == every
    without = {"auc", "pr_auc", "calibration_slope"}
    assert set(every) - set(model.evaluate(model.get(), one_class, every)) == without


def check_evaluation_changes_nothing() -> None:
    view = view_of(64)
    model = federated(normalised, mu=0.1)
    start = model.get()
    first = round_of(model, start, view)
    model.evaluate(noisy(start), view, METRICS)
    np.testing.assert_array_equal(round_of(model, start, view), first)


# -- what an app can do wrong


def refused(builder: Callable[[int], Any]) -> str:
    with pytest.raises(AppError) as raised:
        federated(builder)
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)


def check_a_model_that_is_not_compiled_is_refused() -> None:
    def bare(features: int) -> Any:
        return keras.Sequential([keras.Input((features,)), keras.layers.Dense(1)])

    assert refused(bare) == "the app's model is not compiled, expected an optimizer and a loss"


def check_a_model_of_another_output_is_refused() -> None:
    def wide(features: int) -> Any:
        model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(2)])
        model.compile(optimizer="sgd", loss="mse")
        return model

    assert refused(wide) == "the app's model has output (None, 2), expected one probability a row"


def check_a_builder_that_raises_is_named_without_its_words() -> None:
    def broken(features: int) -> Any:
        raise KeyError("SECRET")

    assert refused(broken) == "the app's model builder raised KeyError"
    assert refused(lambda features: {"SECRET": 1}) == ("the app's model builder returned dict, expected a keras.Model")


def check_a_model_without_a_single_loss_is_refused() -> None:
    for loss in (None, ["binary_crossentropy"], {"dense": "binary_crossentropy"}):

        def build(features: int, loss: Any = loss) -> Any:
            model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, name="dense")])
            model.compile(optimizer="sgd", loss=loss)
            return model

        assert "has no single loss" in refused(build), loss


def serve() -> None:
    """Run the checks whose names come in, each answered by one line."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            globals()[line.strip()]()
            said = {"problem": None}
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  whatever goes wrong is the check's result
            said = {"problem": traceback.format_exc()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    serve()
