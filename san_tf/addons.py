"""TensorFlow Addons by name, where it is installed: its optimisers and its triplet losses, for a recipe.

`optimizer: tfa.LAMB` and `triplet: tfa.TripletSemiHardLoss` are all it takes. TensorFlow Addons has reached
the end of its life and runs with Keras 2.15 only; `pip install ".[addons]"` sets that stack up.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

from san_tf.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

PREFIX = "tfa."
# Those that need nothing but a learning rate; the wrappers (Lookahead, SWA) and COCOB, which has no rate, do.
OPTIMIZERS = ("AdaBelief", "AdamW", "LAMB", "LazyAdam", "NovoGrad", "RectifiedAdam", "SGDW", "Yogi")
# Those of this package, which need no TensorFlow Addons.
OWN_OPTIMIZERS = ("adam", "sgd")
OWN_TRIPLET_LOSSES = ("batch-hard", "soft-margin")
TRIPLET_LOSSES = ("TripletHardLoss", "TripletSemiHardLoss")


def check_choice(field: str, value: str, own: tuple[str, ...], addons: tuple[str, ...]) -> None:
    """Check a recipe's choice between our own and what TensorFlow Addons has; imports nothing.

    Args:
        field: the recipe's, for the message.
        value: ours, or `tfa.` and a name.
        own: the names of ours, and those that are registered.
        addons: what may follow `tfa.`.

    Raises:
        UserError: there is no such thing, or TensorFlow Addons is not installed.

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
    """A triplet loss of TensorFlow Addons as a function like `san_tf.losses.batch_hard_triplet_loss`.

    Distances are Euclidean. Rows without identity (label -1) take no part, and a batch without a triplet
    gives 0 with zero gradients: TensorFlow Addons would take -1 for an identity, and give the margin or NaN.

    `TripletHardLoss` is our batch-hard loss: the same hardest pairs, the same mean over anchors. Its
    distances come from |a|^2 + |b|^2 - 2ab, which leaves them fewer digits. `TripletSemiHardLoss` takes, for
    each pair of one identity, the nearest negative that is farther away than the positive, else the farthest
    of all, and the mean over pairs (Schroff et al., "FaceNet", CVPR 2015); it is meant for embeddings of
    length 1.

    Args:
        name: `tfa.` and one of `TRIPLET_LOSSES`.

    Returns:
        Function of label `(batch,)`, embedding `(batch, dimensions)` and margin to a float32 scalar.

    Raises:
        UserError: an unknown name, or TensorFlow Addons is not installed.
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
        # Each row is its own pair; one more makes a positive.
        positive = tf.math.count_nonzero(same, dtype=tf.int32) > tf.size(label)
        negative = tf.reduce_any(tf.logical_not(same))
        # Not the loss times 0 or 1: the gradient of NaN times 0 is NaN.
        return tf.cond(
            positive & negative,
            lambda: kind(margin=margin)(label, embedding),
            lambda: 0.0 * tf.reduce_sum(embedding),
        )

    return loss
