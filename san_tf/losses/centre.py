"""L_Centre: embeddings stay near the centre of their identity, which follows them."""

from __future__ import annotations

import tensorflow as tf


def centre_loss(label: tf.Tensor, embedding: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Mean over labelled rows of |x - c_label|^2 / 2.

    Args:
        label: `(batch,)` integers in [0, C), -1 for a row without identity (it is masked out).
        embedding: `(batch, dimensions)` of any float dtype; computed in float32.
        centres: `(C, dimensions)` float32; they get no gradient, see `moved_centres`.

    Returns:
        float32 scalar; 0 if no row has an identity.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
    equation 2, as a mean in place of the sum, so that its weight does not depend on the batch's size.

    Example:
        >>> float(centre_loss(tf.constant([1, -1]), tf.constant([[3.0], [9.0]]), tf.constant([[0.0], [1.0]])))
        2.0
    """
    choice, rows = _choice(label, centres)
    own = tf.matmul(choice, tf.stop_gradient(centres))
    mask = tf.reduce_sum(choice, axis=1)
    squared = tf.reduce_sum(tf.square(tf.cast(embedding, tf.float32) - own), axis=1)
    return tf.math.divide_no_nan(0.5 * tf.reduce_sum(squared * mask), rows)


def moved_centres(label: tf.Tensor, embedding: tf.Tensor, centres: tf.Tensor, rate: float = 0.5) -> tf.Tensor:
    """The centres after a batch: c_j - rate sum_{label = j} (c_j - x) / (1 + number of rows with label j).

    Centres of identities that the batch does not have stay, and so does one whose embeddings are not finite,
    as in a step of float16 that is skipped.

    Args:
        label: as in `centre_loss`.
        embedding: as in `centre_loss`.
        centres: `(C, dimensions)` float32.
        rate: in [0, 1]; alpha of the source.

    Returns:
        `(C, dimensions)` float32.

    Source: Wen et al., ECCV 2016, equation 4.

    Example:
        >>> moved_centres(tf.constant([0, 0]), tf.constant([[3.0], [6.0]]), tf.zeros((1, 1))).numpy().tolist()
        [[1.5]]
    """
    choice, _ = _choice(label, centres)
    embedding = tf.cast(embedding, tf.float32)
    count = tf.reduce_sum(choice, axis=0)[:, None]
    # Not by 0 times infinity: rows that are not finite count as nothing, and their identities stay.
    finite = tf.math.is_finite(tf.reduce_sum(tf.abs(embedding), axis=1))
    broken = tf.reduce_max(choice * tf.cast(~finite, tf.float32)[:, None], axis=0)[:, None] > 0
    embedding = tf.where(finite[:, None], embedding, 0.0)
    # A product keeps the order of its sums, see `triplet`.
    step = (count * centres - tf.matmul(choice, embedding, transpose_a=True)) / (1.0 + count)
    return tf.where(broken, centres, centres - rate * step)


def _choice(label: tf.Tensor, centres: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`(batch, C)` float32, 1 at each row's identity, none where the label is -1; number of labelled rows."""
    choice = tf.one_hot(label, tf.shape(centres)[0], dtype=tf.float32)
    return choice, tf.reduce_sum(choice)
