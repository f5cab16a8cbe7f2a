"""The head of "Bag of Tricks", and the form of ResNet that goes with fast-reid's weights."""

import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.forms import form_of
from san_tf.losses.triplet import batch_hard_triplet_loss
from san_tf.models import SAN, build_encoder
from san_tf.models.resnet import ResNetForm


@pytest.fixture(scope="module")
def encoder():
    encoder = build_encoder("thin_resnet", (32, 16, 3), 5, "bnneck", weights=None, seed=1)
    rng = np.random.default_rng(0)
    layer = encoder.get_layer("neck_bn")
    layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return encoder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(4, 32, 16, 3)).astype(np.float32)


def test_the_embedding_is_normed_and_the_classifier_has_no_bias(encoder, images):
    output = encoder(images, training=False)
    pooled = np.mean(output["stages"][3], axis=(1, 2))
    np.testing.assert_allclose(output["feature"], pooled, atol=1e-5)
    gamma, beta, mean, variance = encoder.get_layer("neck_bn").get_weights()
    expected = (pooled - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(output["embedding"], expected, atol=1e-5)
    (kernel,) = encoder.get_layer("classifier").get_weights()
    np.testing.assert_allclose(output["logits"], expected @ kernel, atol=1e-5)


def test_the_triplet_loss_acts_in_front_of_the_norm(encoder, images):
    san = SAN(encoder)
    batch = {"image": tf.constant(images), "label": tf.constant([0, 0, 1, 1])}
    outputs = san(batch["image"], training=False)
    terms = san.terms(batch, outputs)
    in_front, behind = (
        float(batch_hard_triplet_loss(batch["label"], outputs[name], 0.3))
        for name in ("feature", "embedding")
    )
    assert float(terms["triplet_loss"].value) == pytest.approx(in_front) != pytest.approx(behind)


def test_forms_of_resnet_are_told_apart():
    for form in (ResNetForm(), ResNetForm("3x3"), ResNetForm("3x3", "end")):
        built = build_encoder(
            "resnet50", (32, 16, 3), 4, weights=None, stride_on=form.stride_on, pool_padding=form.pool_padding
        )
        facts = form_of(built)["facts"]
        assert (facts["stride_on"], facts["pool_padding"]) == (form.stride_on, form.pool_padding)
    assert "stride_on" not in form_of(build_encoder("thin_resnet", (32, 16, 3), 4, weights=None))["facts"]
    with pytest.raises(UserError, match="pool_padding"):
        build_encoder("resnet50", (32, 16, 3), 4, weights=None, pool_padding="ceil")


def test_pooling_padded_at_the_end_equals_ceil_mode():
    # PyTorch's ceil_mode on a map of even size: windows start at 0, 2, ... and the last one has two rows.
    encoder = build_encoder("resnet50", (16, 16, 3), 4, weights=None, pool_padding="end", seed=1)
    x = np.random.default_rng(2).uniform(0, 1, (1, 8, 8, 64)).astype(np.float32)
    ours = encoder.get_layer("pool1_pool")(encoder.get_layer("pool1_pad")(x))[0]
    expected = [[x[0, i : i + 3, j : j + 3].max((0, 1)) for j in range(0, 8, 2)] for i in range(0, 8, 2)]
    np.testing.assert_array_equal(ours, expected)
