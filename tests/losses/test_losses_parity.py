"""Values and gradients against numbers of the public PyTorch implementations, and against naive loops."""

import numpy as np
import pytest
import tensorflow as tf

from san_tf.losses import (
    batch_hard_triplet_loss,
    draw_triplets,
    identity_loss,
    reconstruction_loss,
    texture_triplet_loss,
)


def value_and_gradient(function, tensor):
    tensor = tf.convert_to_tensor(tensor)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        loss = function(tensor)
    return float(loss), tape.gradient(loss, tensor).numpy()


@pytest.fixture(scope="module")
def reference(parity):
    return dict(np.load(parity / "losses.npz"))


def test_identity_loss_equals_the_public_code(reference):
    label = reference["labels"].astype(np.int32)
    loss, gradient = value_and_gradient(lambda x: identity_loss(label, x, 0.1), reference["logits"])
    assert loss == pytest.approx(float(reference["xent_smooth"]), rel=1e-6)
    np.testing.assert_allclose(gradient, reference["xent_grad"], atol=1e-7, rtol=1e-5)


def test_triplet_loss_equals_the_public_code(reference):
    label = reference["labels"].astype(np.int32)
    loss, gradient = value_and_gradient(
        lambda x: batch_hard_triplet_loss(label, x, 0.3), reference["features"]
    )
    assert loss == pytest.approx(float(reference["triplet"]), rel=1e-6)
    np.testing.assert_allclose(gradient, reference["triplet_grad"], atol=1e-7, rtol=1e-5)


def naive_identity(label, logits, smoothing):
    total, rows = 0.0, 0
    for y, row in zip(label, logits.astype(np.float64), strict=True):
        if y < 0:
            continue
        log_p = row - np.log(np.sum(np.exp(row)))
        for c in range(len(row)):
            q = (1 - smoothing) * (c == y) + smoothing / len(row)
            total -= q * log_p[c]
        rows += 1
    return total / rows if rows else 0.0


def naive_triplet(label, embedding, margin):
    embedding = embedding.astype(np.float64)
    hinges = []
    for a in range(len(label)):
        if label[a] < 0:
            continue
        positives = [
            np.linalg.norm(embedding[a] - embedding[p]) for p in range(len(label)) if label[p] == label[a]
        ]
        negatives = [
            np.linalg.norm(embedding[a] - embedding[n])
            for n in range(len(label))
            if label[n] not in (label[a], -1)
        ]
        if negatives:
            hinges.append(max(0.0, max(positives) - min(negatives) + margin))
    return float(np.mean(hinges)) if hinges else 0.0


def naive_texture_triplet(label, blocks, seed, margin):
    total = 0.0
    for index, block in enumerate(blocks):
        fold = tf.random.experimental.stateless_fold_in(tf.constant(seed), index, alg="philox")
        positive, negative, valid = (t.numpy() for t in draw_triplets(tf.constant(label), fold))
        hinges = []
        for a in range(len(label)):
            if valid[a]:
                near = np.mean((block[a].astype(np.float64) - block[positive[a]]) ** 2)
                far = np.mean((block[a].astype(np.float64) - block[negative[a]]) ** 2)
                hinges.append(max(0.0, near - far + margin))
        total += np.mean(hinges) if hinges else 0.0
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("label", [[0, 3, 2, 2], [0, -1, 2, -1], [-1, -1, -1, -1]])
def test_identity_loss_equals_a_naive_loop(label, smoothing):
    logits = np.random.default_rng(0).normal(0, 3, (4, 5)).astype(np.float32)
    expected = naive_identity(label, logits, smoothing)
    assert float(identity_loss(tf.constant(label), logits, smoothing)) == pytest.approx(expected, rel=1e-5)


LABELS = [
    [0, 0, 1, 1, 2, 2],
    [0, 0, 0, 1, 1, 2],  # an identity with one image
    [0, 0, 1, 1, -1, -1],  # two rows without identity
    [5, 5, 5, 5, 5, 5],  # no negatives: 0
    [-1, -1, -1, -1, -1, -1],
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("margin", [0.0, 0.3, 20.0])
def test_triplet_loss_equals_a_naive_loop(label, margin):
    embedding = np.random.default_rng(1).normal(0, 2, (6, 7)).astype(np.float32)
    loss = float(batch_hard_triplet_loss(tf.constant(label), embedding, margin))
    assert loss == pytest.approx(naive_triplet(label, embedding, margin), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("label", LABELS)
def test_texture_triplet_loss_equals_a_naive_loop(label):
    rng = np.random.default_rng(2)
    blocks = [
        rng.normal(0, 1, (6, 4, 2, 3)).astype(np.float32),
        rng.normal(2, 1, (6, 8, 4, 2)).astype(np.float32),
    ]
    expected = naive_texture_triplet(label, blocks, [3, 4], 0.3)
    loss = float(
        texture_triplet_loss(tf.constant(label), [tf.constant(b) for b in blocks], tf.constant([3, 4]))
    )
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("weight", [[1, 1, 1], [1, 0, 1], [0.25, 1, 0], [0, 0, 0]])
def test_reconstruction_loss_equals_a_naive_loop(weight):
    rng = np.random.default_rng(3)
    target, painted = rng.uniform(-1, 1, (2, 3, 4, 4, 3)).astype(np.float32)
    each = [np.mean(np.abs(t - p)) for t, p in zip(target, painted, strict=True)]
    expected = sum(w * e for w, e in zip(weight, each, strict=True)) / sum(weight) if sum(weight) else 0.0
    assert float(reconstruction_loss(target, painted, tf.constant(weight, tf.float32))) == pytest.approx(
        expected, rel=1e-5
    )


def test_numerical_gradient_of_the_texture_triplet_loss():
    rng = np.random.default_rng(4)
    label = tf.constant([0, 0, 1, 1, -1])
    block = rng.normal(0, 1, (5, 2, 2, 2)).astype(np.float32)
    seed = tf.constant([9, 9])
    _, gradient = value_and_gradient(lambda x: texture_triplet_loss(label, [x], seed), block)
    assert np.abs(gradient).max() > 0.01  # some triplet is active, so that the comparison says something
    for index in np.ndindex(block.shape):
        step = np.zeros_like(block)
        step[index] = 1e-2
        slope = (
            float(texture_triplet_loss(label, [block + step], seed))
            - float(texture_triplet_loss(label, [block - step], seed))
        ) / 2e-2
        assert slope == pytest.approx(gradient[index], abs=2e-3)
