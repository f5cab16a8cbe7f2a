"""Textures mixed from colours that are taken from the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

_WIDTH = 32


@keras.saving.register_keras_serializable("san_tf")
class PaletteMix(keras.layers.Layer):
    """Takes K colours from an image, each the mean over the part a mask chooses, and mixes a texture of them.

    With masks a_k = softmax over the places of the image, weights w_k = softmax over the K colours at each
    texel t, and image c: texture(t) = sum_k w_k(t) sum_p a_k(p) c(p). Every colour of the texture is one of
    the photograph's, or between them: what has to be learnt is where, not which.

    Call it on a list: `(batch, h, w, K)` scores of the texels; `(batch, i, j, K)` scores of the image's
    places; `(batch, H, W, 3)` normalised images, reduced to i x j by averaging areas.

    Returns:
        `(batch, h, w, 3)` float32 in [-1, 1].

    Example:
        >>> texels, places, image = (keras.Input(s) for s in ((64, 32, 8), (32, 16, 8), (128, 64, 3)))
        >>> PaletteMix(dtype="float32")([texels, places, image]).shape
        (None, 64, 32, 3)
    """

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """See the class."""
        texels, places, image = (tf.cast(value, tf.float32) for value in inputs)
        colors = tf.image.resize(image, places.shape[1:3], method="area")
        # From normalised to the scale of textures.
        colors = colors * (2.0 * IMAGENET_STD) + (2.0 * IMAGENET_MEAN - 1.0)
        height, width, number = places.shape[1:]
        chosen = tf.nn.softmax(tf.reshape(places, (-1, height * width, number)), axis=1)
        palette = tf.einsum("bpk,bpc->bkc", chosen, tf.reshape(colors, (-1, height * width, 3)))
        return tf.einsum("bhwk,bkc->bhwc", tf.nn.softmax(texels, axis=-1), palette)

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """The texels', with three channels."""
        return *tuple(input_shape[0])[:3], 3

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config()


def palette_masks(stage1: Tensor, stage4: Tensor, colors: int, factory: LayerFactory) -> Tensor:
    """Score the places of an image for each colour: `(batch, h1, w1, colors)`, of stage 1's size.

    Stage 1 knows where the edges are, stage 4 what the regions between them are.
    """
    fine = factory.conv_bn(stage1, _WIDTH, 3, name="palette_fine")
    coarse = factory.conv_bn(stage4, _WIDTH, 1, name="palette_coarse")
    coarse = keras.layers.Resizing(*stage1.shape[1:3], interpolation="bilinear", name="palette_enlarge")(
        coarse
    )
    joined = keras.layers.Concatenate(name="palette_join")([fine, coarse])
    joined = factory.conv_bn(joined, _WIDTH, 3, name="palette_joined")
    return factory.conv(joined, colors, 1, name="palette_places", bias=True)
