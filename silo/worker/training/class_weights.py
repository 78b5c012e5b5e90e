"""What a row's loss counts in training, by its class; metrics and the loss that is reported do not know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from federation.run import ClassWeights
from silo.worker.errors import AppError

Wanted = Literal["balanced"] | ClassWeights


def weights_of(wanted: Wanted, labels: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The weights of the negative and the positive class; `labels` are 0 or 1, of any shape.

    Balanced, each class counts the same as a whole: rows / (classes * rows of the class), as scikit-learn has it
    (King and Zeng 2001). A silo with one class counts each of its rows once.
    """
    if wanted != "balanced":
        return wanted.negative, wanted.positive
    positive = int((labels > 0.5).sum())
    counts = (labels.size - positive, positive)
    classes = sum(count > 0 for count in counts)
    negative, other = (labels.size / (classes * count) if count else 1.0 for count in counts)
    return negative, other


class WeightedLoss:
    """A loss of each row, times the weight of the row's class.

    `loss` is the app's, unreduced, of scores with `outputs` columns; AppError where it gives one number for all rows.
    """

    def __init__(self, loss: Callable[[Any, Any], Any], outputs: int = 1) -> None:
        if tf.convert_to_tensor(loss(tf.zeros((2, 1)), tf.fill((2, outputs), 0.5))).shape.rank == 0:
            raise AppError("the app's loss gives one number for a batch, expected one a row with class_weights")
        self.loss = loss
        self._weights = tf.Variable([1.0, 1.0], trainable=False)

    def set(self, weights: tuple[float, float]) -> None:
        """Take these weights of the negative and the positive class from now on."""
        self._weights.assign(weights)

    def __call__(self, labels: Any, scores: Any) -> Any:
        """The losses, (rows,)."""
        losses = self.loss(labels, scores)
        losses = tf.reduce_mean(tf.reshape(losses, [tf.shape(losses)[0], -1]), axis=1)
        return losses * tf.where(labels[:, 0] > 0.5, self._weights[1], self._weights[0])
