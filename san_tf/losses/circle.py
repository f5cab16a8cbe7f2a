"""L_Triplet as a circle loss: pairs of one batch, each weighed by how far it is from where it should be."""

from __future__ import annotations

import tensorflow as tf

# Far below every exponent, and finite, so that no gradient is 0 times infinity.
_LEFT_OUT = -1e9


def circle_loss(
    label: tf.Tensor, embedding: tf.Tensor, margin: float = 0.25, scale: float = 128.0
) -> tf.Tensor:
    """Mean over anchors of ln(1 + sum_j exp(g a_j (s_j - m)) sum_i exp(-g a_i (s_i - 1 + m))).

    s are cosines to the anchor: s_i of the other images of its identity, s_j of other identities. The weights
    a_i = [1 + m - s_i]_+ and a_j = [s_j + m]_+ have no gradient. m is `margin`, g is `scale`. Anchors
    without positive or negative, and rows without identity, take no part.

    Args:
        label: `(batch,)` integers, -1 for a row without identity.
        embedding: `(batch, dimensions)` of any float dtype and length; computed in float32.
        margin: in [0, 1): positives are pulled to cosines above 1 - m, negatives to those below m.
        scale: steepness, positive.

    Returns:
        float32 scalar; 0 if no anchor has both a positive and a negative.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020,
    sections 3.2 and 3.3; the values are the paper's for person re-ID and those of fast-reid.

    Example:
        >>> points = tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> float(circle_loss(tf.constant([0, 0, 1]), points, 0.25, 8.0))  # ln(1 + 1/e)
        0.31326165795326233
    """
    embedding = tf.math.l2_normalize(tf.cast(embedding, tf.float32), axis=1, epsilon=1e-12)
    known = label >= 0
    pair = known[:, None] & known[None, :] & ~tf.eye(tf.shape(label)[0], dtype=tf.bool)
    equal = tf.equal(label[:, None], label[None, :])
    same, other = equal & pair, ~equal & pair
    cosine = tf.matmul(embedding, embedding, transpose_b=True)
    weight_same = tf.nn.relu(1.0 + margin - tf.stop_gradient(cosine))
    weight_other = tf.nn.relu(tf.stop_gradient(cosine) + margin)
    pull = tf.where(same, -scale * weight_same * (cosine - (1.0 - margin)), _LEFT_OUT)
    push = tf.where(other, scale * weight_other * (cosine - margin), _LEFT_OUT)
    each = tf.nn.softplus(tf.reduce_logsumexp(pull, axis=1) + tf.reduce_logsumexp(push, axis=1))
    mask = tf.cast(tf.reduce_any(same, axis=1) & tf.reduce_any(other, axis=1), tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(each * mask), tf.reduce_sum(mask))
