"""Values and gradients against numbers of the public PyTorch implementations, and against naive loops."""

import numpy as np
import pytest
import tensorflow as tf

from san_tf.losses import (
    batch_hard_triplet_loss,
    centre_loss,
    circle_loss,
    draw_triplets,
    identity_loss,
    moved_centres,
    reconstruction_loss,
    texture_triplet_loss,
    with_margin,
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


# --- losses of strong baselines ---


def naive_circle(label, embedding, m, gamma):
    """ln(1 + sum_j exp(gamma a_n (s_n - m)) sum_i exp(-gamma a_p (s_p - 1 + m))), a mean over anchors."""
    x = embedding.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    each = []
    for a in range(len(x)):
        pulls, pushes = [], []
        for b in range(len(x)):
            if b == a or label[a] < 0 or label[b] < 0:
                continue
            s = float(x[a] @ x[b])
            if label[a] == label[b]:
                pulls.append(np.exp(-gamma * max(1 + m - s, 0) * (s - (1 - m))))
            else:
                pushes.append(np.exp(gamma * max(s + m, 0) * (s - m)))
        if pulls and pushes:
            each.append(np.log(1 + sum(pushes) * sum(pulls)))
    return np.mean(each) if each else 0.0


LABEL = np.array([0, 0, 1, 1, 1, 2, -1, -1], np.int32)
FEATURES = np.random.default_rng(3).normal(0, 2, (8, 5)).astype(np.float32)


@pytest.mark.parametrize(("margin", "scale"), [(0.25, 128.0), (0.25, 8.0), (0.4, 32.0)])
def test_circle_loss_is_its_formula(margin, scale):
    found = float(circle_loss(tf.constant(LABEL), tf.constant(FEATURES), margin, scale))
    assert found == pytest.approx(naive_circle(LABEL, FEATURES, margin, scale), rel=1e-5)


def test_circle_loss_pulls_by_its_weights_alone():
    """Its slope for a pair is that of the formula with weights held, by differences."""
    label, x = tf.constant([0, 0, 1]), tf.Variable([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    with tf.GradientTape() as tape:
        loss = circle_loss(label, x, 0.25, 4.0)
    slope = tape.gradient(loss, x).numpy()
    # Unit lengths: s_ap = 0.8, s_an = 0, s_pn = 0.6; anchors 0 and 1 have pairs of both kinds.
    held = {(0, 1): 1.25 - 0.8, (0, 2): 0.25, (1, 2): 0.6 + 0.25}

    def with_weights_held(points):
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        s = points @ points.T
        pull = -4.0 * held[0, 1] * (s[0, 1] - 0.75)
        exponents = [pull + 4.0 * held[pair] * (s[pair] - 0.25) for pair in ((0, 2), (1, 2))]
        return np.mean(np.log1p(np.exp(exponents)))

    for place in np.ndindex(3, 2):
        up, down = np.array(x, np.float64), np.array(x, np.float64)
        up[place] += 1e-5
        down[place] -= 1e-5
        expected = (with_weights_held(up) - with_weights_held(down)) / 2e-5
        assert slope[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("label", [[0, 1, 2], [0, 0, 0], [-1, -1, -1], [0, 0, -1]])
def test_circle_loss_without_pairs_of_both_kinds_is_0_with_no_slope(label):
    x = tf.Variable([[1.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    with tf.GradientTape() as tape:
        loss = circle_loss(tf.constant(label), x)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, x), np.zeros((3, 2)))


def test_centre_loss_and_its_centres_are_their_formulas():
    centres = np.random.default_rng(4).normal(size=(4, 5)).astype(np.float32)
    known = [row for row in range(8) if LABEL[row] >= 0]
    expected = np.mean([0.5 * np.sum((FEATURES[row] - centres[LABEL[row]]) ** 2) for row in known])
    x = tf.Variable(FEATURES)
    with tf.GradientTape() as tape:
        loss = centre_loss(tf.constant(LABEL), x, tf.constant(centres))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    slope = tape.gradient(loss, x).numpy()
    for row in range(8):
        pull = (FEATURES[row] - centres[LABEL[row]]) / len(known) if row in known else np.zeros(5)
        np.testing.assert_allclose(slope[row], pull, atol=1e-6)
    moved = centres.astype(np.float64)
    for j in range(4):
        rows = [row for row in known if LABEL[row] == j]
        delta = sum(centres[j] - FEATURES[row] for row in rows) / (1 + len(rows))
        moved[j] = centres[j] - 0.5 * delta
    found = moved_centres(tf.constant(LABEL), tf.constant(FEATURES), tf.constant(centres), 0.5).numpy()
    np.testing.assert_allclose(found, moved, atol=1e-6)
    np.testing.assert_array_equal(found[3], centres[3])


def test_a_step_that_overflowed_leaves_its_centres():
    broken = FEATURES.copy()
    broken[2, 1], broken[6, 0] = np.inf, np.nan  # of identity 1, and of none
    found = moved_centres(tf.constant(LABEL), tf.constant(broken), tf.ones((3, 5))).numpy()
    whole = moved_centres(tf.constant(LABEL), tf.constant(FEATURES), tf.ones((3, 5))).numpy()
    np.testing.assert_array_equal(found[1], np.ones(5))
    np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], rtol=1e-6)


def test_centre_loss_of_nobody_is_0_with_no_slope():
    x = tf.Variable(FEATURES)
    with tf.GradientTape() as tape:
        loss = centre_loss(tf.fill((8,), -1), x, tf.ones((3, 5)))
    assert float(loss) == 0.0 and not tape.gradient(loss, x).numpy().any()


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_margins_are_their_formulas(kind):
    margin, scale = (0.5, 64.0) if kind == "arcface" else (0.35, 30.0)
    angle = np.random.default_rng(5).uniform(0.01, np.pi - 0.01, (9, 4))
    label = np.array([0, 1, 2, 3, 0, 1, -1, 3, 2], np.int32)
    angle[7, 3] = np.pi - 0.1  # where cos(t + m) would rise again
    expected = scale * np.cos(angle)
    for row, own in enumerate(label):
        if own < 0:
            continue
        t = angle[row, own]
        if kind == "cosface":
            expected[row, own] = scale * (np.cos(t) - margin)
        elif t <= np.pi - margin:
            expected[row, own] = scale * np.cos(t + margin)
        else:
            expected[row, own] = scale * (np.cos(t) - margin * np.sin(margin))
    found = with_margin(tf.constant(label), tf.constant(np.cos(angle), tf.float32), kind, margin, scale)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_arcface_falls_with_the_angle_and_its_slope_is_finite_at_both_ends():
    cosine = tf.Variable(np.cos(np.linspace(0, np.pi, 200))[:, None].astype(np.float32))
    with tf.GradientTape() as tape:
        logits = with_margin(tf.zeros(200, tf.int32), cosine, "arcface", 0.5, 1.0)
    assert (np.diff(logits.numpy().ravel()) < 1e-6).all()
    slope = tape.gradient(logits, cosine).numpy()
    assert np.isfinite(slope).all() and (slope > 0).all()
