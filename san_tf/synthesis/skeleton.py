"""Moving a body by its bones: forward kinematics and linear blend skinning.

A pose gives every bone a rotation about its head, in world axes at rest (x to the person's left, y up,
z forward). A bone carries its children along. A vertex follows up to four bones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from san_tf.compiled import compiled
from san_tf.errors import UserError
from san_tf.synthesis.body import BodyShape, joints, load_body, shaped


@dataclass(frozen=True, eq=False)
class Pose:
    """Bone rotations of a person, and what they do.

    Attributes:
        rotations: (B, 3, 3) float64, each bone's rotation about its head in world axes at rest.
        action: "walking", "standing", "carrying", "phoning" or "rest".
        phase: Phase of the gait cycle, 0..1; 0 is the left heel strike. 0 when not walking.
        bag_hand: "left" or "right", the hand that holds a bag; None without one.
        grounded: Whether the body is moved up or down so that the lowest sole touches y = 0.
    """

    rotations: np.ndarray
    action: str = "rest"
    phase: float = 0.0
    bag_hand: str | None = None
    grounded: bool = field(default=True)

    def __post_init__(self) -> None:
        expected = (len(load_body().bones), 3, 3)
        if self.rotations.shape != expected or not np.isfinite(self.rotations).all():
            raise UserError(
                f"Pose rotations must be finite and {expected}. Received: {self.rotations.shape}."
            )


def rest_pose() -> Pose:
    """Return the pose of the stored mesh: arms held out, legs apart."""
    return Pose(np.tile(np.eye(3), (len(load_body().bones), 1, 1)))


def mirrored(pose: Pose) -> Pose:
    """Return the pose with left and right exchanged."""
    reflection = np.diag([-1.0, 1.0, 1.0])
    rotations = reflection @ pose.rotations[load_body().bone_mirror] @ reflection
    hand = {"left": "right", "right": "left", None: None}[pose.bag_hand]
    return Pose(rotations, pose.action, (pose.phase + 0.5) % 1 if pose.phase else 0.0, hand, pose.grounded)


def bone_transforms(shape: BodyShape, pose: Pose) -> np.ndarray:
    """Return the transform that each bone applies to its points.

    Args:
        shape: Body shape; it gives the positions of the joints.
        pose: Rotations of the bones.

    Returns:
        (B, 3, 4) float64: a rest point p on bone b moves to `T[b, :, :3] @ p + T[b, :, 3]`.
    """
    body = load_body()
    heads = joints(shape)[0].astype(np.float64)
    transforms = np.zeros((len(heads), 3, 4))
    for b, parent in enumerate(body.parents):
        rotation = pose.rotations[b]
        shift = heads[b] - rotation @ heads[b]
        if parent >= 0:
            above = transforms[parent]
            shift = above[:, :3] @ shift + above[:, 3]
            rotation = above[:, :3] @ rotation
        transforms[b, :, :3], transforms[b, :, 3] = rotation, shift
    if pose.grounded:
        soles = shaped(shape)[_sole_vertices()]
        bones, weights = body.skin_bones[_sole_vertices()], body.skin_weights[_sole_vertices()]
        transforms[:, 1, 3] -= skin(soles, bones, weights, transforms)[:, 1].min()
    return transforms


def _sole_vertices() -> np.ndarray:
    return np.flatnonzero(load_body().rest_vertices[:, 1] < 0.06)


@compiled
def _skin(vertices: np.ndarray, bones: np.ndarray, weights: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    result = np.empty(vertices.shape, np.float64)
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        a = b = c = 0.0
        for k in range(bones.shape[1]):
            w = weights[i, k]
            if w == 0:
                continue
            m = transforms[bones[i, k]]
            a += w * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
            b += w * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
            c += w * (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
        result[i, 0], result[i, 1], result[i, 2] = a, b, c
    return result


def skin(vertices: np.ndarray, bones: np.ndarray, weights: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """Move vertices with their bones by linear blend skinning.

    The vertices may be those of the body, or of skirts, hair and bags.

    Args:
        vertices: (N, 3) float, metres, rest pose.
        bones: (N, K) int, the bones that move each vertex.
        weights: (N, K) float, their shares; each row sums to 1.
        transforms: (B, 3, 4) from `bone_transforms`.

    Returns:
        (N, 3) float32 metres, posed.

    Raises:
        UserError: If the shapes do not fit together.
    """
    if bones.shape != weights.shape or len(bones) != len(vertices):
        raise UserError(
            f"Skinning needs bones and weights (N, K) for vertices (N, 3). Received: {bones.shape}, "
            f"{weights.shape}, {vertices.shape}."
        )
    return _skin(
        np.ascontiguousarray(vertices, np.float64),
        np.ascontiguousarray(bones, np.int32),
        np.ascontiguousarray(weights, np.float64),
        np.ascontiguousarray(transforms, np.float64),
    ).astype(np.float32)


def pose_vertices(vertices: np.ndarray, shape: BodyShape, pose: Pose) -> np.ndarray:
    """Move a body's vertices from rest into a pose.

    Args:
        vertices: (V, 3) float metres in rest pose: `shaped(shape)`, with or without the thickness of clothes.
        shape: Body shape; it gives the positions of the joints.
        pose: The pose.

    Returns:
        (V, 3) float32 metres, soles at y = 0 if the pose is grounded.

    Raises:
        UserError: If the number of vertices is not the body's.

    Example:
        >>> shape = BodyShape()
        >>> still = pose_vertices(shaped(shape), shape, rest_pose())
        >>> bool(np.allclose(still, shaped(shape), atol=1e-4))
        True
    """
    body = load_body()
    if vertices.shape != body.rest_vertices.shape:
        raise UserError(f"Body vertices must be {body.rest_vertices.shape}. Received: {vertices.shape}.")
    return skin(vertices, body.skin_bones, body.skin_weights, bone_transforms(shape, pose))
