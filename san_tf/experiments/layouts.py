"""Where the texels of a recipe's textures lie on the body, and what that allows."""

from __future__ import annotations

import numpy as np

from san_tf.experiments.recipe import Recipe


def mirror_map_of(recipe: Recipe) -> np.ndarray | None:
    """How a texture is mirrored with its image: None for the map of this package's body.

    Of another layout it is not known where left and right of the person lie. Such textures stay as they are,
    as in the public code: the decoder is then asked to paint the person of a mirrored image unmirrored.

    Returns:
        None, or `(T, T, 2)` int64 that leaves every texel in its place.
    """
    if recipe.generator.texture_layout == "san_tf":
        return None
    return np.moveaxis(np.indices((recipe.texture_size, recipe.texture_size)), 0, -1)
