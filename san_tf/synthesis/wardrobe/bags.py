"""Bags: small separate meshes, with straps painted on the clothes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import BodyShape, joints, load_body
from san_tf.synthesis.wardrobe.colors import draw_color
from san_tf.synthesis.wardrobe.coordinates import Array, BodyPoints, bump, ramp
from san_tf.synthesis.wardrobe.extras import ExtraMesh, bind, box, fit
from san_tf.synthesis.wardrobe.face import blend
from san_tf.synthesis.wardrobe.person import Bag, Identity

BAG_KINDS = ("none", "backpack", "shoulder bag", "handbag", "front bag")
_SIDE = 48


def strap_cover(points: BodyPoints, bag: Bag) -> Array:
    """Share of each point that a bag or its straps hide, `(N,)` float32 in [0, 1]."""
    torso = ~points.on_arm & ~points.on_head & (points.y > 0.9) & (points.y < 1.45)
    if bag.kind == "backpack":
        # over the shoulder, straight down the chest, then back under the arm
        line = 0.088 + 0.5 * np.clip(1.24 - points.y, 0, 0.2)
        front = (points.z > 0.0) | (points.y > 1.34)
        band = ramp(np.abs(points.side - line), 0.024, 0.019) * front * ramp(points.y, 1.06, 1.08)
        height, width = 0.205 * bag.size, 0.11 * bag.size
        back = (
            ramp(points.side, width, width - 0.01) * ramp(-points.normal[:, 2], 0.1, 0.3) * (points.z < 0.03)
        )
        back = back * ramp(points.y, 1.385 - 2 * height, 1.395 - 2 * height) * ramp(points.y, 1.385, 1.375)
        return np.asarray(np.maximum(band, back) * torso, np.float32)
    if bag.kind == "front bag":
        # a rucksack worn in front: the straps cross the back, the bag lies on chest and belly
        band = ramp(np.abs(points.side - 0.088), 0.024, 0.019) * ((points.z < 0.03) | (points.y > 1.34))
        height, width = 0.205 * bag.size, 0.11 * bag.size
        chest = ramp(points.side, width, width - 0.01) * ramp(points.normal[:, 2], 0.1, 0.3)
        chest = chest * ramp(points.y, 1.335 - 2 * height, 1.345 - 2 * height) * ramp(points.y, 1.335, 1.325)
        return np.asarray(np.maximum(band * ramp(points.y, 1.06, 1.08), chest) * torso, np.float32)
    if bag.kind == "shoulder bag":
        # a plane through the far shoulder and the near hip cuts the torso along the strap
        slope = np.arctan2(0.45, 0.29)
        across = (points.x * bag.side + 0.105) * np.sin(slope) + (points.y - 1.40) * np.cos(slope)
        strap = ramp(np.abs(across), 0.019, 0.014)
        hip = np.maximum(np.abs(points.y - 0.9) / 0.075, np.abs(points.z - 0.01) / 0.085) / np.float32(
            bag.size
        )
        hip = ramp(hip, 1.03, 0.97) * ramp(points.normal[:, 0] * bag.side, 0.2, 0.4)
        return np.asarray(np.maximum(strap * torso, hip * ~points.on_arm), np.float32)
    return np.zeros(len(points.y), np.float32)


def paint_straps(points: BodyPoints, rgb: Array, bag: Bag, shown: bool = True) -> None:
    """Paints straps with a thin shadow beside them, in place.

    The shadow darkens the whole person a little, even far from the straps. Without the straps it keeps that
    part, so the clothes have the same colour with and without them.

    Args:
        points: `BodyPoints` of N texels.
        rgb: `(N, 3)` float32 in [0, 255], changed in place.
        bag: `Bag`.
        shown: `bool`. Whether to paint the straps.
    """
    if bag.kind not in ("backpack", "front bag", "shoulder bag"):
        return
    cover = strap_cover(points, bag) if shown else np.zeros(len(points.y), np.float32)
    rgb *= (1 - 0.35 * bump(cover, 0.3, 0.25))[:, None]
    blend(rgb, bag.color.rgb, cover)  # the texture also shows the area under the bag in the bag's colour


def _paint(bag: Bag, kind: str) -> NDArray[np.uint8]:
    """Texture of a bag: pocket, flap, zips and seams; u = 0.5 is the +z side, u = 0 and 1 the -z side."""
    down, across = np.meshgrid(np.linspace(1, 0, _SIDE), np.linspace(0, 1, _SIDE), indexing="ij")
    u, v = across.reshape(-1).astype(np.float32), down.reshape(-1).astype(np.float32)
    rgb = np.tile(np.array(bag.color.rgb, np.float32), (u.size, 1))
    rucksack = kind in ("backpack", "front bag")
    outer = np.minimum(u, 1 - u) * 2 if rucksack else np.abs(u - 0.5) * 2
    shade = 1 + 0.12 * (v - 0.5) - 0.10 * bump(outer, 0.5, 0.06)
    shade = shade + 0.05 * np.sin(23 * u + 9 * v) * np.sin(17 * v + 3)
    variant = bag.size * 997 % 1
    if rucksack:
        pocket = ramp(outer, 0.30, 0.27) * ramp(np.abs(v - 0.3), 0.24, 0.22)
        if variant < 0.6:
            blend(rgb, bag.accent.rgb if variant < 0.3 else tuple(0.8 * c for c in bag.color.rgb), pocket)
        shade = shade - 0.35 * bump(v, 0.56, 0.014) * ramp(outer, 0.30, 0.27)
        shade = shade - 0.30 * bump(v, 0.80, 0.012) * ramp(outer, 0.42, 0.38)
        blend(rgb, bag.accent.rgb, ramp(np.abs(v - 0.66), 0.03, 0.02) * ramp(outer, 0.08, 0.06))
    else:
        flap = ramp(v, 0.5, 0.53)
        shade = shade - 0.32 * bump(v, 0.5, 0.02) + 0.05 * flap
        blend(rgb, bag.accent.rgb, flap * (variant < 0.25))
        side = np.abs(np.abs(outer) - 0.5)
        blend(rgb, (190, 176, 130), ramp(np.abs(v - 0.47), 0.03, 0.02) * ramp(side, 0.03, 0.02))
    rgb = np.clip(rgb * shade[:, None], 4, 250)
    return np.asarray(np.rint(rgb), np.uint8).reshape(_SIDE, _SIDE, 3)


def bag_meshes(identity: Identity, offsets: Array) -> tuple[ExtraMesh, ...]:
    """Builds the bag.

    Args:
        identity: `Identity`.
        offsets: `(V,)` float32 metres, thickness of the clothes under the bag.

    Returns:
        One `ExtraMesh`; two for a handbag (bag and handle); none without a bag.
    """
    bag, size = identity.bag, identity.bag.size
    if bag.kind in ("backpack", "front bag"):
        vertices, faces, uv = box((0.145 * size, 0.215 * size, 0.088 * size), 0.55)
        # flat against the back, full at the bottom
        vertices[:, 2] *= 1 - 0.25 * vertices[:, 1] / (0.215 * size)
        place = np.array([0, 1.385 - 0.215 * size, -0.052 - 0.085 * size], np.float32)
        if bag.kind == "front bag":
            vertices[:, [0, 2]] *= -1
            place = np.array([0, 1.335 - 0.215 * size, 0.135 + 0.075 * size], np.float32)
        vertices += place
        bones, weights = bind(len(vertices), {"Spine1": 0.65, "Spine": 0.35})
    elif bag.kind == "shoulder bag":
        vertices, faces, uv = box((0.05 * size, 0.10 * size, 0.14 * size), 0.42)
        uv[:, 0] = (uv[:, 0] + 0.25) % 1.0  # the flap faces outwards
        vertices += np.array([bag.side * (0.175 + 0.05 * size), 0.90, 0.01], np.float32)
        bones, weights = bind(len(vertices), {"Hips": 1.0})
    elif bag.kind == "handbag":
        return _handbag(identity)
    else:
        return ()
    mesh = ExtraMesh(
        name=bag.kind,
        vertices=fit(vertices, identity.shape, offsets),
        faces=faces,
        uv=uv,
        texture=_paint(bag, bag.kind),
        bones=bones,
        weights=weights,
    )
    return (mesh,)


def _handbag(identity: Identity) -> tuple[ExtraMesh, ...]:
    """A bag that hangs upright below the hand in any pose; its origin is the grip."""
    bag, size = identity.bag, identity.bag.size
    arm = ("LeftHand", "LeftForeArm") if bag.side > 0 else ("RightHand", "RightForeArm")
    vertices, faces, uv = box((0.045 * size, 0.085 * size, 0.125 * size), 0.35)
    vertices[:, 2] *= 1 - 0.12 * vertices[:, 1] / (0.085 * size)
    vertices += np.array([0, -0.11 - 0.085 * size, 0], np.float32)
    turn = np.linspace(0, np.pi, 9)
    rail = np.stack([np.zeros(9), 0.115 * np.sin(turn) - 0.118, 0.06 * size * np.cos(turn)], 1)
    across = np.array([0.011, 0, 0])
    handle = np.concatenate([rail - across, rail + across]).astype(np.float32)
    k = np.arange(8)
    strip = np.concatenate([np.stack([k, k + 9, k + 1], 1), np.stack([k + 1, k + 9, k + 10], 1)]).astype(
        np.int32
    )
    texture = _paint(bag, "handbag")
    plain = np.tile(np.array(bag.color.rgb, np.uint8), (4, 4, 1))
    pieces = []
    for name, points, triangles, place, picture in (
        ("handbag", vertices, faces, uv, texture),
        ("handle", handle, strip, np.full((18, 2), 0.5, np.float32), plain),
    ):
        bones, weights = bind(len(points), {arm[0]: 1.0})
        pieces.append(
            ExtraMesh(
                name=name,
                vertices=points,
                faces=triangles,
                uv=place,
                texture=picture,
                bones=bones,
                weights=weights,
                double_sided=name == "handle",
                hangs_from=arm,
            )
        )
    return tuple(pieces)


def held_thing(shape: BodyShape, rng: np.random.Generator) -> ExtraMesh:
    """Builds what somebody holds for a moment: papers, a telephone, a bottle, a carrier bag.

    Args:
        shape: `BodyShape` of the person.
        rng: `numpy.random.Generator`. Source of randomness.

    Returns:
        `ExtraMesh` in the left or right hand.
    """
    left = rng.random() < 0.5
    arm = ("LeftHand", "LeftForeArm") if left else ("RightHand", "RightForeArm")
    kind = str(rng.choice(["papers", "phone", "bottle", "carrier bag"], p=[0.4, 0.22, 0.16, 0.22]))
    half, roundness = {
        "papers": ((0.013, 0.15, 0.105), 0.25),
        "phone": ((0.007, 0.07, 0.036), 0.3),
        "bottle": ((0.032, 0.1, 0.032), 0.8),
        "carrier bag": ((0.055, 0.16, 0.13), 0.5),
    }[kind]
    vertices, faces, uv = box(half, roundness, 7, 14)
    vertices *= np.float32(rng.uniform(0.8, 1.2))
    palette = {
        "white": 3.0,
        "black": 2,
        "light grey": 2,
        "grey": 1,
        "red": 1,
        "blue": 1,
        "beige": 1,
        "yellow": 0.5,
    }
    color = np.array(draw_color(rng, {"black": 1.0} if kind == "phone" else palette).rgb, np.float32)
    shade = rng.normal(1.0, 0.07, (8, 8, 1)).astype(np.float32)
    bones, weights = bind(len(vertices), {arm[0]: 1.0})
    if kind == "carrier bag":
        vertices[:, 2] *= 1 - 0.3 * vertices[:, 1] / half[1]
        vertices += np.array([0, -0.1 - half[1], 0], np.float32)
    else:
        heads, tails = joints(shape)
        bone = load_body().bone(arm[0])
        vertices += (heads[bone] + 0.8 * (tails[bone] - heads[bone])).astype(np.float32)
    return ExtraMesh(
        name=kind,
        vertices=vertices,
        faces=faces,
        uv=uv,
        texture=np.clip(color * shade, 4, 250).astype(np.uint8),
        bones=bones,
        weights=weights,
        hangs_from=arm if kind == "carrier bag" else None,
    )
