import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.evaluation.embedding import Embedder, embed


def images(number=7):
    return np.random.default_rng(0).standard_normal((number, 8, 4, 3)).astype(np.float32)


def first_column(batch, training):
    """An encoder that is easy to compute by hand, and that a mirror image changes."""
    assert training is False
    return {"embedding": tf.reduce_sum(batch[:, :, 0], axis=1), "logits": tf.zeros((1, 5))}


def test_embeds_every_image_in_order_with_a_smaller_last_batch():
    dataset = tf.data.Dataset.from_tensor_slices(images()).batch(3)
    features = embed(first_column, dataset)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, images()[:, :, 0].sum(axis=1), atol=1e-5)


def test_flip_averages_and_normalize_scales_afterwards():
    dataset = tf.data.Dataset.from_tensor_slices({"image": images()}).batch(7)
    mean = (images()[:, :, 0].sum(axis=1) + images()[:, :, -1].sum(axis=1)) / 2
    np.testing.assert_allclose(embed(first_column, dataset, flip=True), mean, atol=1e-5)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(first_column, dataset, flip=True, normalize=True), expected, atol=1e-5)


def test_keras_model_runs_in_inference_mode_and_gives_float32():
    inputs = keras.Input((8, 4, 3))
    dropped = keras.layers.Dropout(0.9)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, {"embedding": keras.layers.Activation("linear", dtype="float16")(dropped)})
    features = embed(model, tf.data.Dataset.from_tensor_slices(images()).batch(4))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, images().reshape(7, -1), atol=5e-3)


def test_an_embedder_is_traced_once_and_sees_new_weights():
    traced = []
    weight = tf.Variable(1.0)

    def encoder(batch, training):
        traced.append(batch.shape)
        return weight * tf.reduce_sum(batch[:, :, 0], axis=1)

    embedder = Embedder(encoder)
    expected = images()[:, :, 0].sum(axis=1)
    for factor, size in ((1.0, 3), (2.5, 4), (-1.0, 7)):
        weight.assign(factor)
        features = embedder(tf.data.Dataset.from_tensor_slices(images()).batch(size))
        np.testing.assert_allclose(features, factor * expected, atol=1e-5)
    assert len(traced) == 1
    scaled = embedder(tf.data.Dataset.from_tensors(images()), normalize=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, atol=1e-6)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match="no images to embed"):
        embed(first_column, tf.data.Dataset.from_tensor_slices(images(0)).batch(3))


@pytest.mark.parametrize("flip", [False, True])
def test_five_crops_are_averaged_as_one_after_the_other(flip):
    # Of 18 x 9 pixels, windows of 16 x 8: one pixel of play across, two down.
    pixels = np.random.default_rng(0).standard_normal((4, 18, 9, 3)).astype(np.float32)
    expected = []
    for image in pixels:
        total = np.zeros(3)
        for top, left in ((0, 0), (0, 1), (2, 0), (2, 1), (1, 0)):
            view = tf.image.resize(image[top : top + 16, left : left + 8], (18, 9)).numpy()
            views = [view, view[:, ::-1]] if flip else [view]
            total += np.mean([v[:, 0].sum(axis=0) for v in views], axis=0) / 5
        expected.append(total)
    dataset = tf.data.Dataset.from_tensor_slices(pixels).batch(3)
    np.testing.assert_allclose(embed(first_column, dataset, flip, crops=5), expected, atol=1e-4)


def test_other_numbers_of_crops_are_refused():
    with pytest.raises(ValueError, match="crops must be 1 or 5"):
        embed(first_column, tf.data.Dataset.from_tensor_slices(images()).batch(3), crops=2)
