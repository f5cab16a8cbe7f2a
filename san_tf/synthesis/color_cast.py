"""The map from a texture's colours to its colours in one picture.

A texture holds the colour of the cloth. A photograph of the cloth is darker in the shade, warmer in the
evening, paler through haze. In this package's renderings the two colours of an average garment are 17 CIELAB
apart. A texture generator sees only the photograph, so it can be asked to paint the photograph's colours, but
not the cloth's.
"""

from __future__ import annotations

import functools

import numpy as np

from san_tf.synthesis.rasterizer import to_linear
from san_tf.synthesis.scene import BODY_MESH, Shot
from san_tf.synthesis.sensor import respond
from san_tf.synthesis.texels import texel_map, texels_at

# Too dark to divide the light by.
_DARK = 0.003
_FEWEST = 20
# The fit uses every 16th texel, and with a tenth of the weight a coarse grid of all colours. The grid keeps
# the map stable where a person wears only one colour.
_STRIDE = 16
_GRID_WEIGHT = 0.1


def color_cast(drawn: np.ndarray, texture: np.ndarray, shot: Shot) -> np.ndarray:
    """Fit the affine map from a texture's colours to the picture's colours.

    The light is the median over the body's visible pixels, so the map holds for the whole body and ignores
    shadows and folds. The camera's response is not linear; the fit is by least squares on the colours of this
    texture.

    Args:
        drawn: `(T, T, 3)` uint8 RGB, the texture on the person in the shot.
        texture: `(T, T, 3)` uint8 RGB, the texture whose colours are mapped: the same one without bags.
        shot: from `scene.draw_shot`.

    Returns:
        `(3, 4)` float32: RGB in 0-255 maps to `cast[:, :3] @ RGB + cast[:, 3]`, to be clipped to 0-255.

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
    """Light on the visible part of the body, `(3,)` linear RGB; under light 1, white cloth is white."""
    surface = shot.surface
    seen = surface.mesh == BODY_MESH
    cloth = to_linear(drawn[texels_at(surface.uv[seen], len(drawn))])
    bright = cloth.min(axis=1, initial=1.0) > _DARK
    if bright.sum() < _FEWEST:
        return np.ones(3, np.float32)
    return np.median(surface.light[seen][bright] / cloth[bright], axis=0)


@functools.cache
def _grid() -> np.ndarray:
    """A coarse grid of all colours, `(125, 3)` uint8."""
    steps = np.linspace(10, 245, 5).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
