"""Fits batch norms to crops without identities (AdaBN): one pass, no training."""

from __future__ import annotations

import keras
import numpy as np

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.keras_distribution import batch_norms

_BATCH = 64


def fit_norms(encoder: keras.Model, records: Records, seed: int = 0) -> int:
    """Replace the moving means and variances of an encoder's batch norms by those of crops.

    Each is the mean over batches of 64 crops in random order, each crop once, with the layers before it
    normalised by their own batch. Kernels, scales and shifts stay.

    Args:
        encoder: encoder, changed in place.
        records: crops; identities and cameras are not used.
        seed: of the order.

    Returns:
        Number of batch norms; 0 if the encoder has none, which changes nothing.

    Raises:
        UserError: a statistic is not finite; the encoder is as it was.

    Source: Li et al., "Adaptive Batch Normalization for practical domain adaptation", Pattern Recognition
    2018.

    Example:
        >>> encoder = trainable_encoder("people_scratch")
        >>> fit_norms(encoder, Records.from_folder("crops"))
        36
    """
    norms = [layer for layer in batch_norms(encoder) if layer.trainable]
    if not norms:
        return 0
    order = np.random.default_rng(seed).permutation(len(records))
    # Whole batches: the last one is filled up with the first crops.
    batch = min(_BATCH, len(order))
    order = np.resize(order, -(-len(order) // batch) * batch)
    _, height, width, _ = encoder.input.shape
    images = inference_dataset(records.select(order), (int(height), int(width)), batch)
    before, momenta = encoder.get_weights(), [layer.momentum for layer in norms]
    try:
        for number, image in enumerate(images):
            for layer in norms:
                # The mean of the batches so far.
                layer.momentum = number / (number + 1)
            encoder(image, training=True)
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    if not all(np.isfinite(value).all() for layer in norms for value in layer.get_weights()):
        encoder.set_weights(before)
        raise UserError(
            "Fitting the batch norms gave statistics that are not finite; leave the norms as they are."
        )
    return len(norms)
