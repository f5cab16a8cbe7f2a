"""The four losses of SAN as pure functions of tensors; each works on a whole batch without a Python loop.

All of them share three habits: they compute in float32 whatever precision comes in, rows they cannot judge
(label -1, texture weight 0) are masked out, and a batch with nothing to judge gives 0 with zero gradients.
"""

from san_tf.losses.identity import identity_loss
from san_tf.losses.reconstruction import reconstruction_loss
from san_tf.losses.texture_triplet import draw_triplets, texture_triplet_loss
from san_tf.losses.triplet import batch_hard_triplet_loss

__all__ = [
    "batch_hard_triplet_loss",
    "draw_triplets",
    "identity_loss",
    "reconstruction_loss",
    "texture_triplet_loss",
]
