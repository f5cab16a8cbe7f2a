"""An export and crops that all tests of embedding share."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.serving.encoder_export import export_encoder

SIZE = (32, 16)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A folder with versions 1 and 2 of an encoder."""
    folder = tmp_path_factory.mktemp("models") / "market"
    for version in (1, 2):
        keras.utils.set_random_seed(version)
        image = keras.Input((*SIZE, 3))
        x = keras.layers.Conv2D(6, 3, strides=2)(image)
        embedding = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
        encoder = keras.Model(image, {"embedding": embedding})
        export_encoder(encoder, folder, SIZE, version=version, warmup_batches=())
    return folder


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> Path:
    """Twenty-five crops, of which 7 is empty, 11 a text and 17 cut off; 5.jpg is grey."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    for number in range(25):
        shape = (int(rng.integers(20, 70)), int(rng.integers(10, 40)), 1 if number == 5 else 3)
        coarse = tf.image.resize(rng.uniform(0, 255, (4, 3, shape[2])), shape[:2])
        content = tf.io.encode_jpeg(tf.cast(coarse, tf.uint8)).numpy()
        content = {7: b"", 11: b"a shopping list", 17: content[: len(content) // 2]}.get(number, content)
        (folder / f"{number:02}.jpg").write_bytes(content)
    return folder
