"""A Keras model as one flat vector of float32, and the training of FedProx on it.

All epochs of a round run inside one TensorFlow graph: Keras' Python per batch costs several times the arithmetic for
models of tabular data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federation.run import LocalWork, Precision, Run
from federation.wire import Weights
from silo.randomness import SecureStream
from silo.worker.ahead import ahead
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError, WorkError, kind_of, name_of
from silo.worker.metrics import MEASURES
from silo.worker.training.class_weights import Wanted, WeightedLoss, weights_of
from silo.worker.training.correction import Correction
from silo.worker.training.pace import Pace
from silo.worker.training.perexample import ClippedSum, clipped_sum_of, is_ghost
from silo.worker.training.precision import check_output, check_unscaled, computing_in
from silo.worker.training.randomness import poisson_steps

_LARGE = 1 << 16
"""From this many weights on, rows that only fill a batch up cost more than a batch whose shape is not known."""
_NOISE_VALUES = 1 << 22
"""Noise values in a block, of which two are there at a time: 16 MiB. A block is made while the one before is used."""


@dataclass(frozen=True)
class Privacy:
    """How the steps of a round are made private: what the gate debits, and so what must be done.

    `sampling_rate` is each row's chance to be in a step, `noise_multiplier` the noise's standard deviation in units of
    `clip_norm`, the bound on each example's gradient (L2, over all trainable weights).
    """

    sampling_rate: float
    noise_multiplier: float
    clip_norm: float
    steps: int


class FederatedModel:
    """A compiled Keras model, trained on a policy view.

    With `private`, a model that example-level privacy cannot be given to is refused (AppError), with `corrected` one
    that SCAFFOLD's correction cannot; `outputs` is the width of its output. `class_weights` weigh the loss of each row
    in training, `precision` is what layers compute in.
    """

    def __init__(
        self,
        builder: Callable[[int], Any],
        features: int,
        seed: int,
        mu: float,
        work: LocalWork,
        *,
        private: bool = False,
        corrected: bool = False,
        outputs: int = 1,
        class_weights: Wanted | None = None,
        precision: Precision = "float32",
    ) -> None:
        keras.utils.set_random_seed(seed)
        with computing_in(precision):
            model = _built(builder, features)
        shape = tuple(model.output_shape)
        if shape != (None, outputs):
            said = shape if all(one is None or type(one) is int for one in shape) else "of another form"
            raise AppError(f"the app's model has output {said}, expected one probability a row")
        if precision != "float32":
            check_output(model, features)
        self._model = model
        self._mu = self._round_mu = mu
        self._held: Weights | None = None
        self._view: PolicyView | None = None
        self._work = work
        self._variables = [variable for variable in model.weights if _is_float32(variable)]
        self._shapes = [tuple(variable.shape) for variable in self._variables]
        self._sizes = [int(np.prod(shape, dtype=np.int64)) for shape in self._shapes]
        self._loss = _per_example(model.loss)
        self._class_weights = class_weights
        self._weighted = None if class_weights is None else WeightedLoss(self._loss, outputs)
        self._training_loss = self._weighted or self._loss
        self._initial = self.get()
        self._seeds = [(state, state.numpy()) for state in _seed_states(model)]
        model.optimizer.build(model.trainable_variables)
        self._optimizer_start = [variable.numpy() for variable in model.optimizer.variables]
        self._anchors = [tf.Variable(variable.value, trainable=False) for variable in model.trainable_variables]
        self._correction = Correction(model) if corrected else None
        self._clipped_sum: ClippedSum | None = clipped_sum_of(model, self._training_loss) if private else None
        self._epochs = _graph(self._train_steps)
        self._cuts = private and is_ghost(model, self._training_loss) and self.size >= _LARGE
        self._private_epochs: dict[int, Any] = {}
        """A graph for each width of batch that occurs: a batch of known shape takes a third less time."""
        self._predict = _graph(lambda rows: model(rows, training=False))

    @classmethod
    def of(
        cls, run: Run, builder: Callable[[int], Any], features: int | None = None, outputs: int = 1
    ) -> FederatedModel:
        """The model that a run trains; `features` where they are not those the run names."""
        strategy = run.strategy
        return cls(
            builder,
            len(run.features) if features is None else features,
            run.seed,
            strategy.mu,
            strategy.local,
            private=run.example_dp,
            corrected=strategy.name == "scaffold",
            outputs=outputs,
            class_weights=run.class_weights,
            precision=run.precision,
        )

    @property
    def size(self) -> int:
        """The number of float32 values."""
        return sum(self._sizes)

    @property
    def learning_rate(self) -> float | None:
        """The constant rate of a model that is trained with SCAFFOLD's correction; else None."""
        return None if self._correction is None else self._correction.learning_rate

    @property
    def shapes(self) -> str:
        """Names and dimensions of the weight arrays, as JSON, in the order of the flat vector."""
        return json.dumps([{"name": name, "shape": list(shape)} for name, shape in self.layers])

    @property
    def layers(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and dimensions of the weight arrays."""
        return [(variable.path, shape) for variable, shape in zip(self._variables, self._shapes, strict=True)]

    def save(self, path: Path) -> None:
        """Write the model with the weights it holds as a Keras file."""
        self._model.save(path)

    def get(self) -> Weights:
        """The weights as one flat float32 vector."""
        out = np.empty(self.size, dtype=np.float32)
        start = 0
        for variable, size in zip(self._variables, self._sizes, strict=True):
            out[start : start + size] = variable.numpy().ravel()
            start += size
        return out

    def get_initial(self) -> Weights:
        """The weights the builder made under the run's seed."""
        return self._initial

    def set(self, weights: Weights) -> None:
        """Take over a flat float32 vector; nothing is done where the model already holds this very vector."""
        if weights is self._held:
            return
        self._held = weights
        start = 0
        for variable, size, shape in zip(self._variables, self._sizes, self._shapes, strict=True):
            variable.assign(weights[start : start + size].reshape(shape))
            start += size

    def at_round(self, number: int) -> None:
        """Seed what the model draws at random, such as dropout, by the run and the round.

        So a round is the same bits wherever and however often it is trained.
        """
        for state, start in self._seeds:
            drawn = np.random.SeedSequence([*map(int, start.ravel()), number]).generate_state(start.size)
            state.assign(drawn.reshape(start.shape).astype(start.dtype))

    def train(
        self, weights: Weights, view: PolicyView, order: npt.NDArray[np.int32], mu: float | None = None
    ) -> Weights:
        """Train from `weights` on rows in the given order, (steps, batch size) row numbers, -1 for no row.

        The objective is the mean loss of a batch plus (mu/2) * ||w - w_t||^2 over all trainable weights (Li et al.,
        MLSys 2020, equation 2), w_t being the weights given; with mu = 0 it is FedAvg's. `mu` is that of the round,
        where it changes from round to round.
        """
        return self.work(weights, view, order, Pace(), mu)[0]

    def work(
        self,
        weights: Weights,
        view: PolicyView,
        order: npt.NDArray[np.int32],
        pace: Pace,
        mu: float | None = None,
        correction: Weights | None = None,
    ) -> tuple[Weights, int]:
        """Train as far as the time allows; returns the weights and the number of steps done, at least one.

        Partial work is of use as it is (the inexact solutions of FedProx, Li et al., section 3.2). `correction`, shape
        (values,), is added to each step's gradient where the model was made for it.
        """
        self._begin(weights, mu, correction)
        rows, labels = self._tensors(view)
        factor = tf.constant(self._round_mu, tf.float32)
        for start, end in pace.chunks(len(order)):
            for part in _by_fullness(order[start:end]):
                full = bool(part[0, -1] >= 0)
                self._epochs(rows, labels, tf.constant(part), factor, proximal=self._round_mu > 0, full=full)
        return self.get(), pace.done

    def work_privately(
        self,
        weights: Weights,
        view: PolicyView,
        privacy: Privacy,
        pace: Pace,
        mu: float | None = None,
        stream: SecureStream | None = None,
        correction: Weights | None = None,
    ) -> tuple[Weights, int]:
        """Train with DP-SGD (Abadi et al., CCS 2016), as `work` does without; `stream` is given by tests alone.

        Each step takes each row on its own with the sampling rate, clips each row's gradient, adds Gaussian noise to
        their sum and divides by the expected number of rows. Regularisers, the proximal term and a correction do not
        depend on the rows and are added to the result. A row with a value that is not finite is read as zeros. Raises
        WorkError where training changed a weight that is not trained, as such a weight would carry examples out
        unclipped.
        """
        self._begin(weights, mu, correction)
        before = [variable.numpy() for variable in self._untrained()]
        stream = stream or SecureStream()
        rows, labels = self._tensors(view)
        taken = poisson_steps(stream, len(view.train_x), privacy.sampling_rate, privacy.steps)
        cut = self._cuts
        width = 0 if cut else taken.shape[1]
        if width not in self._private_epochs:
            self._private_epochs[width] = _graph(self._private_steps)
        graph = self._private_epochs[width]
        values = sum(int(np.prod(variable.shape)) for variable in self._model.trainable_variables)
        expected = privacy.sampling_rate * len(view.train_x)
        deviation = privacy.noise_multiplier * privacy.clip_norm
        scale = tuple(tf.constant(value, tf.float32) for value in (privacy.clip_norm, 1 / expected, self._round_mu))
        most = max(1, _NOISE_VALUES // values)
        sizes = [min(most, privacy.steps - start) for start in range(0, privacy.steps, most)]
        with closing(ahead(self._noise(stream, deviation / expected, size) for size in sizes)) as blocks:
            for start, end in pace.chunks(privacy.steps, most):
                if start % most == 0:
                    block = next(blocks)
                noise = [tf.constant(one[start % most :][: end - start]) for one in block]
                index = tf.constant(taken[start:end])
                graph(rows, labels, index, noise, scale, proximal=self._round_mu > 0, cut=cut)
        after = [variable.numpy() for variable in self._untrained()]
        if any(not np.array_equal(one, two) for one, two in zip(before, after, strict=True)):
            raise WorkError("the app's model changes weights that are not trained, which no privacy bound covers")
        return self.get(), pace.done

    def _begin(self, weights: Weights, mu: float | None, correction: Weights | None) -> None:
        """Start a round: the weights given, a fresh optimizer, w_t where the proximal term pulls to, a correction."""
        self.set(weights)
        if self._correction is not None:
            self._correction.set(correction, self._variables)
        for variable, start in zip(self._model.optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(start)
        for anchor, variable in zip(self._anchors, self._model.trainable_variables, strict=True):
            anchor.assign(variable.value)
        self._held = None
        self._round_mu = self._mu if mu is None else mu

    def _tensors(self, view: PolicyView) -> tuple[Any, Any]:
        """A view's training rows and labels as tensors, kept for the next round; private, what is not finite is 0."""
        if self._view is not view:
            rows = view.train_x
            if self._clipped_sum is not None:
                rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.float32(0))
            self._view, self._rows = view, (tf.constant(rows), tf.constant(view.train_y))
            if self._weighted is not None and self._class_weights is not None:
                self._weighted.set(weights_of(self._class_weights, view.train_y))
        return self._rows

    def _untrained(self) -> list[Any]:
        trained = {id(variable) for variable in self._model.trainable_variables}
        return [variable for variable in self._variables if id(variable) not in trained]

    def evaluate(self, weights: Weights, view: PolicyView, names: tuple[str, ...]) -> dict[str, float]:
        """The named metrics of `weights` on the validation rows; one that these rows do not give is left out.

        The loss is the mean over rows, without the model's regularisers and class weights.
        """
        self.set(weights)
        scores = self._predict(tf.constant(view.validation_x))
        labels, probabilities = view.validation_y, scores.numpy()

        def measured(name: str) -> float | None:
            if name == "loss":
                return float(tf.reduce_mean(self._loss(tf.constant(labels), scores)))
            return float(len(view.train_x)) if name == "num_examples" else MEASURES[name](labels, probabilities)

        return {name: value for name in names if (value := measured(name)) is not None}

    def predict(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The model's output for rows, with the weights it holds."""
        return self._predict(tf.constant(rows)).numpy()  # type: ignore[no-any-return]

    def proximal_gradient(self, mu: Any = None) -> list[Any]:
        """Mu * (w - w_t) for each trainable weight, w_t being the weights the current round began with."""
        pairs = zip(self._model.trainable_variables, self._anchors, strict=True)
        factor = self._mu if mu is None else mu
        return [factor * (variable.value - anchor) for variable, anchor in pairs]

    def _train_steps(self, rows: Any, labels: Any, order: Any, mu: Any, *, proximal: bool, full: bool) -> None:
        trainable = self._model.trainable_variables

        def one(step: Any) -> None:
            # A full batch has a shape that is known beforehand, which saves a third of a small model's time.
            index = order[step] if full else tf.boolean_mask(order[step], order[step] >= 0)
            with tf.GradientTape() as tape:
                scores = self._model(tf.gather(rows, index), training=True)
                losses = self._training_loss(tf.gather(labels, index), scores)
                loss = tf.reduce_mean(losses)
                if self._model.losses:
                    loss += tf.add_n(self._model.losses)
            values = [variable.value for variable in trainable]
            gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            if proximal:
                gradients = [g + p for g, p in zip(gradients, self.proximal_gradient(mu), strict=True)]
            if self._correction is not None:
                gradients = self._correction.added_to(gradients)
            self._model.optimizer.apply(gradients, trainable)

        _each(order, one)

    def _noise(self, stream: SecureStream, deviation: float, steps: int) -> list[npt.NDArray[np.float32]]:
        """Noise for each trainable weight, shape (steps, its shape)."""
        shapes = [(steps, *variable.shape) for variable in self._model.trainable_variables]
        return [stream.normal(math.prod(shape), deviation).reshape(shape) for shape in shapes]

    def _private_steps(
        self, rows: Any, labels: Any, order: Any, noise: Any, scale: Any, *, proximal: bool, cut: bool
    ) -> None:
        """With `cut` a step takes the rows it drew; else as many as the widest, those that fill it up counting 0."""
        clipped_sum = self._clipped_sum
        assert clipped_sum is not None  # noqa: S101  work_privately is for a model made private
        bound, share, mu = scale
        trainable = self._model.trainable_variables
        drawn = tf.reduce_sum(tf.cast(order >= 0, tf.int32), axis=1)
        weights = tf.where(order >= 0, share, 0.0)
        order = tf.maximum(order, 0)

        def one(step: Any) -> None:
            first = tf.reshape(step, [1])
            row = partial(tf.strided_slice, begin=first, end=first + 1, strides=[1], shrink_axis_mask=1)
            taken, weight = row(order), row(weights)
            if cut:
                taken, weight = taken[: row(drawn)], share
            sums = clipped_sum(tf.gather(rows, taken), tf.gather(labels, taken), weight, bound)
            gradients = [total + row(part) for total, part in zip(sums, noise, strict=True)]
            gradients = self._with_regularisers(gradients)
            if proximal:
                gradients = [g + p for g, p in zip(gradients, self.proximal_gradient(mu), strict=True)]
            if self._correction is not None:
                gradients = self._correction.added_to(gradients)
            self._model.optimizer.apply(gradients, trainable)

        _each(order, one)

    def _with_regularisers(self, gradients: list[Any]) -> list[Any]:
        """Add the gradients of the model's weight regularisers, which no example enters."""
        out = []
        for variable, gradient in zip(self._model.trainable_variables, gradients, strict=True):
            if variable.regularizer is None:
                out.append(gradient)
                continue
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                value = tf.convert_to_tensor(variable.value)
                tape.watch(value)
                penalty = variable.regularizer(value)
            out.append(gradient + tape.gradient(penalty, value))
        return out


def _graph(function: Callable[..., Any]) -> Any:
    """A graph of a function without Python's control flow on tensors: to look for that is half the time of tracing."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def _each(order: Any, one: Callable[[Any], None]) -> None:
    """Do one step after the other, in a graph, as many as the order has rows."""
    steps = tf.shape(order)[0]

    def body(step: Any) -> tuple[Any]:
        one(step)
        return (step + 1,)

    tf.while_loop(lambda step: step < steps, body, (tf.constant(0),), maximum_iterations=steps)


def _built(builder: Callable[[int], Any], features: int) -> Any:
    """The app's model, compiled and built; raises AppError."""
    try:
        model = builder(features)
    except Exception as error:  # noqa: BLE001  submitted code may raise anything
        raise AppError(f"the app's model builder raised {kind_of(error)}") from None
    if not isinstance(model, keras.Model):
        raise AppError(f"the app's model builder returned {name_of(type(model))}, expected a keras.Model")
    if not model.compiled or model.optimizer is None:
        raise AppError("the app's model is not compiled, expected an optimizer and a loss")
    check_unscaled(model.optimizer)
    if not model.built:
        model.build((None, features))
    return model


def batches(rows: int, work: LocalWork, seed: int, silo_round: int) -> npt.NDArray[np.int32]:
    """The order in which a round visits the training rows: a permutation an epoch, the last batch filled with -1.

    Shape (steps, batch size); the steps are those of `work.epochs`, or as many as `work.steps` says. A batch size above
    the number of rows is cut to it.
    """
    generator = np.random.default_rng([seed, silo_round])
    size = min(work.batch_size, rows)
    an_epoch = -(-rows // size)
    epochs = work.epochs if work.steps is None else -(-work.steps // an_epoch)
    order = np.full((epochs, an_epoch * size), -1, dtype=np.int32)
    for epoch in range(epochs):
        order[epoch, :rows] = generator.permutation(rows)
    return order.reshape(epochs * an_epoch, size)[: work.steps]


def _by_fullness(order: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int32]]:
    """Cut steps where full batches end and partial ones begin, and back."""
    full = order[:, -1] >= 0
    return np.split(order, np.flatnonzero(full[1:] != full[:-1]) + 1)


def configure(threads: int | None) -> None:
    """Set TensorFlow up once a process: its number of threads, and the same bits for the same input.

    float32 is float32: without TF32, in which a GPU would multiply with ten bits of mantissa.
    """
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)


def _seed_states(model: Any) -> list[Any]:
    """The states of the model's random generators."""
    found = (variable for variable in model.variables if variable.path.endswith("seed_generator_state"))
    return [variable for variable in found if str(variable.dtype).startswith(("uint", "int"))]


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
