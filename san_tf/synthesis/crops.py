"""Rendered crops: a picture of a person with its labels, and the map from texture colours to picture colours.

A texture holds the colour of the cloth. A photograph of the cloth is darker in the shade, warmer in the
evening, paler through haze. In this package's renderings the two colours of an average garment are 17 CIELAB
apart. A texture generator sees only the photograph, so it can be asked to paint the photograph's colours, but
not the cloth's. `color_cast` maps the one to the other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from san_tf.synthesis.crop_plans import CropSpec, Wearer
from san_tf.synthesis.people import clothes_texture, dressed_person
from san_tf.synthesis.rasterizer import to_linear
from san_tf.synthesis.scene import BODY_MESH, Shot, draw_shot
from san_tf.synthesis.sensor import encode_jpeg, encode_png, respond
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


# JPEG quality of the stored files. The recording's own, lower quality is applied earlier.
STORED_QUALITY = 92


@dataclass(frozen=True, eq=False)
class Crop:
    """A rendered record.

    Attributes:
        image: JPEG bytes.
        pid: identity; 0 for a distractor, -1 for junk.
        camid: camera id, from 0.
        filename: file name in the style of Market-1501.
        yaw: degrees in (-180, 180]; 0 faces the camera, 90 shows the person's left side.
        pose: one of `crop_plans.ACTIONS`.
        visibility: share of the person's silhouette that is inside the crop and not hidden, 0..1.
        texture: PNG bytes of the person's 256x256 texture without bags; empty unless the record is an
            image-texture pair.
        cast: `(3, 4)` float32, see `color_cast`; the identity map without a texture.
    """

    image: bytes
    pid: int
    camid: int
    filename: str
    yaw: float
    pose: str
    visibility: float
    texture: bytes
    cast: np.ndarray


def render_crop(spec: CropSpec) -> Crop:
    """Render one crop.

    Args:
        spec: from `synthetic_reid_index` or `pit_index`.

    Returns:
        A `Crop`; the same spec gives the same bytes in any process and any order.

    Raises:
        UserError: the spec's folder of photographs cannot be used.
    """
    shot = draw_shot(spec)
    image = encode_jpeg(shot.image, STORED_QUALITY)
    texture, cast = b"", np.eye(3, 4, dtype=np.float32)
    if spec.varied:
        clothes, texture = _clothes(spec.wearer)
        cast = color_cast(dressed_person(spec.wearer).texture, clothes, shot)
    return Crop(
        image, spec.pid, spec.camid, spec.filename, shot.yaw, shot.action, shot.visibility, texture, cast
    )


@functools.lru_cache(maxsize=4)
def _clothes(wearer: Wearer) -> tuple[np.ndarray, bytes]:
    """A person's texture without bags, as an array and as PNG bytes."""
    texture = clothes_texture(wearer)
    return texture, encode_png(texture)
