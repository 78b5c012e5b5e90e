"""Sums of per-example gradients, each clipped to an L2 norm over all trainable weights (Abadi et al., CCS 2016).

For a chain of Keras' own layers no per-example gradient is ever formed: one forward and one backward pass give each
weighted layer's inputs and the gradients at its output, from which follow both the norms of the per-example gradients
(Goodfellow 2015; for convolutions Bu, Mao and Xu, NeurIPS 2022) and their clipped sum. Any other model is
differentiated one example at a time, vectorised over the batch; there an example cannot meet another, whatever the
layers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from silo.worker.errors import AppError
from silo.worker.training.class_weights import WeightedLoss

ClippedSum = Callable[[Any, Any, Any, float], list[Any]]
"""(rows, labels, a weight a row, bound) -> for each trainable variable, the weighted sum of clipped gradients."""

_MIXING = ("BatchNormalization", "SpectralNormalization", "SyncBatchNormalization")
_PASSING = frozenset(
    getattr(keras.layers, name)
    for name in (
        "Activation", "AveragePooling2D", "Dropout", "ELU", "Flatten", "GlobalAveragePooling1D",
        "GlobalAveragePooling2D", "GlobalMaxPooling2D", "InputLayer", "LeakyReLU", "MaxPooling2D", "Normalization",
        "ReLU", "Rescaling", "Reshape", "Softmax", "ZeroPadding2D",
    )
)  # fmt: skip
"""Layers without trained weights that treat each example on its own."""


class Tracked:
    """One weighted layer in a forward pass: its inputs, and its output before the activation."""

    def __init__(self, layer: Any, inputs: Any, outputs: Any) -> None:
        self.layer, self.inputs, self.outputs = layer, inputs, outputs


def refuse_mixing(model: Any) -> None:
    """Raise AppError for a model in which one example's gradient holds others, or that keeps state of its examples."""
    for layer in model._flatten_layers(include_self=False):
        names = {kind.__name__ for kind in type(layer).__mro__}
        mixing = sorted(names & set(_MIXING))
        if mixing:
            raise AppError(
                f"the app's model has a {mixing[0]} layer, which mixes examples; privacy of single examples "
                "needs one that does not, such as LayerNormalization or GroupNormalization"
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise AppError("the app's model has an activity regulariser, which reads examples outside the clipped loss")


def clipped_sum_of(model: Any, loss: Callable[[Any, Any], Any]) -> ClippedSum:
    """The fastest exact way for this model; `loss` gives each row's loss, unreduced."""
    refuse_mixing(model)
    if is_ghost(model, loss):
        return lambda rows, labels, weights, bound: _chain_sum(model, loss, rows, labels, weights, bound)
    return lambda rows, labels, weights, bound: _vectorised_sum(model, loss, rows, labels, weights, bound)


def is_ghost(model: Any, loss: Callable[[Any, Any], Any]) -> bool:
    """Whether this model's per-example gradients need not be formed."""
    own = loss.loss if isinstance(loss, WeightedLoss) else loss
    return _is_chain(model) and _is_keras(own)


# -- a chain of known layers


def _is_keras(function: Any) -> bool:
    """Whether a loss or activation is Keras' own; an app's own could look across the batch."""
    owner = getattr(function, "__self__", None)
    wrapped = getattr(owner, "fn", None)  # Keras' wrapper of a function as a loss is its own, the function may not be
    if wrapped is not None and not _is_keras(wrapped):
        return False
    module = type(owner).__module__ if owner is not None else getattr(function, "__module__", "")
    return function is None or str(module).partition(".")[0] == "keras"


def _is_chain(model: Any) -> bool:
    if type(model) is not keras.Sequential or not model.built:
        return False
    rank = len(model.input_shape)
    for layer in model.layers:
        if layer.compute_dtype != "float32" or not _is_keras(getattr(layer, "activation", None)):
            return False
        if type(layer) not in _PASSING and not _weighs(layer, rank):
            return False
        rank = len(layer.output.shape)
    weighted = [layer for layer in model.layers if layer.trainable_variables]
    return len(model.trainable_variables) == sum(len(layer.trainable_variables) for layer in weighted)


def _weighs(layer: Any, rank: int) -> bool:
    """Whether the norms of a weighted layer's per-example gradients can be had without the gradients."""
    own = 1 + bool(getattr(layer, "use_bias", False))
    if type(layer) is keras.layers.Dense:
        return rank == 2 and len(layer.trainable_variables) in {0, own}
    if type(layer) is keras.layers.Conv2D:
        plain = layer.groups == 1 and layer.data_format == "channels_last" and layer.padding in {"valid", "same"}
        return rank == 4 and plain and len(layer.trainable_variables) in {0, own}
    if type(layer) is keras.layers.Embedding:
        return rank == 2 and not layer.mask_zero and len(layer.trainable_variables) in {0, 1}
    return False


def _forward(model: Any, tape: Any, rows: Any) -> tuple[Any, list[Tracked]]:
    tracked: list[Tracked] = []
    here = rows
    for layer in model.layers:
        if not layer.trainable_variables:
            here = layer(here, training=True)
            continue
        if type(layer) is keras.layers.Dense:
            out = tf.matmul(here, layer.kernel.value)
        elif type(layer) is keras.layers.Conv2D:
            out = tf.nn.convolution(
                here, layer.kernel.value, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate
            )
        else:
            here = tf.cast(here, tf.int32)
            out = tf.gather(layer.embeddings.value, here)
        if getattr(layer, "use_bias", False):
            out = tf.nn.bias_add(out, layer.bias.value)
        tape.watch(out)
        tracked.append(Tracked(layer, here, out))
        activation = getattr(layer, "activation", None)
        here = out if activation is None else activation(out)
    return here, tracked


def _chain_sum(model: Any, loss: Any, rows: Any, labels: Any, weights: Any, bound: float) -> list[Any]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        scores, tracked = _forward(model, tape, rows)
        losses = loss(labels, scores)
    gradients = tape.gradient(losses, [one.outputs for one in tracked])  # of their sum
    squares = tf.add_n([_squares(one, gradient) for one, gradient in zip(tracked, gradients, strict=True)])
    factors = weights * _shrink(squares, bound)
    by_variable: dict[int, Any] = {}
    shaped = {rank: tf.reshape(factors, [-1] + [1] * (rank - 1)) for rank in {len(one.shape) for one in gradients}}
    for one, gradient in zip(tracked, gradients, strict=True):
        scaled = gradient * shaped[len(gradient.shape)]
        for variable, value in zip(one.layer.trainable_variables, _sums(one, scaled), strict=True):
            by_variable[id(variable)] = value
    return [by_variable[id(variable)] for variable in model.trainable_variables]


def _shrink(squares: Any, bound: float) -> Any:
    """min(1, bound / norm) of each row; an example whose gradient is not finite counts nothing."""
    factor = tf.minimum(1.0, bound * tf.math.rsqrt(squares))  # of 0 it is infinity
    return tf.where(tf.math.is_finite(squares), factor, 0.0)


def _squares(one: Tracked, gradient: Any) -> Any:
    """The squared norm of each example's gradient with respect to a layer's weights."""
    layer = one.layer
    if type(layer) is keras.layers.Dense:
        inputs = tf.reduce_sum(one.inputs * one.inputs, axis=1)
        return (inputs + float(layer.use_bias)) * tf.reduce_sum(gradient * gradient, axis=1)
    if type(layer) is keras.layers.Conv2D:
        return _conv_squares(one, gradient)
    # The gradient of a token's row is the sum over its places: pairs of places with the same token count.
    same = tf.cast(tf.equal(one.inputs[:, :, None], one.inputs[:, None, :]), tf.float32)
    return tf.reduce_sum(same * tf.matmul(gradient, gradient, transpose_b=True), axis=[1, 2])


def _conv_squares(one: Tracked, gradient: Any) -> Any:
    layer = one.layer
    height, width = layer.kernel_size
    patches = tf.image.extract_patches(
        one.inputs,
        [1, height, width, 1],
        [1, *layer.strides, 1],
        [1, *layer.dilation_rate, 1],
        layer.padding.upper(),
    )
    places = gradient.shape[1] * gradient.shape[2]
    patches = tf.reshape(patches, [-1, places, patches.shape[3]])
    flat = tf.reshape(gradient, [-1, places, gradient.shape[3]])
    if places * places <= patches.shape[2] * flat.shape[2]:
        products = tf.matmul(patches, patches, transpose_b=True) * tf.matmul(flat, flat, transpose_b=True)
        squares = tf.reduce_sum(products, axis=[1, 2])
    else:
        kernels = tf.matmul(patches, flat, transpose_a=True)
        squares = tf.reduce_sum(kernels * kernels, axis=[1, 2])
    if layer.use_bias:
        bias = tf.reduce_sum(flat, axis=1)
        squares += tf.reduce_sum(bias * bias, axis=1)
    return squares


def _sums(one: Tracked, scaled: Any) -> list[Any]:
    """The sum over examples of a layer's gradients, given those at its output, already scaled."""
    layer = one.layer
    if type(layer) is keras.layers.Embedding:
        flat = tf.reshape(scaled, [-1, scaled.shape[-1]])
        return [tf.math.unsorted_segment_sum(flat, tf.reshape(one.inputs, [-1]), layer.input_dim)]
    if type(layer) is keras.layers.Dense:
        kernel = tf.matmul(one.inputs, scaled, transpose_a=True)
        axes = [0]
    else:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            weight = tf.convert_to_tensor(layer.kernel.value)
            tape.watch(weight)
            out = tf.nn.convolution(
                one.inputs, weight, layer.strides, layer.padding.upper(), dilations=layer.dilation_rate
            )
        kernel = tape.gradient(out, weight, output_gradients=scaled)
        axes = [0, 1, 2]
    return [kernel, tf.reduce_sum(scaled, axis=axes)] if layer.use_bias else [kernel]


# -- any other model


def _vectorised_sum(model: Any, loss: Any, rows: Any, labels: Any, weights: Any, bound: float) -> list[Any]:
    variables = [variable.value for variable in model.trainable_variables]

    def one(example: tuple[Any, Any]) -> list[Any]:
        row, label = example
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(label[None], model(row[None], training=True)))
        return tape.gradient(  # type: ignore[no-any-return]
            value, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    gradients = tf.vectorized_map(one, (rows, labels))
    flat = [tf.reshape(gradient, [tf.shape(gradient)[0], -1]) for gradient in gradients]
    squares = tf.add_n([tf.reduce_sum(part * part, axis=1) for part in flat])
    factors = weights * _shrink(squares, bound)
    out = []
    for variable, part in zip(variables, flat, strict=True):
        # 0 * inf is not a number: what is not finite is taken out before it is scaled away.
        finite = tf.where(tf.math.is_finite(part), part, tf.zeros_like(part))
        out.append(tf.reshape(tf.linalg.matvec(finite, factors, transpose_a=True), variable.shape))
    return out
