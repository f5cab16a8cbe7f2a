"""Settings of TensorFlow's devices before they start."""

from __future__ import annotations

import tensorflow as tf


def grow_memory() -> None:
    """Let GPUs take memory as needed, so that other programs can use the rest.

    Without a GPU, or after the devices have started, this does nothing.
    """
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError:
            return  # already started with another setting
