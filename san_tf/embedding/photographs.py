"""Photographs of any kind, brought to what an exported encoder decodes."""

from __future__ import annotations

import tensorflow as tf

from san_tf.data.images import decode_image
from san_tf.data.upright import MAX_PIXELS, PhotographError, upright

__all__ = ["MAX_PIXELS", "PhotographError", "is_decodable", "upright"]


def is_decodable(content: bytes) -> bool:
    """Whether the decoder of exported graphs takes the file."""
    try:
        with tf.device("CPU"):
            decode_image(tf.constant(content))
    except tf.errors.InvalidArgumentError:
        return False
    return True
