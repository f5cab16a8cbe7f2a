"""One photograph on four ways to its embedding: training, evaluation, SavedModel, client and server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from stand_in import Models, serve_rest
from tiny_encoder import SERVED_SIZE, small_encoder

from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import inference_dataset, train_dataset
from san_tf.data.records import Records
from san_tf.evaluation.embedding import embed
from san_tf.serving.client import Client


def test_four_ways_to_one_embedding(served_models: Path, photographs: list[bytes]) -> None:
    encoder = small_encoder(1)  # of the seed that version 1 was exported with
    records = Records.from_columns(photographs, range(1, 41), [0] * 40, [f"{n}.jpg" for n in range(40)])

    evaluated = embed(encoder, inference_dataset(records, SERVED_SIZE), normalize=True)

    # Each photograph is an identity, so that its label tells which one a training image is.
    batches = train_dataset(records, 8, 1, SERVED_SIZE, augmentation=Augmentation.none(), epochs=1)
    trained = np.full_like(evaluated, np.nan)
    for batch in batches:
        rows = encoder(batch["image"], training=False)["embedding"]
        trained[batch["label"].numpy()] = tf.math.l2_normalize(rows, axis=-1).numpy()

    served = tf.saved_model.load(str(served_models / "1")).signatures
    by_bytes = served["serving_bytes"](image_bytes=tf.constant(photographs))["embedding"].numpy()
    pixels = [tf.io.decode_jpeg(contents, 3, dct_method="INTEGER_ACCURATE")[None] for contents in photographs]
    by_pixels = np.concatenate([served["serving_default"](images=image)["embedding"] for image in pixels])

    address, stop = serve_rest(Models(served_models))
    with Client(address, "market", version=1, batch_size=7) as client:
        by_client = client.embed(photographs)
    stop()

    for other in (trained, by_bytes, by_pixels, by_client):
        np.testing.assert_allclose(other, evaluated, atol=1e-5)
    # The photographs differ by far more than the ways do.
    distances = np.linalg.norm(evaluated[:, None] - evaluated[None], axis=-1) + np.eye(40)
    assert distances.min() > 1e-3
