"""Hair and headwear: area on the head, colour, thickness; meshes of long hair, ponytails, buns, visors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import BodyShape, hair_vertices, load_body
from san_tf.synthesis.wardrobe import colors
from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.extras import ExtraMesh, bind, box, fit, grid_faces
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.noise import creases, solid_noise
from san_tf.synthesis.wardrobe.person import Color, Hair, Identity

HAIR_STYLES = ("bald", "buzz", "short", "quiff", "curly", "bob", "long", "ponytail", "bun")
HEADWEAR = ("none", "cap", "beanie", "hijab")
HEAD_CENTER = (0.0, 1.565, 0.045)
CROWN = 1.66

_COLORS: Mapping[str, tuple[tuple[int, int, int], float]] = {
    "black": ((24, 21, 22), 46),
    "dark brown": ((46, 33, 27), 24),
    "brown": ((78, 55, 40), 12),
    "light brown": ((112, 84, 58), 6),
    "blond": ((168, 136, 90), 7),
    "red": ((122, 62, 36), 3),
    "dyed": ((120, 60, 80), 1),
    "grey": ((128, 126, 124), 0),
    "white": ((196, 194, 190), 0),
}
_OLD = {"grey": 14.0, "white": 6.0}


def draw_hair(rng: np.random.Generator, feminine: bool, age: float, season: str, skin: Color) -> Hair:
    """Draws hair and headwear.

    Args:
        rng: `numpy.random.Generator`. Source of randomness.
        feminine: `bool`. If true, long styles are more common.
        age: `float` in [0, 1]. Old people are more often grey, old men more often bald.
        season: `"warm"`, `"mild"` or `"cold"`; beanies are common in the cold.
        skin: `Color`. Fair hair is rare with dark skin.

    Returns:
        `Hair`.
    """
    if feminine:
        styles = {"short": 7.0, "bob": 24, "long": 32, "ponytail": 24, "bun": 13}
    else:
        styles = {
            "bald": 3.0,
            "buzz": 16,
            "short": 46,
            "quiff": 18,
            "curly": 9,
            "bob": 3,
            "long": 1.5,
            "bun": 1,
        }
        styles["bald"] += 14 * max(0.0, age - 0.4)
    style = str(rng.choice(list(styles), p=np.array(list(styles.values())) / sum(styles.values())))
    weights = {name: weight for name, (_, weight) in _COLORS.items()}
    if age > 0.55:
        weights |= {name: weight * 8 * (age - 0.5) for name, weight in _OLD.items()}
    if np.mean(skin.rgb) < 145:
        weights |= {name: 0.05 * weights[name] for name in ("light brown", "blond", "red")}
    share = np.array(list(weights.values()), np.float64)
    name = list(weights)[int(rng.choice(len(share), p=share / share.sum()))]
    rgb = np.clip(np.array(_COLORS[name][0]) * rng.normal(1.0, 0.09) + rng.normal(0, 2, 3), 12, 235)
    red, green, blue = rgb.astype(int).tolist()
    lengths = {"bob": (0.16, 0.24), "long": (0.27, 0.48), "ponytail": (0.16, 0.34), "bun": (0.0, 0.0)}
    low, high = lengths.get(style, (0.0, 0.0))
    volumes = {"bald": (0.0, 0.0), "buzz": (0.003, 0.005), "curly": (0.022, 0.038), "quiff": (0.012, 0.02)}
    thin, thick = volumes.get(style, (0.009, 0.018))
    wear = {"none": 87.0, "cap": 7, "beanie": 10 if season == "cold" else 0.5, "hijab": 4 if feminine else 0}
    headwear = str(rng.choice(list(wear), p=np.array(list(wear.values())) / sum(wear.values())))
    return Hair(
        style=style,
        color=Color(name, (red, green, blue)),
        length=round(float(rng.uniform(low, high)), 3),
        volume=round(float(rng.uniform(thin, thick)), 4),
        parting=round(float(rng.uniform(-1, 1)), 3),
        headwear=headwear,
        headwear_color=colors.draw_color(
            rng, colors.COAT_WEIGHTS if headwear != "cap" else colors.BAG_WEIGHTS
        ),
    )


def _azimuth(points: BodyPoints) -> Array:
    """Angle around the head in degrees, `(N,)`: 0 in front, 180 at the back, the same on both sides."""
    angle = np.arctan2(points.side, points.z - np.float32(HEAD_CENTER[2]))
    return np.asarray(np.degrees(angle), np.float32)


def hair_cover(points: BodyPoints, hair: Hair, seed: int) -> Array:
    """Share of each point that hair hides.

    Args:
        points: `BodyPoints` of N points.
        hair: `Hair`.
        seed: `int`. Drives the irregular hairline.

    Returns:
        `(N,)` float32 in [0, 1].
    """
    on = (points.y > 1.40) & ~points.on_arm
    cover = np.zeros(len(points.y), np.float32)
    rows = np.flatnonzero(on)
    x, y, z = points.x[rows], points.y[rows], points.z[rows]
    azimuth = np.degrees(np.arctan2(np.abs(x), z - np.float32(HEAD_CENTER[2])))
    # height of the hairline from front to back: forehead, temples, sideburns, over the ear, nape
    knots, line = (
        [0, 32, 50, 63, 74, 86, 104, 120, 180],
        [1.612, 1.607, 1.585, 1.556, 1.52, 1.546, 1.535, 1.49, 1.462],
    )
    if hair.style in ("bob", "long"):
        line = [1.606, 1.603, 1.585, 1.55, 1.47, 1.43, 1.40, 1.40, 1.40]
    elif hair.style in ("ponytail", "bun"):
        line = [1.612, 1.607, 1.59, 1.565, 1.55, 1.546, 1.51, 1.48, 1.462]
    elif hair.style in ("buzz", "bald"):
        line = [1.617, 1.612, 1.592, 1.565, 1.535, 1.548, 1.535, 1.50, 1.475]
    edge = np.interp(azimuth, knots, line).astype(np.float32)
    if hair.style in ("short", "bob", "long", "curly"):
        # a fringe that falls to one side of its parting
        fringe = 0.02 * np.clip(1 - np.abs(x / 0.06 - 0.7 * hair.parting) ** 1.5, -0.3, 1) * (azimuth < 60)
        edge = edge - np.float32(0.6 + 0.5 * abs(hair.parting)) * fringe
    jag = solid_noise(points.position[rows], seed + 31, (0.008, 0.03, 0.008), 2) - np.float32(0.5)
    level = ramp(y - edge + 0.016 * jag, -0.004, 0.006)
    if hair.style == "bald":
        level *= ramp(y, 1.60, 1.57) * ramp(azimuth, 55.0, 80.0)
    cover[rows] = level
    return cover


def paint_hair(points: BodyPoints, rgb: Array, hair: Hair, seed: int) -> None:
    """Paints hair and headwear, in place.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        hair: `Hair`.
        seed: `int`. Drives strands and hairline.
    """
    cover = {"buzz": 0.72, "bald": 0.45}.get(hair.style, 1.0) * hair_cover(points, hair, seed)
    if hair.style in ("bob", "long"):
        # hair down the back is part of the person's texture, so it is painted under its mesh too
        fall = ramp(points.y - (CROWN - hair.length), 0.0, 0.03) * ramp(points.side, 0.105, 0.085)
        fall = fall * ramp(-points.normal[:, 2], 0.0, 0.3) * ~(points.on_arm | points.on_head)
        cover = np.maximum(cover, fall)
    _lay(points, rgb, cover, lambda place, _: hair_shade(place, hair, seed))
    if hair.headwear == "none":
        return

    def cloth(place: Array, azimuth: Array) -> Array:
        shade = 1 + 0.10 * creases(place, seed + 3, (0.05, 0.03, 0.05))
        if hair.headwear == "beanie":
            shade *= 1 - 0.16 * (np.sin(azimuth * 0.9) > 0.3)  # ribs
            shade *= np.where(place[:, 1] < 1.605, 0.86, 1.0)  # the turned-up brim
        return np.asarray(np.array(hair.headwear_color.rgb, np.float32) * shade[:, None], np.float32)

    _lay(points, rgb, headwear_cover(points, hair), cloth)


def _lay(points: BodyPoints, rgb: Array, cover: Array, color: Callable[[Array, Array], Array]) -> None:
    """Blends `color(position, azimuth)` into `rgb` where `cover` is above 0, in place."""
    rows = np.flatnonzero(cover > 0)
    part = rgb[rows]
    blend(part, color(points.position[rows], _azimuth(points)[rows]), cover[rows])
    rgb[rows] = part


def hair_shade(position: Array, hair: Hair, seed: int) -> Array:
    """Colour of hair: strands that run down, with a soft sheen around the crown.

    Args:
        position: `(N, 3)` float32 metres.
        hair: `Hair`.
        seed: `int`. Places the strands.

    Returns:
        `(N, 3)` float32 sRGB in [0, 255].
    """
    curly = hair.style == "curly"
    period = (0.014, 0.014, 0.014) if curly else (0.007, 0.05, 0.007)
    strand = solid_noise(position, seed + 21, period, 2) - np.float32(0.5)
    lock = creases(position, seed + 22, (0.02, 0.09, 0.02) if not curly else (0.025, 0.025, 0.025))
    sheen = bump(position[:, 1], 1.622, 0.016) * (0.0 if curly else 1.0)
    dark = ramp(position[:, 1], 1.55, 1.45)
    value = 1 + 0.75 * strand + 0.14 * lock + 0.30 * sheen - 0.22 * dark
    base = np.array(hair.color.rgb, np.float32)
    return np.asarray(np.clip(base * value[:, None] + 9 * sheen[:, None], 0, 255), np.float32)


def headwear_cover(points: BodyPoints, hair: Hair) -> Array:
    """Share of each point that headwear hides, `(N,)` float32 in [0, 1]."""
    if hair.headwear == "none":
        return np.zeros(len(points.y), np.float32)
    azimuth = _azimuth(points)
    high = points.y > 1.29
    if hair.headwear == "cap":
        edge = np.interp(azimuth, [0, 60, 100, 180], [1.592, 1.588, 1.575, 1.56]).astype(np.float32)
        return ramp(points.y - edge, -0.003, 0.004) * points.on_head
    if hair.headwear == "beanie":
        edge = np.interp(azimuth, [0, 60, 100, 180], [1.59, 1.57, 1.545, 1.52]).astype(np.float32)
        return ramp(points.y - edge, -0.003, 0.004) * points.on_head
    # a hijab leaves an oval of the face free and covers neck and upper chest
    oval = np.sqrt((points.side / 0.058) ** 2 + ((points.y - 1.522) / 0.078) ** 2)
    face = ramp(oval, 1.05, 0.95) * (points.z > 0.05) * points.on_head
    drape = np.sqrt((points.side / 0.155) ** 2 + ((points.y - 1.46) / 0.155) ** 2)
    hidden = np.maximum(ramp(drape, 1.04, 0.98), points.on_head)
    return np.asarray(high * hidden * (1 - face) * ~points.on_hand, np.float32)


def hair_offsets(points: BodyPoints, hair: Hair, seed: int) -> Array:
    """Thickness of hair or headwear over the skin.

    Args:
        points: `BodyPoints` of the V vertices.
        hair: `Hair`.
        seed: `int`. Drives tufts.

    Returns:
        `(V,)` float32 metres, 0 to about 0.05.
    """
    cover = hair_cover(points, hair, seed) * points.on_head
    rise = ramp(points.y, 1.50, 1.62)
    tufts = 0.6 + 0.8 * solid_noise(points.position, seed + 41, 0.03, 2)
    volume = hair.volume * (0.55 + 0.45 * rise) * tufts
    if hair.style == "quiff":
        volume = volume + 0.018 * bump(points.z, 0.11, 0.045) * ramp(points.y, 1.60, 1.63)
    if hair.style in ("ponytail", "bun"):
        volume = volume * 0.6
    offset = cover * volume
    if hair.headwear == "none":
        return np.asarray(offset, np.float32)
    worn = headwear_cover(points, hair)
    thickness = {"cap": 0.013, "beanie": 0.014, "hijab": 0.016}[hair.headwear]
    crown = 0.012 * ramp(points.y, 1.60, 1.65) if hair.headwear == "beanie" else np.zeros_like(points.y)
    if hair.headwear == "hijab":
        crown = 0.022 * bump(points.y, 1.45, 0.06) + 0.01 * bump(points.z, -0.03, 0.05) * points.on_head
    offset = np.maximum(offset * (1 - worn), 0) + worn * np.maximum(
        np.minimum(offset, 0.01), thickness + crown
    )
    return np.asarray(offset, np.float32)


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
