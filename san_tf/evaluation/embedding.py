"""Embeds images with an encoder, batch by batch, and scores the encoder on query and gallery images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import ProtocolResult, evaluate_protocol
from san_tf.progress import with_bar

if TYPE_CHECKING:
    import numpy as np


class Embedder:
    """Embeds datasets with one encoder, whose graph is traced only once.

    Args:
        encoder: Keras model or function of `(N, H, W, 3)` normalised images and `training`. It returns the
            embeddings `(N, D)`, or a dict that holds them as `embedding`.
        flip: average the embeddings of each image and its left-right mirror image.
        crops: 1 for the whole image, or 5 to average the embeddings of its middle and its four corners. The
            five windows have 8/9 of its height and width and are resized to the whole, because training
            enlarges images 1.125 times. With `flip`, their mirror images are averaged too.

    Raises:
        ValueError: `crops` is neither 1 nor 5.

    Example:
        >>> embedder = Embedder(encoder, flip=True)
        >>> query, gallery = embedder(query_images), embedder(gallery_images)
    """

    def __init__(self, encoder: Callable[..., Any], flip: bool = False, crops: int = 1) -> None:
        if crops not in (1, 5):
            raise ValueError(f"crops must be 1 or 5. Received: {crops}.")
        self._encoder = encoder
        self._flip = flip
        self._crops = crops
        self._predict = tf.function(self._averaged)

    def __call__(
        self, dataset: tf.data.Dataset, normalize: bool = False, description: str | None = "Embedding"
    ) -> np.ndarray:
        """Embed all images of a dataset.

        Args:
            dataset: batches of images, or of dicts with `image`, as `data.pipeline.inference_dataset` yields.
            normalize: scale each embedding to length 1, after averaging.
            description: of the progress bar, shown if standard error is a terminal; None for no bar.

        Returns:
            `(N, D)` float32, in the order of the dataset.

        Raises:
            ValueError: the dataset is empty.
        """
        spec = dataset.element_spec
        spec = spec["image"] if isinstance(spec, dict) else spec
        # One graph for all batches: with a fixed batch size, a smaller last batch would be traced anew.
        predict = self._predict.get_concrete_function(tf.TensorSpec((None, *spec.shape[1:]), spec.dtype))
        batches = int(dataset.cardinality())
        features = []
        for batch in with_bar(dataset, description, total=batches if batches >= 0 else None):
            features.append(predict(batch["image"] if isinstance(batch, dict) else batch).numpy())
        if not features:
            raise ValueError("There are no images to embed: the dataset is empty.")
        embeddings = np.concatenate(features)
        return l2_normalized(embeddings) if normalize else embeddings

    def _averaged(self, images: tf.Tensor) -> tf.Tensor:
        views = _corners_and_middle(images) if self._crops == 5 else [images]
        if self._flip:
            views += [tf.reverse(view, [2]) for view in views]
        return tf.add_n([self._one(view) for view in views]) / float(len(views))

    def _one(self, images: tf.Tensor) -> tf.Tensor:
        output = self._encoder(images, training=False)
        return tf.cast(output["embedding"] if isinstance(output, dict) else output, tf.float32)


def embed(
    encoder: Callable[..., Any],
    dataset: tf.data.Dataset,
    flip: bool = False,
    normalize: bool = False,
    description: str | None = "Embedding",
    crops: int = 1,
) -> np.ndarray:
    """Embed all images of a dataset; `Embedder` explains arguments, result and errors.

    Example:
        >>> features = embed(encoder, inference_dataset(records, (256, 128)), flip=True, normalize=True)
    """
    return Embedder(encoder, flip, crops)(dataset, normalize, description)


def _corners_and_middle(images: tf.Tensor) -> list[tf.Tensor]:
    """Five windows of 8/9 of the images' height and width, resized to the full size."""
    height, width = images.shape[1:3]
    tall, wide = round(height * 8 / 9), round(width * 8 / 9)
    down, across = height - tall, width - wide
    places = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
    return [
        tf.image.resize(images[:, top : top + tall, left : left + wide], (height, width))
        for top, left in places
    ]


def evaluate(
    encoder: Any,
    query: Records,
    gallery: Records,
    *,
    protocol: str = "market",
    metric: str = "euclidean",
    flip: bool = True,
    batch_size: int = 64,
) -> ProtocolResult:
    """Embed query and gallery, rank the gallery for each query, and measure the ranking.

    Embeddings are scaled to length 1. For existing features use `san_tf.evaluation.evaluate_protocol`.

    Args:
        encoder: a `SAN`, or an encoder from `build_encoder` or `load_encoder`.
        query: images with identities and cameras, such as `load_dataset(...)["query"]`.
        gallery: likewise.
        protocol: "market" (images of the query's identity under its own camera do not count), "cuhk03",
            "cross-camera", "partial" or "vehicleid".
        metric: "euclidean" or "cosine".
        flip: average the embeddings of each image and its mirror image, as is usual; ignored for an encoder
            from `load_encoder`, which is used as exported.
        batch_size: images in a batch.

    Returns:
        CMC, mAP and mINP as shares in [0, 1]; `result.cmc[0]` is rank-1.

    Raises:
        UserError: a set is empty, no query has a true match, or the protocol or metric is unknown.

    Example:
        >>> result = evaluate(san, data["query"], data["gallery"])
        >>> f"rank-1 {result.cmc[0]:.1%}, mAP {result.mAP:.1%}"
        'rank-1 96.1%, mAP 88.0%'
    """
    for name, records in (("query", query), ("gallery", gallery)):
        if not len(records):
            raise UserError(f"The {name} holds no images; give records with some.")
    if hasattr(encoder, "embed"):
        embed = lambda records: encoder.embed(list(records.images), batch_size)  # noqa: E731
    else:
        embed = _with_keras(getattr(encoder, "encoder", encoder), flip, batch_size)
    first, second = (FeatureSet(embed(records), records.pids, records.camids) for records in (query, gallery))
    return evaluate_protocol(first, second, protocol=protocol, metric=metric)


def _with_keras(encoder: Any, flip: bool, batch_size: int) -> Any:
    if not isinstance(encoder, keras.Model):
        raise UserError(
            f"The encoder is a {type(encoder).__name__}; give a SAN, or an encoder from"
            " build_encoder or load_encoder."
        )
    embedder = Embedder(encoder, flip)
    _, height, width, _ = encoder.input.shape

    def embed(records: Records) -> np.ndarray:
        return embedder(inference_dataset(records, (int(height), int(width)), batch_size), normalize=True)

    return embed
