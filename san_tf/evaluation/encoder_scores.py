"""Evaluates an encoder on query and gallery images in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.embedding import Embedder
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import ProtocolResult, evaluate_protocol

if TYPE_CHECKING:
    import numpy as np


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
