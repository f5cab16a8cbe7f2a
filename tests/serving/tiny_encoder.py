"""An encoder small enough to be exported in a second."""

from __future__ import annotations

import keras

SERVED_SIZE = (32, 16)


def small_encoder(seed: int, dimension: int = 8) -> keras.Model:
    """A network from normalised images to an embedding, with random weights."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((*SERVED_SIZE, 3), name="image")
    x = keras.layers.Conv2D(dimension, 3, strides=2, padding="same", name="conv")(image)
    x = keras.layers.ReLU(name="relu")(x)
    embedding = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, {"embedding": embedding}, name="encoder")
