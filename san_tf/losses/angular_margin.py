"""Margins on the cosine of an embedding and its identity's direction, in front of the identity loss."""

from __future__ import annotations

import math
from typing import Literal

import tensorflow as tf

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
