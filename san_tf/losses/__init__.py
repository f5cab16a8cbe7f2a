"""The losses as pure functions of tensors: SAN's four, and those of the field's strong baselines.

They work on a whole batch without a Python loop and share three habits: they compute in float32 whatever
precision comes in, rows they cannot judge (label -1, texture weight 0) are masked out, and a batch with
nothing to judge gives 0 with zero gradients.
"""

from san_tf.losses.centre import centre_loss, moved_centres
from san_tf.losses.circle import circle_loss
from san_tf.losses.identity import identity_loss, with_margin
from san_tf.losses.reconstruction import reconstruction_loss
from san_tf.losses.texture_triplet import draw_triplets, texture_triplet_loss
from san_tf.losses.triplet import batch_hard_triplet_loss

__all__ = [
    "batch_hard_triplet_loss",
    "centre_loss",
    "circle_loss",
    "draw_triplets",
    "identity_loss",
    "moved_centres",
    "reconstruction_loss",
    "texture_triplet_loss",
    "with_margin",
]
