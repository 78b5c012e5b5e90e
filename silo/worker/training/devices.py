"""What TensorFlow trains on, settled once a trainer."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from silo.devices import Device, gpu_nodes
from silo.worker.errors import WorkError


def use_device(wanted: Device, config: Any = tf.config) -> bool:
    """Begin to use the first GPU where one is wanted and there; returns whether one is. Raises WorkError.

    Its memory is taken as it is needed. CUDA is started here and not by the first sum on it: the threads and the socket
    that it makes come after the process gave up its rights to the data, and before it gives up sockets.
    """
    if wanted == "cpu" or (wanted == "auto" and not gpu_nodes()):
        return False
    found = config.list_physical_devices("GPU")
    if not found:
        if wanted == "gpu":
            raise WorkError("this worker is set to train on a GPU, and TensorFlow finds none that it can use")
        return False
    config.set_visible_devices(found[:1], "GPU")
    config.experimental.set_memory_growth(found[0], True)
    config.list_logical_devices("GPU")
    return True
