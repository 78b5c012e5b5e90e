"""The synthetic devices of FedProx (Li et al., MLSys 2020, section 5.1), drawn anew from the paper's description."""

from __future__ import annotations

import numpy as np

from silo.worker.data.view import PolicyView

DEVICES, FEATURES, CLASSES = 30, 60, 10
BATCH = 10


def devices(alpha: float, beta: float, seed: int, most: int, *, iid: bool = False) -> dict[str, PolicyView]:
    """Thirty devices: logits x W_k + b_k with W_k, b_k around u_k ~ N(0, alpha), x around v_k ~ N(B_k, 1).

    alpha and beta are standard deviations, as in the authors' code. Sizes are lognormal(4, 2) + 50, here at most
    `most`: without a bound one device of some seeds holds four fifths of all rows. Nine tenths of a device's rows are
    trained on, in whole batches of ten; the rest are its test rows.
    """
    generator = np.random.default_rng([seed, int(10 * alpha), int(10 * beta), int(iid)])
    sizes = np.minimum(generator.lognormal(4, 2, DEVICES).astype(int) + 50, most)
    spread = np.sqrt(np.arange(1, FEATURES + 1) ** -1.2)
    shared = generator.normal(size=(FEATURES, CLASSES)), generator.normal(size=CLASSES)
    views = {}
    for index, size in enumerate(sizes):
        u, b = generator.normal(0, alpha), generator.normal(0, beta)
        center = np.zeros(FEATURES) if iid else generator.normal(b, 1, FEATURES)
        weights, bias = generator.normal(u, 1, (FEATURES, CLASSES)), generator.normal(u, 1, CLASSES)
        if iid:
            weights, bias = shared
        rows = center + spread * generator.normal(size=(size, FEATURES))
        labels = (rows @ weights + bias).argmax(axis=1)
        order = generator.permutation(size)
        x, y = rows[order].astype(np.float32), labels[order].astype(np.float32)[:, None]
        cut = int(0.9 * size) // BATCH * BATCH
        views[f"device-{index:02d}"] = PolicyView(x[:cut], y[:cut], x[cut:], y[cut:], 0, "")
    return views
