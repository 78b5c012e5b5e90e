"""Class weights, precision and the device that a model is trained on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from training_models import (
    FEATURES,
    federated,
    flat,
    fresh,
    logistic,
    network,
    noisy,
    refused,
    round_of,
    view_of,
)

import silo.devices
from federation.run import ClassWeights, LocalWork
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError, WorkError
from silo.worker.training.devices import use_device
from silo.worker.training.model import FederatedModel
from silo.worker.training.pace import Pace

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
