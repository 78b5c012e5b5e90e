"""What a model's layers compute in. Its weights, its output and its loss are float32 in every case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from federation.run import Precision
from silo.worker.errors import AppError


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Layers made meanwhile compute in this, as Keras' dtype policy of the same name has it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_unscaled(optimizer: Any) -> None:
    """Raise AppError for an optimizer that divides gradients by a scale, which the loss here has not.

    Keras makes one of any optimizer under mixed_float16, and steps with it are left out where a gradient overflows: a
    round's count of steps, on which SCAFFOLD rests, would be wrong.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None:
        raise AppError(
            "the app's optimizer scales the loss, expected one that does not; set the run's precision to "
            "mixed_bfloat16, which needs no scale, and leave it out of the app"
        )


def check_output(model: Any, features: int) -> None:
    """Raise AppError for a built model whose probabilities are not float32: bfloat16 has three digits of them."""
    found = model(np.zeros((1, features), np.float32), training=False).dtype
    if found != "float32":
        name = getattr(found, "name", found)
        said = next((one for one in ("bfloat16", "float16", "float64") if one == name), "another type")
        raise AppError(
            f"the app's model gives its probabilities as {said}, expected float32 under "
            'mixed_bfloat16; give its last layer dtype="float32"'
        )
