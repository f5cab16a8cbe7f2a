"""An encoder small enough to be exported in a second, and its export, for all tests of serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_encoder import SERVED_SIZE, small_encoder

from san_tf.serving.encoder_export import export_encoder


@pytest.fixture(scope="session")
def served_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of versions 1 and 2, which differ in their weights; not to be written to."""
    folder = tmp_path_factory.mktemp("saved_models") / "market"
    for version in (1, 2):
        export_encoder(small_encoder(version), folder, SERVED_SIZE, version=version)
    return folder


@pytest.fixture(scope="session")
def photographs() -> list[bytes]:
    """Forty JPEG and PNG files of different sizes and contents."""
    rng = np.random.default_rng(3)
    files = []
    for number in range(40):
        height, width = (int(side) for side in rng.integers(16, 60, 2))
        coarse = rng.uniform(0, 255, (4, 3, 3)).astype(np.float32)
        image = tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8)
        encode = tf.io.encode_png if number % 5 == 0 else tf.io.encode_jpeg
        files.append(encode(image).numpy())
    return files
