"""Body coordinates: the place of a texel or vertex in a tailor's terms."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import PARTS, BodyShape, joints, load_body
from san_tf.synthesis.texels import texel_map

Array = NDArray[np.float32]
Real = NDArray[np.floating[Any]]


def _joint(name: str) -> Array:
    """Head of a bone of the average body, `(3,)` float32 metres."""
    return np.asarray(joints(BodyShape())[0][load_body().bone(name)], np.float32)


@lru_cache(maxsize=1)
def arm_joints() -> tuple[Array, Array, Array]:
    """Left shoulder, elbow and wrist of the average body, `(3,)` metres each."""
    return _joint("LeftArm"), _joint("LeftForeArm"), _joint("LeftHand")


@lru_cache(maxsize=1)
def leg_joints() -> tuple[Array, Array, Array]:
    """Left hip, knee and ankle of the average body, `(3,)` metres each."""
    return _joint("LeftUpLeg"), _joint("LeftLeg"), _joint("LeftFoot")


@dataclass(frozen=True)
class BodyPoints:
    """Points on the skin of the average body at rest, with body coordinates.

    Every array has N rows and dtype float32, unless stated otherwise; lengths are metres.

    Args:
        position: `(N, 3)`. x to the person's left, y up from the ground, z to the front.
        normal: `(N, 3)` unit vectors.
        x: `(N,)`. Signed sideways position.
        y: `(N,)`. Height.
        z: `(N,)`. Depth.
        side: `(N,)`. Distance from the middle plane, |x|.
        along_arm: `(N,)`. Length along the arm from the shoulder joint; below 0 on the shoulder itself.
        from_arm: `(N,)`. Distance to the arm's axis.
        on_arm: `(N,)` bool. Upper arm, forearm or hand.
        on_hand: `(N,)` bool.
        on_head: `(N,)` bool. Head and face without the neck.
        on_leg: `(N,)` bool. Below the crotch.
        on_foot: `(N,)` bool.
        around: `(N,)`. Arc length around the torso, leg or arm, 0 in front.
        around_period: `(N,)`. Full girth, at which `around` wraps.
        down: `(N,)`. Length along the limb or torso, for horizontal stripes.
        occlusion: `(N,)`. Share of light that reaches hollows (armpit, crotch), 0.55 to 1.
    """

    position: Array
    normal: Array
    x: Array
    y: Array
    z: Array
    side: Array
    along_arm: Array
    from_arm: Array
    on_arm: NDArray[np.bool_]
    on_hand: NDArray[np.bool_]
    on_head: NDArray[np.bool_]
    on_leg: NDArray[np.bool_]
    on_foot: NDArray[np.bool_]
    around: Array
    around_period: Array
    down: Array
    occlusion: Array

    def take(self, rows: NDArray[np.int64]) -> BodyPoints:
        """Return the points at some rows."""
        return BodyPoints(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def ramp(value: Real, low: float, high: float) -> Array:
    """Smooth step from 0 at `low` to 1 at `high`.

    Args:
        value: `(N,)` float32.
        low: `float`. Value at which the step leaves 0.
        high: `float`. Value at which it reaches 1; may be below `low`.

    Returns:
        `(N,)` float32 in [0, 1].
    """
    t = np.clip((value - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), np.float32)


def bump(value: Real, center: float, width: float) -> Array:
    """Gaussian bump: 1 at `center`, about 0.37 at `center +- width`.

    Args:
        value: `(N,)` float32.
        center: `float`.
        width: `float`.
    """
    t = (value - np.float32(center)) * np.float32(1.0 / width)
    return np.asarray(np.exp(-t * t), np.float32)


def _project(point: Array, start: Array, end: Array) -> tuple[Array, Array]:
    """Unclipped length along a segment, and distance to the clipped segment, both `(N,)` metres."""
    axis = end - start
    length = float(np.linalg.norm(axis))
    axis = axis / length
    offset = point - start
    along = offset @ axis
    nearest = start + np.clip(along, 0.0, length)[:, None] * axis
    return along, np.asarray(np.sqrt(((point - nearest) ** 2).sum(1)), np.float32)


def body_points(position: Array, normal: Array, part: NDArray[np.uint8]) -> BodyPoints:
    """Computes body coordinates from rest-pose geometry, so they agree across UV seams.

    Args:
        position: `(N, 3)` float32 metres, rest pose of the average body.
        normal: `(N, 3)` float32 unit vectors.
        part: `(N,)` uint8 indices into `body.PARTS`.

    Returns:
        `BodyPoints` of the N points.
    """
    position = np.ascontiguousarray(position, np.float32)
    normal = np.ascontiguousarray(normal, np.float32)
    x, y, z = (np.ascontiguousarray(position[:, i]) for i in range(3))
    names = np.array(PARTS)[part]
    on_hand = np.char.startswith(names, "hand")
    on_arm = on_hand | np.char.startswith(names, "upper_arm") | np.char.startswith(names, "forearm")
    on_head = np.isin(names, ("head", "face", "scalp", "eyes"))
    on_leg = (y < 0.78) & ~on_arm
    on_foot = np.char.startswith(names, "foot")
    sign = np.where(x < 0, np.float32(-1), np.float32(1))
    folded = position * np.stack([sign, np.ones_like(x), np.ones_like(x)], 1)

    shoulder, elbow, wrist = arm_joints()
    upper, upper_distance = _project(folded, shoulder, elbow)
    fore, fore_distance = _project(folded, elbow, wrist)
    bend = ramp(upper_distance - fore_distance, -0.04, 0.04)
    along_arm = (1 - bend) * upper + bend * (fore + np.linalg.norm(elbow - shoulder))
    from_arm = np.minimum(upper_distance, fore_distance)

    # axis of the leg at this height, for vertical stripes
    axis = np.stack(leg_joints()[::-1])
    leg_x = np.interp(y, axis[:, 1], axis[:, 0]).astype(np.float32)
    leg_z = np.interp(y, axis[:, 1], axis[:, 2]).astype(np.float32)
    # cloth of the torso consists of two flat panels that meet at the sides and on the shoulders
    front = z > 0.045
    turn = np.where(front, 0.11 - z, z + 0.02).clip(0, 0.1) * ramp(folded[:, 0], 0.07, 0.14)
    panel = sign * np.where(front, folded[:, 0] + 0.6 * turn, np.pi * 0.14 - folded[:, 0] - 0.6 * turn)
    leg_angle = np.arctan2((folded[:, 0] - leg_x) * sign, z - leg_z)
    arm_angle = np.arctan2(folded[:, 2] - 0.02, (folded[:, 0] - shoulder[0]) + (folded[:, 1] - shoulder[1]))
    radius = np.where(on_arm, 0.055, np.where(on_leg, 0.08, 0.14)).astype(np.float32)
    around = np.where(on_arm, arm_angle * radius, np.where(on_leg, leg_angle * radius, panel))
    armpit = bump(y, 1.26, 0.07) * bump(folded[:, 0], 0.175, 0.035) * ramp(normal[:, 1], 0.35, -0.3)
    crotch = bump(y, 0.76, 0.10) * bump(folded[:, 0], 0.0, 0.055)
    inner_leg = on_leg * ramp(-normal[:, 0] * sign, 0.3, 1.0) * ramp(y, 0.25, 0.75)
    chin = bump(y, 1.435, 0.03) * ramp(z, 0.02, 0.08) * ramp(-normal[:, 1], -0.2, 0.7)
    under = ramp(-normal[:, 1], 0.1, 1.0) * ~on_foot
    occlusion = 1 - 0.28 * armpit - 0.25 * crotch - 0.17 * inner_leg - 0.20 * chin - 0.08 * under
    return BodyPoints(
        position=position,
        normal=normal,
        x=x,
        y=y,
        z=z,
        side=np.abs(x),
        along_arm=along_arm.astype(np.float32),
        from_arm=from_arm,
        on_arm=on_arm,
        on_hand=on_hand,
        on_head=on_head,
        on_leg=on_leg,
        on_foot=on_foot,
        around=around.astype(np.float32),
        around_period=(2 * np.pi * radius).astype(np.float32),
        down=np.where(on_arm, -along_arm, y).astype(np.float32),
        occlusion=np.clip(occlusion, 0.55, 1.0).astype(np.float32),
    )


@lru_cache(maxsize=4)
def texel_points(size: int = 256) -> tuple[BodyPoints, NDArray[np.int64], NDArray[np.uint8]]:
    """Body coordinates of all texels on the body or in the border around UV islands.

    Args:
        size: `int`. Side of the square texture in texels.

    Returns:
        points: `BodyPoints` of N texels.
        index: `(N,)` int64. Flat texture index of each.
        part: `(N,)` uint8. Indices into `body.PARTS`.
    """
    texels = texel_map(size)
    index = np.flatnonzero(texels.mask)
    part = texels.part.reshape(-1)[index]
    points = body_points(texels.position.reshape(-1, 3)[index], texels.normal.reshape(-1, 3)[index], part)
    return points, index, part
