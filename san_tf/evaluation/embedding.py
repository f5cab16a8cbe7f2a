"""Turns images into embeddings with an encoder, batch after batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.progress import with_bar


def embed(
    encoder: Callable[..., Any],
    dataset: tf.data.Dataset,
    flip: bool = False,
    normalize: bool = False,
    description: str = "Embedding",
    crops: int = 1,
) -> np.ndarray:
    """Embed all images of a dataset.

    Args:
        encoder: Keras model or function of `(N, H, W, 3)` normalised images and `training`, that returns the
            embeddings `(N, D)` or a dict that holds them as `embedding`.
        dataset: batches of images, or of dicts with `image`, as `data.pipeline.inference_dataset` yields.
        flip: average the embeddings of each image and its left-right mirror image.
        normalize: scale each embedding to length 1, after averaging.
        description: of the progress bar, on standard error if that is a terminal.
        crops: 1, the whole image; or 5: average the embeddings of its middle and its four corners, windows of
            8/9 of its height and width resized to the whole, as training enlarges images 1.125 times.
            With `flip`, of their mirror images too.

    Returns:
        `(N, D)` float32, in the order of the dataset.

    Raises:
        ValueError: the dataset is empty, or `crops` is neither 1 nor 5.

    Example:
        >>> features = embed(encoder, inference_dataset(records, (256, 128)), flip=True, normalize=True)
    """
    if crops not in (1, 5):
        raise ValueError(f"crops must be 1 or 5. Received: {crops}.")

    def run(images: tf.Tensor) -> tf.Tensor:
        output = encoder(images, training=False)
        return tf.cast(output["embedding"] if isinstance(output, dict) else output, tf.float32)

    # One graph for all batches: without the open batch size, a smaller last batch would be traced anew.
    spec = dataset.element_spec["image"] if isinstance(dataset.element_spec, dict) else dataset.element_spec

    @tf.function(input_signature=[tf.TensorSpec((None, *spec.shape[1:]), spec.dtype)])
    def predict(images: tf.Tensor) -> tf.Tensor:
        views = _corners_and_middle(images) if crops == 5 else [images]
        if flip:
            views += [tf.reverse(view, [2]) for view in views]
        return tf.add_n([run(view) for view in views]) / float(len(views))

    batches = int(dataset.cardinality())
    features = []
    for batch in with_bar(dataset, description, total=batches if batches >= 0 else None):
        features.append(predict(batch["image"] if isinstance(batch, dict) else batch).numpy())
    if not features:
        raise ValueError("There are no images to embed: the dataset is empty.")
    embeddings = np.concatenate(features)
    return l2_normalized(embeddings) if normalize else embeddings


def _corners_and_middle(images: tf.Tensor) -> list[tf.Tensor]:
    """Five windows of 8/9 of the images' height and width, resized to the whole."""
    height, width = images.shape[1:3]
    tall, wide = round(height * 8 / 9), round(width * 8 / 9)
    down, across = height - tall, width - wide
    places = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    return [
        tf.image.resize(images[:, top : top + tall, left : left + wide], (height, width))
        for top, left in places
    ]
