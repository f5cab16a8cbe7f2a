"""Converts our normalised images to the input of another library's network, in one exact layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

Preprocessing = Callable[[np.ndarray], Any]


class Affine(NamedTuple):
    """Map `y = matrix @ x + offset` of the three channels of every pixel; float64."""

    matrix: np.ndarray
    offset: np.ndarray


def affine_of(preprocessing: Preprocessing) -> Affine:
    """Find the affine map of a preprocessing function by calling it.

    The field's preprocessings (scaling, means, the BGR order of Caffe) are all affine in a pixel's channels.
    So black and pure red, green and blue determine the map. Random images check it.

    Args:
        preprocessing: function from `(batch, h, w, 3)` float32 RGB of 0-255 to an array or tensor of that
            shape, such as `keras.applications.resnet.preprocess_input`.

    Raises:
        UserError: the function fails, or does not compute an affine map of each pixel.

    Example:
        >>> affine_of(lambda pixels: pixels / 127.5 - 1.0).offset
        array([-1., -1., -1.])
    """
    probes = np.concatenate([np.zeros((1, 3)), 255.0 * np.eye(3)]).astype(np.float32)
    others = (255.0 * np.random.default_rng(0).random((16, 3))).astype(np.float32)
    try:
        # Copies, because some functions of keras.applications work in place.
        answers = np.asarray(preprocessing(probes.reshape(1, 2, 2, 3).copy()), np.float64).reshape(4, 3)
        checks = np.asarray(preprocessing(others.reshape(1, 4, 4, 3).copy()), np.float64).reshape(16, 3)
    except Exception as error:
        raise UserError(
            "preprocessing must take float32 RGB images (batch, height, width, 3) of 0-255 and return the "
            f"same shape; it raised {type(error).__name__}: {error}"
        ) from error
    offset = answers[0]
    matrix = (answers[1:] - offset).T / 255.0
    if not np.allclose(checks, others @ matrix.T + offset, rtol=1e-4, atol=1e-4 * np.abs(checks).max()):
        raise UserError(
            "preprocessing must be a fixed scale and offset of each pixel's channels, the same everywhere; "
            "the given function computes something else."
        )
    return Affine(matrix, offset)


def from_normalized(preprocessing: Affine) -> Affine:
    """Return the map from images of `san_tf.normalization.normalize` to those of a preprocessing."""
    # Our y is (pixel / 255 - mean) / std, so the pixel is 255 std y + 255 mean.
    mean, std = 255.0 * IMAGENET_MEAN.astype(np.float64), 255.0 * IMAGENET_STD.astype(np.float64)
    return Affine(preprocessing.matrix * std, preprocessing.matrix @ mean + preprocessing.offset)


@keras.saving.register_keras_serializable("san_tf")
class InputAdapter(keras.layers.Layer):
    """Fixed affine map of each pixel's channels: `y = matrix @ x + offset`, always in float32.

    It comes before a network that was trained with another normalisation. So images are preprocessed exactly
    once, borders included. The values are weights that are not trained: a file of trained weights contains
    its own, so a network never gets the preprocessing of another one.

    Args:
        matrix: `(3, 3)`, outputs by inputs.
        offset: `(3,)`.
        kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, matrix: ArrayLike, offset: ArrayLike, **kwargs: Any) -> None:
        super().__init__(**(kwargs | {"dtype": "float32", "trainable": False}))
        self.initial = Affine(np.asarray(matrix, np.float64), np.asarray(offset, np.float64))

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the two weights."""
        for name, values in self.initial._asdict().items():
            initializer = keras.initializers.Constant(0.0)
            weight = self.add_weight(shape=values.shape, initializer=initializer, trainable=False, name=name)
            weight.assign(values)
            setattr(self, name, weight)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map `(batch, h, w, 3)` to the same shape, float32."""
        # No matrix product, because some accelerators compute it with 10 bits, too few for pixels of 0-255.
        x = tf.cast(x, tf.float32)
        columns = tf.unstack(tf.convert_to_tensor(self.matrix), axis=1)
        red, green, blue = (x[..., index, None] * column for index, column in enumerate(columns))
        return red + green + blue + tf.convert_to_tensor(self.offset)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = super().get_config()
        config.pop("trainable", None)
        return config | {"matrix": self.initial.matrix.tolist(), "offset": self.initial.offset.tolist()}
