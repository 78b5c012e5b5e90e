"""Default on a credit card next month, from the limit, six months of payment status, bills and payments."""

import keras

FEATURES = 19

# A round middle and spread of each feature: the limit, six payment states (months late), six bills, six payments
# (amounts in New Taiwan dollars). They are the app's own, so that every bank scales alike without sharing statistics.
MIDDLE = [150_000.0, *[0.0] * 6, *[40_000.0] * 6, *[5_000.0] * 6]
SPREAD = [130_000.0, *[1.0] * 6, *[60_000.0] * 6, *[10_000.0] * 6]


def build_model(features: int) -> keras.Model:
    """One small hidden layer on scaled features, which softsign bounds, as amounts have long tails."""
    model = keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Normalization(mean=MIDDLE, variance=[spread**2 for spread in SPREAD]),
            keras.layers.Activation("softsign"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="binary_crossentropy")
    return model
