import cv2
import numpy as np
import pytest


def encode(image, suffix=".png"):
    """Encode RGB uint8 as PNG (lossless) or JPEG bytes."""
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


@pytest.fixture
def picture():
    """A function that makes a smooth random RGB image of a given size, encoded."""

    def make(seed, height=32, width=16, suffix=".png", raw=False):
        rng = np.random.default_rng(seed)
        image = cv2.resize(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8), (width, height))
        return image if raw else encode(image, suffix)

    return make
