"""SCAFFOLD's correction: a constant vector added to each step's gradient (Karimireddy et al., ICML 2020, line 10).

A silo's control variate is the mean gradient of its steps, read off the weights it began and ended with. That holds
for plain SGD at a constant rate on weights that are all trained; every other model is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from federation.wire import Weights
from silo.worker.errors import AppError, name_of

_OPTIMIZERS = tuple((kind, name) for name, kind in vars(keras.optimizers).items() if isinstance(kind, type))
_OFF = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor", "gradient_accumulation_steps")
"""Settings of a Keras optimizer that make a step something other than rate times gradient."""


class Correction:
    """The correction of one compiled model; raises AppError for a model that cannot be corrected."""

    def __init__(self, model: Any) -> None:
        self.learning_rate = constant_rate(model)
        self._trainable = list(model.trainable_variables)
        self._values = [tf.Variable(tf.zeros_like(variable.value), trainable=False) for variable in self._trainable]

    def set(self, correction: Weights | None, variables: Sequence[Any]) -> None:
        """Take the correction of a round, flat in the order of `variables`; zero without one."""
        places = {id(variable): value for variable, value in zip(self._trainable, self._values, strict=True)}
        start = 0
        for variable in variables:
            size, shape = int(np.prod(variable.shape, dtype=np.int64)), tuple(variable.shape)
            value = places[id(variable)]
            part = np.zeros(shape, np.float32) if correction is None else correction[start : start + size]
            value.assign(part.reshape(shape))
            start += size

    def added_to(self, gradients: Sequence[Any]) -> list[Any]:
        """The gradients plus the correction."""
        return [gradient + value for gradient, value in zip(gradients, self._values, strict=True)]


def constant_rate(model: Any) -> float:
    """The rate of a model that is trained by plain SGD at a constant rate; raises AppError for any other."""
    optimizer = model.optimizer
    if type(optimizer) is not keras.optimizers.SGD or optimizer.momentum != 0:
        kind = name_of(type(optimizer), _OPTIMIZERS, "an optimizer of its own")
        kind += " with momentum" if type(optimizer) is keras.optimizers.SGD else ""
        raise AppError(f"the app's model is trained by {kind}, expected keras.optimizers.SGD alone with scaffold")
    for name in _OFF:
        if getattr(optimizer, name) is not None:
            raise AppError(f"the app's optimizer has {name}, expected plain SGD with scaffold")
    if optimizer.use_ema:
        raise AppError("the app's optimizer has use_ema, expected plain SGD with scaffold")
    if not isinstance(optimizer._learning_rate, keras.Variable):  # the property hides a schedule
        raise AppError("the app's learning rate changes, expected a constant one with scaffold")
    rate = float(optimizer.learning_rate.numpy())
    if not 0 < rate < float("inf"):
        raise AppError(f"the app's learning rate is {rate:g}, expected one above 0 with scaffold")
    trained = {id(variable) for variable in model.trainable_variables}
    if trained != {id(variable) for variable in model.weights if str(variable.dtype) == "float32"}:
        raise AppError("the app's model has weights that are not trained, expected none with scaffold")
    if any(variable.constraint is not None for variable in model.trainable_variables):
        raise AppError("the app's model constrains its weights, expected no constraint with scaffold")
    return rate
