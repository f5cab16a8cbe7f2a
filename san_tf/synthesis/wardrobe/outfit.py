"""Outfits: texture, thickness of clothes and extra meshes of an identity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from san_tf.errors import UserError
from san_tf.synthesis.body import load_body
from san_tf.synthesis.mesh import vertex_normals
from san_tf.synthesis.wardrobe.bags import bag_meshes, paint_straps
from san_tf.synthesis.wardrobe.cloth import paint_lower, paint_upper
from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, body_points, texel_points
from san_tf.synthesis.wardrobe.extras import ExtraMesh
from san_tf.synthesis.wardrobe.face import paint_face
from san_tf.synthesis.wardrobe.garments import (
    lower_cover,
    lower_offsets,
    neckwear_offsets,
    paint_neckwear,
    paint_shoes,
    paint_socks,
    shoe_offsets,
    upper_cover,
    upper_offsets,
)
from san_tf.synthesis.wardrobe.hair import hair_meshes, hair_offsets, paint_hair
from san_tf.synthesis.wardrobe.person import Identity
from san_tf.synthesis.wardrobe.skin import paint_skin
from san_tf.synthesis.wardrobe.skirts import skirt_meshes

TEXTURE_SIZE = 256
# Largest distance of clothes from the skin in metres; wider garments are separate meshes.
MAX_OFFSET = 0.07


@dataclass(frozen=True, eq=False)
class Outfit:
    """A dressed person, ready to be posed and drawn.

    Args:
        texture: `(256, 256, 3)` uint8 sRGB; row 0 is v = 1. Colours reach a few texels beyond the islands.
        offsets: `(V,)` float32 metres to push each body vertex out along its normal, 0 to `MAX_OFFSET`.
        extras: additional meshes: skirts, long hair, bags.
    """

    texture: NDArray[np.uint8]
    offsets: Array
    extras: tuple[ExtraMesh, ...]


@lru_cache(maxsize=1)
def _vertex_points() -> BodyPoints:
    body = load_body()
    part = np.zeros(len(body.rest_vertices), np.uint8)
    # limbs come last: a vertex between torso and arm must count as arm for the edge of a sleeve
    for face, label in sorted(
        zip(body.faces.tolist(), body.face_part.tolist(), strict=True), key=lambda f: f[1]
    ):
        part[face] = label
    return body_points(body.rest_vertices, vertex_normals(body.rest_vertices, body.faces), part)


def paint_texture(identity: Identity, size: int = TEXTURE_SIZE, bags: bool = True) -> NDArray[np.uint8]:
    """Paints the whole surface of a person.

    Args:
        identity: `Identity`.
        size: `int`. Side of the square texture in texels.
        bags: `bool`. Whether to paint the area of a bag and its straps; else the clothes under them.

    Returns:
        `(size, size, 3)` uint8 sRGB. Between the islands it has the person's mean colour, which keeps island
        borders clean when the texture is down-scaled.
    """
    points, index, _ = texel_points(size)
    seed = identity.seed * 1009 % 2_000_003
    rgb = np.tile(np.array(identity.skin.rgb, np.float32), (len(index), 1))
    cloth = upper_cover(points, identity.upper) + lower_cover(points, identity.lower)
    bare = np.flatnonzero((cloth < 1) | (points.y > 1.3))
    rgb[bare] = paint_skin(points.take(bare), identity.skin, seed)
    paint_face(points, rgb, identity.face, identity.hair, float(np.mean(identity.skin.rgb)), seed)
    paint_hair(points, rgb, identity.hair, seed)
    paint_socks(points, rgb, identity.shoes)
    if identity.shoes.kind != "boots" or identity.seed % 2:
        paint_shoes(points, rgb, identity.shoes, seed)
        paint_lower(points, rgb, identity.lower, seed, identity.relief)
    else:
        paint_lower(points, rgb, identity.lower, seed, identity.relief)
        paint_shoes(points, rgb, identity.shoes, seed)
    paint_upper(points, rgb, identity.upper, seed, identity.relief)
    paint_neckwear(points, rgb, identity.neckwear, seed)
    if identity.hair.headwear == "hijab" or identity.hair.style in ("long", "bob"):
        paint_hair(points, rgb, identity.hair, seed)
    paint_straps(points, rgb, identity.bag, bags)
    rgb *= points.occlusion[:, None]
    rgb = np.clip(np.rint(rgb), 4, 250)
    texture = np.empty((size * size, 3), np.uint8)
    texture[:] = rgb.mean(0).astype(np.uint8)
    texture[index] = rgb.astype(np.uint8)
    return texture.reshape(size, size, 3)


def dress(identity: Identity) -> Outfit:
    """Makes a person's texture, thickness of clothes and extra meshes.

    Args:
        identity: `Identity`, usually from `sample_identity`.

    Returns:
        `Outfit`; it depends on `identity` alone.

    Raises:
        UserError: `identity` is not an `Identity`.

    Example:
        >>> from san_tf.synthesis.wardrobe import dress, sample_identity
        >>> dress(sample_identity(0)).texture.shape
        (256, 256, 3)
    """
    if not isinstance(identity, Identity):
        raise UserError(
            f"dress() takes an Identity from sample_identity(seed). Received: {type(identity).__name__}."
        )
    seed = identity.seed * 1009 % 2_000_003
    points = _vertex_points()
    offsets = np.maximum(lower_offsets(points, identity.lower, seed), shoe_offsets(points, identity.shoes))
    offsets = np.maximum(offsets, upper_offsets(points, identity.upper, seed, identity.lower.kind == "skirt"))
    offsets = np.maximum(offsets, neckwear_offsets(points, identity.neckwear))
    offsets = np.maximum(offsets, hair_offsets(points, identity.hair, seed))
    offsets = np.clip(offsets, 0, MAX_OFFSET).astype(np.float32)
    extras = (*skirt_meshes(identity, seed), *hair_meshes(identity, seed), *bag_meshes(identity, offsets))
    return Outfit(texture=paint_texture(identity), offsets=offsets, extras=extras)
