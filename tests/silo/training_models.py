"""Models and rows for the checks that need TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from federation.run import LocalWork
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError
from silo.worker.training.model import FederatedModel, batches

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


def normalised(features: int) -> Any:
    layers = [keras.Input((features,)), keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(4)]
    model = keras.Sequential([*layers, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="binary_crossentropy")
    return model


def refused(builder: Callable[[int], Any]) -> str:
    with pytest.raises(AppError) as raised:
        federated(builder)
    assert "SECRET" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)
