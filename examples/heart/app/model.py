"""Presence of coronary heart disease from nine findings at the bedside and on the treadmill."""

import keras

FEATURES = 9

# A clinical midpoint and spread of each feature: age, sex, cp, trestbps, fbs, restecg, thalach, exang, oldpeak.
MIDDLE = [54.0, 0.75, 3.2, 132.0, 0.15, 0.6, 138.0, 0.4, 0.9]
SPREAD = [9.0, 0.45, 0.95, 19.0, 0.36, 0.8, 26.0, 0.5, 1.1]


def build_model(features: int) -> keras.Model:
    """Logistic regression with one small hidden layer."""
    model = keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Normalization(mean=MIDDLE, variance=[spread**2 for spread in SPREAD]),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)),
            keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="binary_crossentropy")
    return model
