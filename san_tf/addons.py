"""Optimisers and triplet losses of TensorFlow Addons for a recipe, by name.

A recipe says, for example, `optimizer: tfa.LAMB` and `triplet: tfa.TripletSemiHardLoss`. TensorFlow Addons is
no longer developed and runs only with Keras 2.15; `pip install ".[addons]"` installs that stack.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from san_tf.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

PREFIX = "tfa."
# The optimisers that need only a learning rate: not the wrappers (Lookahead, SWA), nor COCOB without a rate.
OPTIMIZERS = ("AdaBelief", "AdamW", "LAMB", "LazyAdam", "NovoGrad", "RectifiedAdam", "SGDW", "Yogi")
# Choices of this package, which do not need TensorFlow Addons.
OWN_OPTIMIZERS = ("adam", "sgd")
OWN_TRIPLET_LOSSES = ("batch-hard", "soft-margin", "circle")
TRIPLET_LOSSES = ("TripletHardLoss", "TripletSemiHardLoss")


def check_choice(field: str, value: str, own: tuple[str, ...], addons: tuple[str, ...]) -> None:
    """Check a recipe's choice of this package's or a TensorFlow Addons class; imports nothing.

    Args:
        field: field of the recipe, for the message.
        value: one of `own`, or `tfa.` and a name.
        own: names of this package's choices, including registered ones.
        addons: names that may follow `tfa.`.

    Raises:
        UserError: the name is unknown, or TensorFlow Addons is not installed.

    Example:
        >>> check_choice("optimizer", "adam", OWN_OPTIMIZERS, OPTIMIZERS)
    """
    if value in own:
        return
    if value.removeprefix(PREFIX) not in addons or not value.startswith(PREFIX):
        names = ", ".join(PREFIX + name for name in addons)
        yours = ", or your own from a module that --imports names" if field == "triplet" else ""
        raise UserError(
            f"There is no {field} {value!r}; choose {', '.join(own)}, of TensorFlow Addons {names}{yours}."
        )
    if importlib.util.find_spec("tensorflow_addons") is None:
        raise UserError(
            f"The {field} {value} needs TensorFlow Addons, which is not installed; install this package with "
            f"`pip install '.[addons]'` in an environment of Python 3.10 or 3.11, or choose {own[0]}."
        )


def triplet_loss(name: str) -> Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]:
    """Return a triplet loss of TensorFlow Addons, as a function like `batch_hard_triplet_loss`.

    Distances are Euclidean. Rows without identity (label -1) are ignored, and a batch without a triplet gives
    0 with zero gradients. TensorFlow Addons alone would use -1 as an identity, and return the margin or NaN.

    `TripletHardLoss` equals `san_tf.losses.batch_hard_triplet_loss`: the same hardest pairs, the same mean
    over anchors. It computes distances from |a|^2 + |b|^2 - 2ab, which is less precise.
    `TripletSemiHardLoss` takes, for each pair of one identity, the nearest negative that is farther away than
    the positive, or else the farthest negative, and the mean over pairs (Schroff et al., "FaceNet", CVPR
    2015). It is meant for embeddings of length 1.

    Args:
        name: `tfa.` and one of `TRIPLET_LOSSES`.

    Returns:
        Function of label `(batch,)`, embedding `(batch, dimensions)` and margin; returns a float32 scalar.

    Raises:
        UserError: the name is unknown, or TensorFlow Addons is not installed.
    """
    check_choice("triplet", name, OWN_TRIPLET_LOSSES, TRIPLET_LOSSES)
    import tensorflow as tf
    import tensorflow_addons as tfa

    kind = getattr(tfa.losses, name.removeprefix(PREFIX))

    def loss(label: tf.Tensor, embedding: tf.Tensor, margin: float) -> tf.Tensor:
        known = label >= 0
        label = tf.boolean_mask(label, known)
        embedding = tf.boolean_mask(tf.cast(embedding, tf.float32), known)
        same = tf.equal(label[:, None], label[None, :])
        # Each row matches itself, so more matches than rows mean that there is a positive.
        positive = tf.math.count_nonzero(same, dtype=tf.int32) > tf.size(label)
        negative = tf.reduce_any(tf.logical_not(same))
        # A condition, not a factor of 0 or 1, because the gradient of 0 * NaN is NaN.
        return tf.cond(
            positive & negative,
            lambda: kind(margin=margin)(label, embedding),
            lambda: 0.0 * tf.reduce_sum(embedding),
        )

    return loss
