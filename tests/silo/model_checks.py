"""A model as it travels, as it is evaluated, and as an app must not make it."""

from __future__ import annotations

import json
from typing import Any, get_args

import keras
import numpy as np
from training_models import (
    FEATURES,
    METRICS,
    federated,
    fresh,
    network,
    noisy,
    normalised,
    refused,
    round_of,
    view_of,
)

from federation.run import OWN_METRICS, Metric
from silo.worker.data.view import PolicyView

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


def check_no_name_that_an_app_chose_is_told() -> None:
    """A class or a property may be named like a value of the data while the app runs."""

    class Told(keras.Sequential):
        output_shape = ("SECRET",)

    def shaped(features: int) -> Any:
        model = Told([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer="sgd", loss="binary_crossentropy")
        return model

    said = [refused(shaped), refused(lambda features: type("SECRET", (), {})()), refused(lambda features: None)]
    assert said == [
        "the app's model has output of another form, expected one probability a row",
        "the app's model builder returned something else, expected a keras.Model",
        "the app's model builder returned NoneType, expected a keras.Model",
    ]


def check_a_model_without_a_single_loss_is_refused() -> None:
    for loss in (None, ["binary_crossentropy"], {"dense": "binary_crossentropy"}):

        def build(features: int, loss: Any = loss) -> Any:
            model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, name="dense")])
            model.compile(optimizer="sgd", loss=loss)
            return model

        assert "has no single loss" in refused(build), loss
