"""L_ID: cross entropy over the training identities with label smoothing; margins of angular classifiers."""

from __future__ import annotations

import math
from typing import Literal

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


AngularMargin = Literal["arcface", "cosface"]
# Below it sin has no usable slope: value 1e-6, gradient 0 instead of infinity.
_SMALLEST_SQUARED_SINE = 1e-12


def with_margin(
    label: tf.Tensor, cosine: tf.Tensor, kind: AngularMargin, margin: float, scale: float
) -> tf.Tensor:
    """Logits for the identity loss: s cos t of other identities; of its own, harder by the margin m.

    "arcface": s cos(t + m), an angle in radians. Beyond t = pi - m, where that would rise again, it goes on
    as s (cos t - m sin m), as in the authors' code. "cosface": s (cos t - m).

    Args:
        label: `(batch,)` integers in [0, C), -1 for a row without identity, which gets no margin.
        cosine: `(batch, C)` of any float dtype; computed in float32.
        kind: which margin.
        margin: m.
        scale: s.

    Returns:
        `(batch, C)` float32.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019,
    equation 3 (s = 64, m = 0.5); Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition",
    CVPR 2018, equation 4 (s = 64, m = 0.35).

    Example:
        >>> with_margin(tf.constant([0]), tf.constant([[0.5, 0.5]]), "cosface", 0.25, 8.0).numpy().tolist()
        [[2.0, 4.0]]
    """
    cosine = tf.cast(cosine, tf.float32)
    if kind == "cosface":
        harder = cosine - margin
    else:
        sine = tf.sqrt(tf.maximum(1.0 - tf.square(cosine), _SMALLEST_SQUARED_SINE))
        turned = cosine * math.cos(margin) - sine * math.sin(margin)
        harder = tf.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
    own = tf.one_hot(label, tf.shape(cosine)[1], on_value=True, off_value=False, dtype=tf.bool)
    return scale * tf.where(own, harder, cosine)
