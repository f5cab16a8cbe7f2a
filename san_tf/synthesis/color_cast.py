"""The colours a person's texture has in one picture of it, as light and camera leave them.

A texture holds what colour the cloth is; a photograph of it is darker in the shade, warmer in the evening,
paler through haze. In this package's renderings the two lie 17 CIELAB apart on an average garment: a texture
generator that learns to paint the former cannot have the colours of its photograph. What it can see, and what
it can be asked to paint, is the latter.
"""

from __future__ import annotations

import functools

import numpy as np

from san_tf.synthesis.rasterizer import to_linear
from san_tf.synthesis.scene import Shot
from san_tf.synthesis.sensor import respond
from san_tf.synthesis.texels import texel_map, texels_at

# Too dark to divide the light by.
_DARK = 0.003
_FEWEST = 20
# One texel in so many, and a coarse grid of all colours, which holds the map in place where a person wears
# one colour only, with a tenth of the weight.
_STRIDE = 16
_GRID_WEIGHT = 0.1


def color_cast(drawn: np.ndarray, texture: np.ndarray, shot: Shot) -> np.ndarray:
    """Fit the map from a texture's colours to those that it has in a picture.

    The light is the median over the body's visible pixels, so the map is of the whole body's, without shadows
    and folds; the camera's response is not linear, so the map is the one that is nearest on the colours of
    this texture.

    Args:
        drawn: `(T, T, 3)` uint8 RGB, what is drawn on the person in the shot.
        texture: `(T, T, 3)` uint8 RGB, whose colours the map shall be right for: the same without bags.
        shot: from `scene.draw_shot`.

    Returns:
        `(3, 4)` float32: RGB (0-255) -> `cast[:, :3] @ RGB + cast[:, 3]`, where it is to be clipped to 0-255.

    Example:
        >>> spec = generator.pit_index("smoke", "train")[0]
        >>> texture = dressed_person(spec.identity_seed, spec.dye).texture
        >>> color_cast(texture, texture, draw_shot(spec)).shape
        (3, 4)
    """
    colors = np.concatenate([texture[texel_map(len(texture)).inside][::_STRIDE], _grid()])
    photographed = 255.0 * respond(to_linear(colors) * _light_on(drawn, shot), shot.sensor, shot.exposure)
    weight = np.ones(len(colors))
    ours = len(colors) - len(_grid())
    weight[ours:] = _GRID_WEIGHT * ours / len(_grid())
    scale = np.sqrt(weight)[:, None]
    known = np.concatenate([colors, np.ones((len(colors), 1))], axis=1)
    fitted = np.linalg.lstsq(known * scale, photographed * scale, rcond=None)[0]
    return np.ascontiguousarray(fitted.T, np.float32)


def _light_on(drawn: np.ndarray, shot: Shot) -> np.ndarray:
    """`(3,)` linear RGB: the light that falls on the visible part of the body; 1 lights white cloth white."""
    surface = shot.surface
    seen = surface.mesh == 0
    cloth = to_linear(drawn[texels_at(surface.uv[seen], len(drawn))])
    bright = cloth.min(axis=1, initial=1.0) > _DARK
    if bright.sum() < _FEWEST:
        return np.ones(3, np.float32)
    return np.median(surface.light[seen][bright] / cloth[bright], axis=0)


@functools.cache
def _grid() -> np.ndarray:
    """`(125, 3)` uint8: all colours, coarsely."""
    steps = np.linspace(10, 245, 5).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
