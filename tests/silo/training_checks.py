"""Checks of training, run by test_training.py in one process that has TensorFlow.

Started as a program it reads the name of a check a line and prints what came of it, as JSON, a line.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import keras
import numpy as np
import pytest
import tensorflow as tf

from federation.run import LocalWork
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError
from silo.worker.training.model import FederatedModel, batches, configure

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
