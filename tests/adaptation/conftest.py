"""Crops of people in clothes of two colours, and a small encoder."""

import cv2
import keras
import numpy as np
import pytest

from san_tf.data.records import Records

SIZE = (32, 16)


def picture(rng, clothes, tint):
    """A crop: two colours, a tint of the camera, and noise."""
    pixels = np.empty((*SIZE, 3))
    middle = 16 + rng.integers(-2, 3)
    pixels[:middle], pixels[middle:] = clothes
    pixels = pixels * tint + rng.normal(0, 8, pixels.shape)
    return cv2.imencode(".png", np.clip(pixels, 0, 255).astype(np.uint8))[1].tobytes()


def make_crops(people=10, crops=8, seed=0):
    rng = np.random.default_rng(seed)
    tints = np.array([[1.0, 1.0, 1.0], [0.75, 0.9, 1.1]])
    images, pids, camids = [], [], []
    for person in range(people):
        clothes = rng.uniform(20, 235, (2, 3))
        for crop in range(crops):
            images.append(picture(rng, clothes, tints[crop % 2]))
            pids.append(person + 1)
            camids.append(crop % 2)
    return images, pids, camids


@pytest.fixture(scope="session")
def records():
    images, pids, camids = make_crops()
    return Records.from_columns(images, pids, camids)


@pytest.fixture
def small_encoder():
    """A function that builds the same untrained encoder each time."""

    def build(seed=1):
        keras.utils.set_random_seed(seed)
        image = keras.Input((*SIZE, 3), name="image")
        stage = keras.layers.Conv2D(12, 5, 4, name="conv")(image)
        stage = keras.layers.BatchNormalization(name="bn")(stage)
        stage = keras.layers.ReLU(name="relu")(stage)
        stage = keras.layers.AveragePooling2D((3, 3), name="pool")(stage)
        embedding = keras.layers.Dense(16, name="body")(keras.layers.Flatten(name="flat")(stage))
        return keras.Model(image, {"embedding": embedding}, name="small")

    return build
