"""L_ID: cross entropy over the training identities with label smoothing."""

from __future__ import annotations

import tensorflow as tf


def identity_loss(label: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.1) -> tf.Tensor:
    """Cross entropy against q = (1 - smoothing) onehot(label) + smoothing / C, averaged over labelled rows.

    Args:
        label: `(batch,)` integers in [0, C), or -1 for a row without identity (it is masked out).
        logits: `(batch, C)` of any float dtype; computed in float32.
        smoothing: in [0, 1); 0 is plain cross entropy.

    Returns:
        float32 scalar; 0 if no row has an identity.

    Source: Jin et al., "Semantics-Aligned Representation Learning for Person Re-identification", AAAI 2020;
    label smoothing by Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7.

    Example:
        >>> float(identity_loss(tf.constant([0, -1]), tf.zeros((2, 4))))  # log 4
        1.3862943649291992
    """
    logits = tf.cast(logits, tf.float32)
    known = label >= 0
    # Row 0 stands in for "no identity" so that the lookup stays in range; the mask removes its value.
    hard = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.where(known, label, tf.zeros_like(label)), logits
    )
    # -mean(log softmax) is the cross entropy against the uniform distribution.
    uniform = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
    each = (1.0 - smoothing) * hard + smoothing * uniform
    mask = tf.cast(known, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(each * mask), tf.reduce_sum(mask))
