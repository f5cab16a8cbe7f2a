"""Loads target textures inside a pipeline: decodes, resizes and mirrors them with their images."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from san_tf.data import transforms
from san_tf.data.augmentation import AugmentationPlan
from san_tf.data.headers import read_header
from san_tf.data.images import decode_image
from san_tf.errors import UserError

# Decoding a 256x256 texture costs as much as the rest of the pipeline for its image. The 929 textures of the
# paper's PIT data, and their mirror images, fit in.
_CACHE_BYTES = 384 * 2**20


class TextureLoader:
    """Makes batches of target textures in two steps: decode row by row, then finish the batch.

    Args:
        files: `(U,)` encoded textures.
        size: T, height and width of the result.
        mirror_map: `(T, T, 2)` as in `pipeline.train_dataset`; None takes that of this package's body.
        cache_bytes: all textures and their mirror images are decoded once and kept, if they take fewer bytes.

    Raises:
        UserError: the mirror map has the wrong size.
    """

    def __init__(
        self,
        files: np.ndarray,
        size: int,
        mirror_map: np.ndarray | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if mirror_map is None:
            from san_tf.synthesis import texels

            mirror_map = texels.mirror_map(size)
        if mirror_map.shape != (size, size, 2):
            raise UserError(
                f"The mirror map has shape {mirror_map.shape}; textures of {size} need ({size}, {size}, 2)."
            )
        self._mirror_map = mirror_map
        self._size = size
        self._contents = tf.constant(list(files), tf.string)
        self._as_stored = all(read_header(texture)[1:3] == (size, size) for texture in files)
        self._decoded: np.ndarray | None = None
        if len(files) and 2 * len(files) * size * size * 3 <= cache_bytes:
            decoded = tf.data.Dataset.range(len(files)).map(self._decode, num_parallel_calls=tf.data.AUTOTUNE)
            straight = decoded.batch(len(files)).get_single_element().numpy()
            mirrored = straight[:, mirror_map[..., 0], mirror_map[..., 1]]
            # All textures, then all mirrored ones: copying rows is faster than gathering texels.
            self._decoded = np.concatenate([straight, mirrored])

    def decode(self, index: tf.Tensor) -> tf.Tensor:
        """Do the first step, for one row: decode its texture.

        Args:
            index: scalar int64 index of the texture; -1 for none.

        Returns:
            `(T, T, 3)` uint8; `(0,)` if all textures are kept decoded.
        """
        if self._decoded is not None:
            return tf.zeros((0,), tf.uint8)
        missing = tf.zeros((self._size, self._size, 3), tf.uint8)
        return tf.cond(index < 0, lambda: missing, lambda: self._decode(index))

    def finish(self, rows: np.ndarray, indices: np.ndarray, *plan: np.ndarray) -> np.ndarray:
        """Do the second step, for a batch: mirror, dye and scale its textures.

        Args:
            rows: `(N, ...)` uint8, the results of `decode`.
            indices: `(N,)` int64, the arguments of `decode`.
            *plan: the columns of the `AugmentationPlan` of the N images.

        Returns:
            `(N, T, T, 3)` float32 in [-1, 1]; mid-grey for a missing texture.
        """
        varied = AugmentationPlan(*plan)
        if self._decoded is None:
            places = np.where(indices < 0, -1, np.arange(len(indices)))
            return transforms.vary_textures(rows, places, varied, self._mirror_map)
        places = np.where(indices < 0, -1, indices + varied.flip * (len(self._decoded) // 2))
        unflipped = varied._replace(flip=np.zeros_like(varied.flip))
        return transforms.vary_textures(self._decoded, places, unflipped, self._mirror_map)

    def _decode(self, index: tf.Tensor) -> tf.Tensor:
        texture = decode_image(tf.gather(self._contents, index))
        if not self._as_stored:
            texture = transforms.resize_texture(texture, self._size)
        return tf.ensure_shape(texture, (self._size, self._size, 3))
