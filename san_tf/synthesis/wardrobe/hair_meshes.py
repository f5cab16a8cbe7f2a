"""Meshes that hang from the head: long hair, ponytails, buns, visors of caps."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import BodyShape, hair_vertices, load_body
from san_tf.synthesis.wardrobe.coordinates import Array
from san_tf.synthesis.wardrobe.extras import ExtraMesh, bind, box, fit, grid_faces
from san_tf.synthesis.wardrobe.hair import CROWN, hair_shade
from san_tf.synthesis.wardrobe.person import Hair, Identity

_TEXTURE = (48, 48)


def _strands(hair: Hair, seed: int) -> NDArray[np.uint8]:
    """A texture of strands, `(48, 48, 3)` uint8: columns run around the head, rows run down."""
    rows, columns = _TEXTURE
    turn = np.linspace(-np.pi, np.pi, columns)
    y = np.linspace(CROWN, CROWN - 0.6, rows)
    place = np.stack(np.broadcast_arrays(0.1 * np.sin(turn)[None], y[:, None], 0.1 * np.cos(turn)[None]), -1)
    rgb = hair_shade(place.reshape(-1, 3).astype(np.float32), hair, seed)
    return np.clip(np.rint(rgb), 4, 245).astype(np.uint8).reshape(rows, columns, 3)


def _strand_uv(vertices: Array) -> Array:
    turn = np.arctan2(vertices[:, 0], -(vertices[:, 2] - 0.045))
    return np.stack([turn / (2 * np.pi) + 0.5, np.clip(1 - (CROWN - vertices[:, 1]) / 0.6, 0, 1)], 1)


@lru_cache(maxsize=1)
def _head_offsets() -> Array:
    return np.zeros(len(load_body().rest_vertices), np.float32)


def hair_meshes(identity: Identity, seed: int) -> tuple[ExtraMesh, ...]:
    """Builds the meshes that hang from the head.

    Args:
        identity: `Identity`.
        seed: `int`. Drives strands.

    Returns:
        Zero to two `ExtraMesh`.
    """
    hair = identity.hair
    meshes: list[ExtraMesh] = []
    if hair.headwear != "hijab":
        if hair.style in ("bob", "long"):
            meshes.append(_long_hair(identity, seed))
        elif hair.style == "ponytail":
            meshes.append(_ponytail(identity, seed))
        elif hair.style == "bun":
            meshes.append(_bun(identity, seed))
    if hair.headwear == "cap":
        meshes.append(_visor(identity))
    return tuple(meshes)


def _long_hair(identity: Identity, seed: int) -> ExtraMesh:
    """The helper hair, cut to length; bobs and some long hair have no strands in front of the shoulders."""
    body, hair = load_body(), identity.hair
    rest, own = hair_vertices(BodyShape()), hair_vertices(identity.shape).copy()
    cut = CROWN - hair.length
    middle = rest[body.hair_faces].mean(1)
    keep = middle[:, 1] > cut - 0.02
    azimuth = np.degrees(np.arctan2(np.abs(middle[:, 0]), middle[:, 2] - 0.045))
    keep &= ~((azimuth < 66) & (middle[:, 1] > 1.40) & (middle[:, 1] < 1.605))  # the face stays free
    if hair.parting > -0.4 or hair.style == "bob":
        keep &= ~((middle[:, 1] < 1.43) & (middle[:, 2] > 0.06))
    ragged = 0.012 * np.sin(rest[:, 0] * 90)
    lift = np.maximum(cut + ragged - rest[:, 1], 0)
    own[:, 1] += lift
    # hair gets narrower towards its tips
    tip = np.clip((1.45 - rest[:, 1]) / 0.3, 0, 1)
    own[:, 0] *= 1 - 0.22 * tip
    own[:, 2] -= 0.02 * tip * (rest[:, 2] < 0.05)
    return ExtraMesh(
        name="long hair",
        vertices=own.astype(np.float32),
        faces=body.hair_faces[keep],
        uv=_strand_uv(rest).astype(np.float32),
        texture=_strands(hair, seed),
        bones=body.hair_bones.astype(np.int32),
        weights=(body.hair_weights / body.hair_weights.sum(1, keepdims=True)).astype(np.float32),
        double_sided=True,
    )


def _ponytail(identity: Identity, seed: int) -> ExtraMesh:
    """A tail from the back of the head, thickest in the middle."""
    hair = identity.hair
    rows, columns = 9, 9
    t = np.linspace(0, 1, rows)[:, None]
    turn = np.linspace(-np.pi, np.pi, columns)[None]
    high = 0.035 * (hair.parting > 0)
    radius = 0.012 + 0.024 * np.sin(np.pi * np.clip(t * 0.9 + 0.08, 0, 1)) ** 0.7
    y = (
        1.575
        + high
        - hair.length * t
        + 0.03 * np.sin(np.pi * np.clip(2.2 * t, 0, 1))
        + 0.3 * radius * np.cos(turn)
    )
    x = radius * np.sin(turn) * 1.15
    z = -0.04 - 0.055 * np.sin(np.pi * np.clip(0.08 + 0.75 * t, 0, 1)) - radius * np.cos(turn) * 0.8
    vertices = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3).astype(np.float32)
    bones, weights = bind(len(vertices), {"Head": 1.0, "Spine1": 0.0})
    loose = np.clip((np.broadcast_to(t, (rows, columns)).reshape(-1) - 0.4) / 1.2, 0, 0.5).astype(np.float32)
    weights = np.stack([1 - loose, loose], 1)
    u = np.broadcast_to((turn / (2 * np.pi) + 0.5), (rows, columns))
    v = np.broadcast_to(0.85 - 0.6 * t, (rows, columns))
    return ExtraMesh(
        name="ponytail",
        vertices=fit(vertices, identity.shape, _head_offsets()),
        faces=grid_faces(rows, columns),
        uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
        texture=_strands(hair, seed),
        bones=bones,
        weights=weights,
        double_sided=True,
    )


def _bun(identity: Identity, seed: int) -> ExtraMesh:
    """A bun on the crown or at the back of the head."""
    vertices, faces, uv = box((0.036, 0.034, 0.034), 1.0, 7, 12)
    place = (0.0, 1.66, -0.005) if identity.hair.parting > 0 else (0.0, 1.59, -0.062)
    vertices = vertices + np.array(place, np.float32)
    bones, weights = bind(len(vertices), {"Head": 1.0})
    return ExtraMesh(
        name="bun",
        vertices=fit(vertices, identity.shape, _head_offsets()),
        faces=faces,
        uv=uv,
        texture=_strands(identity.hair, seed),
        bones=bones,
        weights=weights,
    )


def _visor(identity: Identity) -> ExtraMesh:
    """The peak of a cap."""
    rows, columns = 3, 11
    turn = np.radians(np.linspace(-62, 62, columns))[None]
    out = np.linspace(0, 1, rows)[:, None]
    reach = 0.07 * out * np.clip(np.cos(turn) * 1.25, 0, 1) ** 0.5
    x = (0.081 + 0.2 * reach) * np.sin(turn)
    z = 0.045 + (0.108 * np.cos(turn)) + reach
    y = 1.597 - 0.026 * out - 0.014 * np.sin(turn) ** 2 * out + 0 * turn
    vertices = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3).astype(np.float32)
    bones, weights = bind(len(vertices), {"Head": 1.0})
    color = np.array(identity.hair.headwear_color.rgb, np.float32)
    texture = np.tile(np.clip(color * 0.92, 4, 250).astype(np.uint8), (4, 4, 1))
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(1, 0, rows))
    return ExtraMesh(
        name="visor",
        vertices=fit(vertices, identity.shape, _head_offsets()),
        faces=grid_faces(rows, columns),
        uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
        texture=texture,
        bones=bones,
        weights=weights,
        double_sided=True,
    )
