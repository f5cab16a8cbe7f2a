"""Batch norms fitted to crops: their statistics by hand, what stays, and a site of other colours."""

import dataclasses

import cv2
import numpy as np
import pytest

from san_tf import UserError, load_encoder
from san_tf.adaptation import AdaptationSettings, ClusterSettings, adapt, fit_norms, trainable_encoder
from san_tf.data.records import Records
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import evaluate_protocol
from san_tf.keras_distribution import batch_norms
from san_tf.normalization import normalize
from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import ReidConfig

STREET = ReidConfig(
    "street_for_norms", 40, 2, train_images=160, queries=4, gallery_images=8, distractors=0, junk=0,
    cameras=2, image_height=128, seed=78, appearances=2.0,
)  # fmt: skip


def records_of(pixels, like):
    files = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in pixels]
    return Records.from_columns(files, like.pids, like.camids, verify=False)


@pytest.fixture(scope="module")
def street():
    """Pictures `(160, 128, 64, 3)` of 40 people by two cameras, and their records."""
    crops = list(generator.render_crops(generator.reid_plan(STREET, "train"), 0))
    pixels = np.stack([cv2.imdecode(np.frombuffer(c.image, np.uint8), 1)[..., ::-1] for c in crops])
    records = Records.from_columns(
        [c.image for c in crops], [c.pid for c in crops], [c.camid for c in crops], verify=False
    )
    return pixels, records_of(pixels, records)


def statistics(encoder):
    """Moving mean and variance of each batch norm."""
    return [layer.get_weights()[2:] for layer in batch_norms(encoder)]


def across_cameras(encoder, records):
    """mAP of one camera asking the other."""
    features = load_encoder(encoder).embed(list(records.images))
    sides = [records.camids == camera for camera in np.unique(records.camids)]
    sets = [FeatureSet(features[side], records.pids[side], records.camids[side]) for side in sides]
    return evaluate_protocol(*sets).mAP


def test_the_first_norm_by_hand(records, small_encoder):
    encoder = small_encoder()
    some = records.select(np.arange(32))
    conv = encoder.get_layer("conv").get_weights()[0]
    others = [layer.get_weights()[:2] for layer in batch_norms(encoder)]
    assert fit_norms(encoder, some) == 1
    images = np.stack([cv2.imdecode(np.frombuffer(file, np.uint8), 1)[..., ::-1] for file in some.images])
    height, width = encoder.input.shape[1:3]
    assert images.shape[1:3] == (height, width)
    # One batch of 32: mean and variance of the first convolution's outputs over pictures and places.
    out = np.asarray(encoder.get_layer("conv")(normalize(images.astype(np.float32))))
    mean, variance = encoder.get_layer("bn").get_weights()[2:]
    np.testing.assert_allclose(mean, out.mean(axis=(0, 1, 2)), atol=1e-4)
    # Keras 2 divides the squares by 671, one less than there are values.
    np.testing.assert_allclose(variance, out.var(axis=(0, 1, 2)), rtol=2e-3)
    # Kernels, scales and shifts stay, and so does the momentum of later trainings.
    np.testing.assert_array_equal(encoder.get_layer("conv").get_weights()[0], conv)
    for layer, before in zip(batch_norms(encoder), others, strict=True):
        for value, expected in zip(layer.get_weights()[:2], before, strict=True):
            np.testing.assert_array_equal(value, expected)
    fresh = small_encoder()
    assert [a.momentum for a in batch_norms(encoder)] == [b.momentum for b in batch_norms(fresh)]


def test_batches_count_alike_and_the_order_is_the_seeds(street):
    _, records = street
    some = records.select(np.arange(128))
    first, second, other = (trainable_encoder("people_scratch") for _ in range(3))
    for encoder, seed in ((first, 0), (second, 0), (other, 1)):
        fit_norms(encoder, some, seed)
    for one, two in zip(statistics(first), statistics(second), strict=True):
        np.testing.assert_array_equal(one, two)
    # The first norm's mean is that of all pictures whatever the batches; deeper ones see other batches.
    np.testing.assert_allclose(statistics(first)[0][0], statistics(other)[0][0], atol=1e-4)
    assert any(
        np.abs(one[1] - two[1]).max() > 1e-6
        for one, two in zip(statistics(first), statistics(other), strict=True)
    )


def test_a_site_of_other_colours_is_known_better(street):
    pixels, _ = street
    # Pale, bluish and dark: as an old camera sees it.
    strange = np.clip(pixels * np.array([0.25, 0.3, 0.45]) + np.array([30, 35, 60]), 0, 255).astype(np.uint8)
    records = records_of(strange, street[1])
    encoder = trainable_encoder("people_scratch")
    before = across_cameras(encoder, records)
    fit_norms(encoder, records)
    after = across_cameras(encoder, records)
    assert after > before + 0.03, (before, after)


def test_as_the_first_round_of_an_adaptation(street, tmp_path):
    _, records = street
    settings = AdaptationSettings(rounds=1, norms=True, clustering=ClusterSettings(k1=6, fewest=3))
    encoder, alone = trainable_encoder("people_scratch"), trainable_encoder("people_scratch")
    result = adapt(encoder, records, tmp_path / "run", settings)
    assert [state["round"] for state in result.states] == [0, 1]
    fit_norms(alone, records)
    # Whatever the score says.
    assert result.kept == 1
    for one, two in zip(statistics(encoder), statistics(alone), strict=True):
        np.testing.assert_array_equal(one, two)
    # Clusters are made after it, so a second round goes on from there; other settings are another run.
    longer = dataclasses.replace(settings, rounds=2, epochs=1)
    with pytest.raises(UserError, match="was begun with epochs"):
        adapt(trainable_encoder("people_scratch"), records, tmp_path / "run", longer)
    with pytest.raises(UserError, match="was begun with norms True, not False"):
        adapt(
            trainable_encoder("people_scratch"),
            records,
            tmp_path / "run",
            dataclasses.replace(settings, norms=False),
        )
    more = adapt(trainable_encoder("people_scratch"), records, tmp_path / "two", longer)
    assert [state["round"] for state in more.states] == [0, 1, 2]
    np.testing.assert_allclose(more.states[1]["score"], result.states[1]["score"])
    assert more.kept in (1, 2)


def test_an_encoder_without_batch_norms_stays(records):
    import keras

    image = keras.Input((64, 32, 3))
    plain = keras.Model(
        image, {"embedding": keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))}
    )
    before = plain.get_weights()
    assert fit_norms(plain, records) == 0
    for one, two in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)
