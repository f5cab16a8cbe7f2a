"""The devices of TensorFlow, before they are started."""

from __future__ import annotations

import tensorflow as tf


def grow_memory() -> None:
    """Have GPUs take memory as it is needed, not all of it at once; without a GPU, and once started, nothing.

    Other programs, such as a second training or a desktop, then find some left.
    """
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:
            return  # started already: whoever did so has chosen
