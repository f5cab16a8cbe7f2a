"""The wardrobe: random people, their textures, clothes and accessories.

`sample_identity(seed)` draws a description of a person; `dress(identity)` makes the texture, the thickness of
the clothes and extra meshes from it; `pose_extra` moves these meshes with a pose.
"""

from san_tf.synthesis.wardrobe.bags import held_thing
from san_tf.synthesis.wardrobe.dressing import sample_identity
from san_tf.synthesis.wardrobe.extras import ExtraMesh, pose_extra
from san_tf.synthesis.wardrobe.outfit import MAX_OFFSET, TEXTURE_SIZE, Outfit, dress, paint_texture
from san_tf.synthesis.wardrobe.person import (
    Bag,
    Color,
    Face,
    Hair,
    Identity,
    Lower,
    Neckwear,
    Pattern,
    Shoes,
    Upper,
)

__all__ = [
    "MAX_OFFSET", "TEXTURE_SIZE", "Bag", "Color", "ExtraMesh", "Face", "Hair", "Identity", "Lower",
    "Neckwear", "Outfit", "Pattern", "Shoes", "Upper", "dress", "held_thing", "paint_texture", "pose_extra",
    "sample_identity",
]  # fmt: skip
