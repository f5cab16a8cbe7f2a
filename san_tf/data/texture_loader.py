"""Loads texture targets inside a pipeline: decoded, resized, mirrored with their images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from san_tf.data import transforms
from san_tf.data.headers import read_header
from san_tf.data.images import decode_image
from san_tf.errors import UserError

# Decoding a 256x256 texture costs more than all the rest of an image's way through the pipeline. The 929
# textures of the paper's PIT data, and their mirror images, fit.
_CACHE_BYTES = 384 * 2**20


def texture_loader(
    files: np.ndarray, size: int, mirror_map: np.ndarray | None = None, cache_bytes: int = _CACHE_BYTES
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return a function that loads a texture by its index, mirrored if its image is flipped.

    Args:
        files: `(U,)` encoded textures.
        size: T wanted.
        mirror_map: `(T, T, 2)` as in `pipeline.train_dataset`; None takes the one of this package's body.
        cache_bytes: if all textures and their mirror images take less when decoded, they are decoded once.

    Returns:
        Function of a scalar index (-1 where there is none) and a scalar bool, to `(T, T, 3)` uint8; mid-grey
        where there is no texture.

    Raises:
        UserError: the mirror map has another size.
    """
    if mirror_map is None:
        from san_tf.synthesis import texels

        mirror_map = texels.mirror_map(size)
    if mirror_map.shape != (size, size, 2):
        raise UserError(
            f"The mirror map has shape {mirror_map.shape}; textures of {size} need ({size}, {size}, 2)."
        )
    flat_mirror = tf.constant((mirror_map[..., 0] * size + mirror_map[..., 1]).ravel(), tf.int32)
    contents = tf.constant(list(files), tf.string)
    as_stored = all(read_header(texture)[1:3] == (size, size) for texture in files)
    missing = tf.fill((size, size, 3), tf.constant(128, tf.uint8))

    def decode(index: tf.Tensor) -> tf.Tensor:
        texture = decode_image(tf.gather(contents, index))
        if not as_stored:
            texture = transforms.resize_texture(texture, size)
        return tf.ensure_shape(texture, (size, size, 3))

    def load(index: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        texture = tf.cond(index < 0, lambda: missing, lambda: decode(index))
        return tf.cond(flip, lambda: transforms.mirror_texture(texture, flat_mirror), lambda: texture)

    if not len(files) or 2 * len(files) * size * size * 3 > cache_bytes:
        return load

    def both(index: tf.Tensor) -> tf.Tensor:
        texture = decode(index)
        return tf.stack([texture, transforms.mirror_texture(texture, flat_mirror)])

    decoded = tf.data.Dataset.range(len(files)).map(both, num_parallel_calls=tf.data.AUTOTUNE)
    # A row for a texture and one for its mirror image: gathering a row copies bytes, slicing takes longer.
    cache = decoded.unbatch().batch(2 * len(files)).get_single_element()

    def load_cached(index: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
        row = 2 * index + tf.cast(flip, index.dtype)
        return tf.cond(index < 0, lambda: missing, lambda: tf.gather(cache, row))

    return load_cached
