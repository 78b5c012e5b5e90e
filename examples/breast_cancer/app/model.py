"""A small classifier of tumours from 30 measurements of cell nuclei (Wolberg, Street, Mangasarian 1995)."""

import keras

FEATURES = 30

# The published range of each measurement, so that every hospital scales alike without sharing statistics.
LOW = [
    6.981, 9.71, 43.79, 143.5, 0.053, 0.019, 0.0, 0.0, 0.106, 0.05,
    0.112, 0.36, 0.757, 6.802, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001,
    7.93, 12.02, 50.41, 185.2, 0.071, 0.027, 0.0, 0.0, 0.156, 0.055,
]  # fmt: skip
HIGH = [
    28.11, 39.28, 188.5, 2501.0, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097,
    2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03,
    36.04, 49.54, 251.2, 4254.0, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208,
]  # fmt: skip


def build_model(features: int) -> keras.Model:
    """A multilayer perceptron on measurements scaled to their published ranges."""
    return _trained_by(keras.optimizers.SGD(0.01, momentum=0.9), features)


def build_plain_model(features: int) -> keras.Model:
    """The same trained by plain SGD at a constant rate, for runs with SCAFFOLD."""
    return _trained_by(keras.optimizers.SGD(0.1), features)


def _trained_by(optimizer: keras.optimizers.Optimizer, features: int) -> keras.Model:
    middle = [(low + high) / 2 for low, high in zip(LOW, HIGH, strict=True)]
    spread = [((high - low) / 4) ** 2 for low, high in zip(LOW, HIGH, strict=True)]
    model = keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Normalization(mean=middle, variance=spread),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )
    model.compile(optimizer=optimizer, loss="binary_crossentropy")
    return model
