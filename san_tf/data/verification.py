"""Finds images that cannot be decoded, before a training run does."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from san_tf.data.headers import read_header
from san_tf.data.images import decode_image


def first_problem(encoded: np.ndarray, names: np.ndarray, kind: str) -> str | None:
    """Check headers, then decode everything in parallel with the decoder that training uses.

    Args:
        encoded: `(N,)` object array of the files' contents.
        names: `(N,)` names for the message.
        kind: "image", or "texture of image", which must be square and have three channels.

    Returns:
        None if all is well; else one sentence that names the first bad file and counts the others.
    """
    problems: dict[int, str] = {}
    for index, content in enumerate(encoded):
        try:
            header = read_header(content)
        except ValueError as error:
            problems[index] = str(error)
            continue
        if kind != "image" and (header.channels != 3 or header.height != header.width):
            problems[index] = (
                f"is {header.width}x{header.height} with {header.channels} channel(s), "
                "a square RGB image is needed"
            )
    if not problems:
        problems = dict.fromkeys(_undecodable(encoded), "is damaged: it cannot be decoded")
    if not problems:
        return None
    index = min(problems)
    others = f" ({len(problems) - 1} other file(s) have problems too)" if len(problems) > 1 else ""
    return f"The {kind} {names[index]} {problems[index]}{others}; delete it or copy it again."


def _undecodable(encoded: np.ndarray) -> list[int]:
    """Indices of the files that TensorFlow's decoder refuses."""
    if not len(encoded):
        return []
    contents = tf.constant(list(encoded), tf.string)

    def decoded_index(index: tf.Tensor) -> tf.Tensor:
        # The result has to depend on a pixel: a mere control dependency is optimised away with the decoding.
        pixel = decode_image(tf.gather(contents, index))[0, 0, 0]
        return index + tf.minimum(tf.cast(pixel, tf.int64), 0)

    # Errors in a tf.data map do not say which element they belong to: drop such elements, see who is missing.
    dataset = tf.data.Dataset.range(len(encoded)).map(decoded_index, num_parallel_calls=tf.data.AUTOTUNE)
    good = list(dataset.ignore_errors().batch(1024).as_numpy_iterator())
    return np.setdiff1d(np.arange(len(encoded)), np.concatenate([*good, np.empty(0, np.int64)])).tolist()
