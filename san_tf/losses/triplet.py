"""L_Triplet: the batch-hard triplet loss on the re-ID feature, and how it chooses rows of the batch."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def chosen_rows(values: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`values[rows]`, a row as often as it is chosen: `tf.gather` with a reproducible gradient.

    Args:
        values: `(batch, dimensions)` float32.
        rows: `(chosen,)` integers in [0, batch).

    Returns:
        `(chosen, dimensions)` float32.

    Example:
        >>> chosen_rows(tf.constant([[1.0], [2.0]]), tf.constant([1, 1, 0])).numpy().ravel().tolist()
        [2.0, 2.0, 1.0]
    """

    @tf.custom_gradient
    def gathered(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            choice = tf.one_hot(rows, tf.shape(values)[0], dtype=upstream.dtype)
            return tf.matmul(choice, upstream, transpose_a=True)

        return tf.gather(values, rows), backward

    return gathered(values)


def chosen_elements(values: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """`values[i, columns[i]]` of each row i, with a reproducible gradient.

    Args:
        values: `(batch, width)` float32, or `(1, width)` for the same row each time.
        columns: `(batch,)` integers in [0, width).

    Returns:
        `(batch,)` float32.

    Example:
        >>> chosen_elements(tf.constant([[1.0, 2.0], [3.0, 4.0]]), tf.constant([1, 0])).numpy().tolist()
        [2.0, 3.0]
    """
    choice = tf.one_hot(columns, tf.shape(values)[1], on_value=True, off_value=False, dtype=tf.bool)
    # One element and zeros: the sum is exact. No product, for infinity times 0 is not a number.
    return tf.reduce_sum(tf.where(choice, values, tf.zeros_like(values)), axis=1)


# Below it a distance has no usable direction: value 1e-6, gradient 0 instead of NaN.
SMALLEST_SQUARED_DISTANCE = 1e-12


def batch_hard_triplet_loss(label: tf.Tensor, embedding: tf.Tensor, margin: float | None = 0.3) -> tf.Tensor:
    """Mean over anchors of [max d(anchor, same identity) - min d(anchor, other identity) + margin]_+.

    With the soft margin (`margin=None`) the hinge becomes ln(1 + exp(max d - min d)), which never stops
    pulling and has no length that the embedding could shrink to.

    d is the Euclidean distance. An anchor counts as its own positive, as in the public implementations, so an
    identity with a single image in the batch only pushes the others away. Anchors without any negative, and
    rows without identity, take no part.

    Args:
        label: `(batch,)` integers, -1 for a row without identity.
        embedding: `(batch, dimensions)` of any float dtype; computed in float32.
        margin: in units of the embedding's distance; None for the soft margin.

    Returns:
        float32 scalar; 0 if no anchor has a negative.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5
    and section 3.2 for the soft margin.

    Example:
        >>> float(batch_hard_triplet_loss(tf.constant([0, 0, 1]), tf.constant([[0.0], [1.0], [3.0]]), 1.5))
        0.1666666716337204
    """
    embedding = tf.cast(embedding, tf.float32)
    known = label >= 0
    same = tf.equal(label[:, None], label[None, :]) & known[:, None] & known[None, :]
    other = tf.not_equal(label[:, None], label[None, :]) & known[:, None] & known[None, :]

    # The hardest pairs are found with one matrix product outside the tape, their distances are then computed
    # from differences: |a|^2 + |b|^2 - 2ab alone loses half of the digits of small distances.
    centred = tf.stop_gradient(embedding - tf.reduce_mean(embedding, axis=0))
    norms = tf.reduce_sum(tf.square(centred), axis=1)
    squared = norms[:, None] + norms[None, :] - 2.0 * tf.matmul(centred, centred, transpose_b=True)
    positive = tf.argmax(tf.where(same, squared, tf.fill(tf.shape(squared), -tf.float32.max)), axis=1)
    negative = tf.argmin(tf.where(other, squared, tf.fill(tf.shape(squared), tf.float32.max)), axis=1)

    difference = _distance(embedding, positive) - _distance(embedding, negative)
    hinge = tf.nn.softplus(difference) if margin is None else tf.nn.relu(difference + margin)
    mask = tf.cast(tf.reduce_any(other, axis=1), tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(hinge * mask), tf.reduce_sum(mask))


def _distance(embedding: tf.Tensor, partner: tf.Tensor) -> tf.Tensor:
    """Euclidean distance of each row to the row `partner` names: `(batch,)`."""
    squared = tf.reduce_sum(tf.square(embedding - chosen_rows(embedding, partner)), axis=1)
    return tf.sqrt(tf.maximum(squared, SMALLEST_SQUARED_DISTANCE))
