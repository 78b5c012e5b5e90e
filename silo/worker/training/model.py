"""A Keras model as one flat vector of float32, and the training of FedProx on it.

All epochs of a round run inside one TensorFlow graph: Keras' Python per batch costs several times the arithmetic for
models of tabular data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federation.run import LocalWork
from federation.wire import Weights
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError, kind_of
from silo.worker.metrics import accuracy, auc


class FederatedModel:
    """A compiled Keras model, trained on a policy view."""

    def __init__(self, builder: Callable[[int], Any], features: int, seed: int, mu: float, work: LocalWork) -> None:
        keras.utils.set_random_seed(seed)
        try:
            model = builder(features)
        except Exception as error:  # noqa: BLE001  submitted code may raise anything
            raise AppError(f"the app's model builder raised {kind_of(error)}") from None
        if not isinstance(model, keras.Model):
            raise AppError(f"the app's model builder returned {type(model).__name__}, expected a keras.Model")
        if not model.compiled or model.optimizer is None:
            raise AppError("the app's model is not compiled, expected an optimizer and a loss")
        if not model.built:
            model.build((None, features))
        if tuple(model.output_shape) != (None, 1):
            raise AppError(f"the app's model has output {model.output_shape}, expected one probability a row")
        self._model = model
        self._mu = mu
        self._held: Weights | None = None
        self._work = work
        self._variables = [variable for variable in model.weights if _is_float32(variable)]
        self._shapes = [tuple(variable.shape) for variable in self._variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._loss = _per_example(model.loss)
        model.optimizer.build(model.trainable_variables)
        self._optimizer_start = [variable.numpy() for variable in model.optimizer.variables]
        self._anchors = [tf.Variable(variable.value, trainable=False) for variable in model.trainable_variables]
        self._epochs = tf.function(self._train_steps, reduce_retracing=True)
        self._predict = tf.function(lambda rows: model(rows, training=False), reduce_retracing=True)

    @property
    def size(self) -> int:
        """The number of float32 values."""
        return sum(self._sizes)

    @property
    def shapes(self) -> str:
        """Names and dimensions of the weight arrays, as JSON, in the order of the flat vector."""
        named = zip(self._variables, self._shapes, strict=True)
        return json.dumps([{"name": variable.path, "shape": list(shape)} for variable, shape in named])

    def get(self) -> Weights:
        """The weights as one flat float32 vector."""
        out = np.empty(self.size, dtype=np.float32)
        start = 0
        for variable, size in zip(self._variables, self._sizes, strict=True):
            out[start : start + size] = variable.numpy().ravel()
            start += size
        return out

    def set(self, weights: Weights) -> None:
        """Take over a flat float32 vector; nothing is done where the model already holds this very vector."""
        if weights is self._held:
            return
        self._held = weights
        start = 0
        for variable, size, shape in zip(self._variables, self._sizes, self._shapes, strict=True):
            variable.assign(weights[start : start + size].reshape(shape))
            start += size

    def train(self, weights: Weights, view: PolicyView, order: npt.NDArray[np.int32]) -> Weights:
        """Train from `weights` on rows in the given order, (steps, batch size) row numbers, -1 for no row.

        The objective is the mean loss of a batch plus (mu/2) * ||w - w_t||^2 over all trainable weights (Li et al.,
        MLSys 2020, equation 2), w_t being the weights given; with mu = 0 it is FedAvg's.
        """
        self.set(weights)
        for variable, start in zip(self._model.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(start)
        for anchor, variable in zip(self._anchors, self._model.trainable_variables, strict=True):
            anchor.assign(variable.value)
        self._held = None
        self._epochs(tf.constant(view.train_x), tf.constant(view.train_y), tf.constant(order))
        return self.get()

    def evaluate(self, weights: Weights, view: PolicyView, names: tuple[str, ...]) -> dict[str, float]:
        """The named metrics of `weights` on the validation rows; AUC is left out where a class is absent there.

        The loss is the mean over rows, without the model's regularisers.
        """
        self.set(weights)
        scores = self._predict(tf.constant(view.validation_x))
        losses = self._loss(tf.constant(view.validation_y), scores)
        found: dict[str, float | None] = {
            "loss": float(tf.reduce_mean(losses)),
            "auc": auc(view.validation_y, scores.numpy()),
            "accuracy": accuracy(view.validation_y, scores.numpy()),
            "num_examples": float(len(view.train_x)),
        }
        return {name: value for name in names if (value := found[name]) is not None}

    def proximal_gradient(self) -> list[Any]:
        """Mu * (w - w_t) for each trainable weight, w_t being the weights the current round began with."""
        pairs = zip(self._model.trainable_variables, self._anchors, strict=True)
        return [self._mu * (variable.value - anchor) for variable, anchor in pairs]

    def _train_steps(self, rows: Any, labels: Any, order: Any) -> None:
        trainable = self._model.trainable_variables
        for step in tf.range(tf.shape(order)[0]):
            index = tf.boolean_mask(order[step], order[step] >= 0)
            with tf.GradientTape() as tape:
                scores = self._model(tf.gather(rows, index), training=True)
                losses = self._loss(tf.gather(labels, index), scores)
                loss = tf.reduce_mean(losses)
                if self._model.losses:
                    loss += tf.add_n(self._model.losses)
            values = [variable.value for variable in trainable]
            gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            if self._mu:
                gradients = [g + p for g, p in zip(gradients, self.proximal_gradient(), strict=True)]
            self._model.optimizer.apply(gradients, trainable)


def batches(rows: int, work: LocalWork, seed: int, silo_round: int) -> npt.NDArray[np.int32]:
    """The order in which a round visits the training rows: a permutation an epoch, the last batch filled with -1.

    Shape (epochs * batches an epoch, batch size); a batch size above the number of rows is cut to it.
    """
    generator = np.random.default_rng([seed, silo_round])
    size = min(work.batch_size, rows)
    steps = -(-rows // size)
    order = np.full((work.epochs, steps * size), -1, dtype=np.int32)
    for epoch in range(work.epochs):
        order[epoch, :rows] = generator.permutation(rows)
    return order.reshape(work.epochs * steps, size)


def configure(threads: int | None) -> None:
    """Set TensorFlow up once a process: its number of threads, and the same bits for the same input."""
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()


def _is_float32(variable: Any) -> bool:
    return str(variable.dtype) == "float32"


def _per_example(loss: Any) -> Callable[[Any, Any], Any]:
    """The loss of each row, unreduced, from what a Keras model was compiled with."""
    resolved = None if isinstance(loss, list | tuple | dict) else keras.losses.get(loss)
    if resolved is None:
        raise AppError("the app's model has no single loss, expected one such as binary_crossentropy")
    if isinstance(resolved, keras.losses.Loss):
        return resolved.call  # type: ignore[no-any-return]
    return resolved  # type: ignore[no-any-return]
