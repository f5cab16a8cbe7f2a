"""The contrastive loss, its memory and its batches, against hand arithmetic and naive loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.adaptation.contrast import (
    ClusterContrast,
    centroids,
    cluster_batches,
    cluster_loss,
    cluster_steps,
    moved_memory,
)


def unit(rng, rows, dimensions=5):
    values = rng.standard_normal((rows, dimensions))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_the_loss_by_hand():
    memory = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    feature = tf.constant([[1.0, 0.0], [0.6, 0.8]])
    # At temperature 0.5 the logits are (2, 0) and (1.2, 1.6).
    expected = (np.log(1 + np.exp(-2)) + np.log(1 + np.exp(0.4))) / 2
    assert float(cluster_loss([0, 0], feature, memory, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_the_memory_moves_by_hand():
    memory = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    feature = tf.constant([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    label = tf.constant([0, 1, 0])
    hardest = moved_memory(label, feature, memory, 0.25, True).numpy()
    # Row 0 is less like its centroid than row 2: 0.25 (1, 0) + 0.75 (0.6, 0.8) = (0.7, 0.6).
    np.testing.assert_allclose(hardest[0], np.array([0.7, 0.6]) / np.hypot(0.7, 0.6), rtol=1e-6)
    np.testing.assert_allclose(hardest[1:], [[0, 1], [-1, 0]])
    mean = moved_memory(label, feature, memory, 0.25, False).numpy()
    # The mean of rows 0 and 2 is (0.7, 0.7): 0.25 (1, 0) + 0.75 (0.7, 0.7) = (0.775, 0.525).
    np.testing.assert_allclose(mean[0], np.array([0.775, 0.525]) / np.hypot(0.775, 0.525), rtol=1e-6)


def test_centroids_are_means_of_unit_rows():
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((20, 4)), np.array([0, 1, -1, 1] * 5)
    found = centroids(features, labels)
    for cluster in (0, 1):
        rows = [row / np.linalg.norm(row) for row in features[labels == cluster]]
        mean = np.mean(rows, axis=0)
        np.testing.assert_allclose(found[cluster], mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_training_step_moves_encoder_and_memory_but_not_the_classifier():
    image = keras.Input((4, 4, 3))
    embedding = keras.layers.Dense(6, name="body")(keras.layers.Flatten()(image))
    logits = keras.layers.Dense(9, name="classifier")(embedding)
    encoder = keras.Model(image, {"embedding": embedding, "logits": logits})
    model = ClusterContrast(encoder, 3, temperature=0.5, momentum=0.25)
    rng = np.random.default_rng(1)
    memory = unit(rng, 3, 6)
    model.memory.assign(memory)
    model.compile(keras.optimizers.SGD(0.1))
    images = rng.standard_normal((4, 4, 4, 3)).astype(np.float32)
    label = np.array([0, 0, 2, 2], np.int32)
    feature = model(images).numpy()
    before = [value.copy() for value in encoder.get_weights()]
    logs = model.fit(tf.data.Dataset.from_tensors({"image": images, "label": label}), verbose=0).history
    assert logs["loss"][0] == pytest.approx(float(cluster_loss(label, feature, memory, 0.5)), rel=1e-5)
    nearest = np.argmax(feature @ memory.T, axis=1)
    assert logs["accuracy"][0] == pytest.approx(np.mean(nearest == label))
    np.testing.assert_allclose(
        np.asarray(model.memory), moved_memory(label, feature, memory, 0.25, True), atol=1e-6
    )
    body, _, *classifier = encoder.get_weights()
    assert not np.allclose(body, before[0])
    for value, former in zip(classifier, before[2:], strict=True):
        np.testing.assert_array_equal(value, former)
    assert float(cluster_loss(label, model(images), memory, 0.5)) < logs["loss"][0]


def test_batches_hold_different_clusters_with_their_cameras_in_turn():
    rng = np.random.default_rng(2)
    labels = rng.permutation(np.repeat([0, 1, 2, 3, 4, -1], [40, 3, 8, 8, 8, 30]))
    # Camera 1 has one crop of each cluster, camera 0 the rest.
    camids = np.zeros(len(labels), np.int64)
    for cluster in range(5):
        camids[np.flatnonzero(labels == cluster)[0]] = 1
    steps = cluster_steps(labels, 2, 4)
    assert steps == 9  # 67 crops in batches of 8
    seen = []
    for epoch in range(3):
        batches = cluster_batches(labels, camids, 2, 4, seed=5, epoch=epoch)
        assert batches.shape == (steps, 8)
        np.testing.assert_array_equal(batches, cluster_batches(labels, camids, 2, 4, 5, epoch))
        for batch in batches:
            first, second = labels[batch[:4]], labels[batch[4:]]
            assert len(set(first)) == len(set(second)) == 1 and first[0] != second[0]
            assert first[0] >= 0 and second[0] >= 0
            for crops in (batch[:4], batch[4:]):
                size = np.count_nonzero(labels == labels[crops[0]])
                assert len(set(crops)) == min(size, 4)
                assert (camids[crops] == 1).any()
            seen += [first[0], second[0]]
    counts = np.bincount(seen)
    assert counts.min() >= 0.5 * counts.max()  # large and small ones about equally often
    assert not np.array_equal(
        cluster_batches(labels, camids, 2, 4, 5, 0), cluster_batches(labels, camids, 2, 4, 6, 0)
    )


def test_every_cluster_gets_its_turn():
    labels = np.repeat(np.arange(10), 2)
    assert cluster_steps(labels, 4, 8) == 3
    batches = cluster_batches(labels, np.full(20, -1), 5, 8, 0, 0)
    assert batches.shape == (2, 40) and set(labels[batches.ravel()]) == set(range(10))
