"""An encoder small enough to be exported in a second."""

from __future__ import annotations

import keras
import numpy as np

SERVED_SIZE = (32, 16)


def small_encoder(seed: int, dimension: int = 8) -> keras.Model:
    """A network from normalised images to an embedding, with random weights."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((*SERVED_SIZE, 3), name="image")
    x = keras.layers.Conv2D(dimension, 3, strides=2, padding="same", name="conv")(image)
    x = keras.layers.ReLU(name="relu")(x)
    embedding = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, {"embedding": embedding}, name="encoder")


def normed_encoder(seed: int = 4) -> keras.Model:
    """Convolutions with batch norms, a shortcut and a pooling, as real encoders have them."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((*SERVED_SIZE, 3), name="image")
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    shortcut = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.MaxPooling2D(3, 1, padding="same")(shortcut)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(16, 3, padding="same")(x))
    x = keras.layers.ReLU()(keras.layers.Add()([shortcut, x]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    embedding = keras.layers.BatchNormalization()(keras.layers.Dense(24)(x))
    model = keras.Model(image, {"embedding": embedding}, name="encoder")
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.3, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 2, shape))
    return model
