"""L_TR: triplet re-ID constraints on the decoder's feature maps, the paper's perceptual loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from san_tf.losses.triplet import chosen_elements

# Named, because the default differs between devices and under XLA, and the same seed shall draw the same.
ALGORITHM = "philox"


def draw_triplets(label: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draw one positive and one negative for every row, uniformly, without a loop.

    Args:
        label: `(batch,)` integers, -1 for a row without identity: never anchor, positive or negative.
        seed: `(2,)` integers; the same seed draws the same triplets.

    Returns:
        positive, negative: `(batch,)` int64 row numbers; valid: `(batch,)` bool, False where a row has no
        other image of its identity, no other identity, or no identity (its row numbers mean nothing then).

    Example:
        >>> positive, negative, valid = draw_triplets(tf.constant([0, 0, 1]), tf.constant([1, 2]))
        >>> valid.numpy().tolist()
        [True, True, False]
    """
    known = label >= 0
    pair = known[:, None] & known[None, :]
    equal = tf.equal(label[:, None], label[None, :])
    same = equal & pair & ~tf.eye(tf.shape(label)[0], dtype=tf.bool)
    other = ~equal & pair
    # The largest of independent uniform numbers falls on every allowed partner with equal probability. One
    # matrix serves both draws: the two sets of partners do not overlap.
    lot = _uniform(tf.shape(equal), seed)
    positive = tf.argmax(tf.where(same, lot, -tf.ones_like(lot)), axis=1)
    negative = tf.argmax(tf.where(other, lot, -tf.ones_like(lot)), axis=1)
    return positive, negative, tf.reduce_any(same, axis=1) & tf.reduce_any(other, axis=1)


def _uniform(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`tf.random.stateless_uniform` in [0, 1), also under XLA, whose own makes other numbers of the bits.

    The low 23 of 32 random bits become the fraction of a float32 in [1, 2).
    """
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg=ALGORITHM)
    fraction = tf.bitwise.bitwise_and(bits, 0x7FFFFF)
    return tf.bitcast(tf.bitwise.bitwise_or(fraction, 0x3F800000), tf.float32) - 1.0


def texture_triplet_loss(
    label: tf.Tensor, blocks: Sequence[tf.Tensor], seed: tf.Tensor, margin: float = 0.3
) -> tf.Tensor:
    """Sum over decoder blocks of the mean over anchors of [(|a-p|^2 - |a-n|^2) / (h w c) + margin]_+.

    Every block draws its own triplets (`draw_triplets`).

    Args:
        label: `(batch,)` integers, -1 for a row without identity.
        blocks: feature maps `(batch, h, w, c)` of the decoder blocks, any float dtype; computed in float32.
        seed: `(2,)` integers.
        margin: of the mean squared difference.

    Returns:
        float32 scalar; 0 if no triplet can be drawn.

    Source: Jin et al., AAAI 2020, triplet re-ID constraints L_TR.

    Example:
        >>> maps = [tf.reshape(tf.constant([0.0, 1.0, 3.0, 4.0]), (4, 1, 1, 1))]
        >>> float(texture_triplet_loss(tf.constant([0, 0, 1, 1]), maps, tf.constant([0, 0])))
        0.0
    """
    seed = tf.convert_to_tensor(seed)
    losses = []
    for index, block in enumerate(blocks):
        own_seed = tf.random.experimental.stateless_fold_in(seed, index, alg=ALGORITHM)
        positive, negative, valid = draw_triplets(label, own_seed)
        features = tf.cast(tf.reshape(block, (tf.shape(block)[0], -1)), tf.float32)
        hinge = tf.nn.relu(_excess(features, positive, negative) + margin)
        mask = tf.cast(valid, tf.float32)
        losses.append(tf.math.divide_no_nan(tf.reduce_sum(hinge * mask), tf.reduce_sum(mask)))
    return tf.add_n(losses)


def _excess(features: tf.Tensor, positive: tf.Tensor, negative: tf.Tensor) -> tf.Tensor:
    """Mean squared difference to the positive minus that to the negative: `(batch,)`.

    |a-p|^2 - |a-n|^2 = (p - n)(p + n - 2a), read off one matrix product of the batch with itself.
    """
    count = tf.cast(tf.shape(features)[1], tf.float32)
    gram = _gram(features) / count
    norms = tf.linalg.diag_part(gram)
    # Element (a, p) holds |p|^2 - 2 a.p, the part of |a - p|^2 that depends on the partner.
    partners = norms[None, :] - 2.0 * gram
    return chosen_elements(partners, positive) - chosen_elements(partners, negative)


@tf.custom_gradient
def _gram(features: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Inner products of all rows, `(batch, batch)`, one matrix product backward; TensorFlow needs two."""

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        return tf.matmul(upstream + tf.transpose(upstream), features)

    return tf.matmul(features, features, transpose_b=True), backward
