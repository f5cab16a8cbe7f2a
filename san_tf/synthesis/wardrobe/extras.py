"""Extra meshes that hang from a person and follow the bones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import BodyShape, load_body, shaped
from san_tf.synthesis.mesh import Mesh, vertex_normals
from san_tf.synthesis.skeleton import skin
from san_tf.synthesis.wardrobe.coordinates import Array

# Every 16th vertex of the body is in the cage that moves accessories when the build is not average.
_CAGE_STEP = 16


@dataclass(frozen=True, eq=False)
class ExtraMesh:
    """A mesh with its own texture that hangs on the skeleton.

    Args:
        name: what it is, such as `"skirt"` or `"backpack"`.
        vertices: `(N, 3)` float32 metres, in the rest pose of the identity's own build.
        faces: `(F, 3)` int32, counter-clockwise from outside; indices also into `uv`.
        uv: `(N, 2)` float32 in [0, 1], v = 1 on row 0 of the texture.
        texture: `(T, T', 3)` uint8 sRGB.
        bones: `(N, K)` int32 indices into `load_body().bones`.
        weights: `(N, K)` float32, rows sum to 1.
        double_sided: whether its inside is visible.
        hangs_from: `None`, or the names of hand and forearm bone. The mesh then hangs upright below the hand
            (in the crook of the arm if the hand is raised) and does not turn with the hand.
    """

    name: str
    vertices: Array
    faces: NDArray[np.int32]
    uv: Array
    texture: NDArray[np.uint8]
    bones: NDArray[np.int32]
    weights: Array
    double_sided: bool = False
    hangs_from: tuple[str, str] | None = None


def pose_extra(extra: ExtraMesh, transforms: NDArray[np.float64], rest_joints: Array) -> Mesh:
    """Moves an extra mesh with the body's pose.

    Args:
        extra: `ExtraMesh`.
        transforms: `(B, 3, 4)` from `skeleton.bone_transforms(identity.shape, pose)`.
        rest_joints: `(B, 3)` metres, `body.joints(identity.shape)[0]`.

    Returns:
        `Mesh` for `rasterizer.draw`, in the world coordinates of the posed body.

    Example:
        >>> from san_tf.synthesis import body, skeleton, wardrobe
        >>> person = wardrobe.sample_identity(1)
        >>> transforms = skeleton.bone_transforms(person.shape, skeleton.rest_pose())
        >>> extras = wardrobe.dress(person).extras
        >>> meshes = [wardrobe.pose_extra(e, transforms, body.joints(person.shape)[0]) for e in extras]
    """
    if extra.hangs_from is None:
        vertices = skin(extra.vertices, extra.bones, extra.weights, transforms)
    else:
        body = load_body()
        hand, elbow = (
            transforms[b, :, :3] @ rest_joints[b] + transforms[b, :, 3]
            for b in (body.bone(name) for name in extra.hangs_from)
        )
        grip = hand + 0.35 * (hand - elbow) if hand[1] < elbow[1] - 0.08 else 0.7 * elbow + 0.3 * hand
        forward = transforms[body.bone("Hips"), :, 2]
        heading = np.arctan2(forward[0], forward[2])
        cos, sin = np.cos(heading), np.sin(heading)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        vertices = (extra.vertices @ turn.T + grip).astype(np.float32)
    return Mesh(
        vertices=vertices,
        faces=extra.faces,
        texture=extra.texture,
        uv=extra.uv,
        uv_faces=extra.faces,
        double_sided=extra.double_sided,
    )


@lru_cache(maxsize=1)
def _cage() -> tuple[NDArray[np.int64], Array, Array]:
    """The body's sparse cage that accessories follow: vertex indices, positions, normals."""
    body = load_body()
    index = np.arange(0, len(body.rest_vertices), _CAGE_STEP)
    normals = vertex_normals(body.rest_vertices, body.faces)
    return index, body.rest_vertices[index], normals[index].astype(np.float32)


def fit(vertices: Array, shape: BodyShape, offsets: Array) -> Array:
    """Fits points around the average body to another build with clothes.

    Args:
        vertices: `(N, 3)` float32 metres, around the average body at rest.
        shape: `BodyShape` to fit to.
        offsets: `(V,)` float32 metres, thickness of the clothes.

    Returns:
        `(N, 3)` float32 metres; each point moves like the skin within about 5 cm.
    """
    index, rest, normals = _cage()
    shift = shaped(shape)[index] - rest + offsets[index, None] * normals
    square = (vertices**2).sum(1)[:, None] + (rest**2).sum(1)[None] - 2 * vertices @ rest.T
    square -= square.min(1, keepdims=True)
    weight = np.exp(-square / np.float32(0.05**2))
    return np.asarray(vertices + (weight @ shift) / weight.sum(1, keepdims=True), np.float32)


def bind(count: int, weights: Mapping[str, float]) -> tuple[NDArray[np.int32], Array]:
    """Binds all vertices to the same bones: `bones` and `weights`, both `(count, K)`."""
    body = load_body()
    bones = np.tile(np.array([body.bone(name) for name in weights], np.int32), (count, 1))
    share = np.array(list(weights.values()), np.float32)
    return bones, np.tile(share / share.sum(), (count, 1))


def grid_faces(rows: int, columns: int) -> NDArray[np.int32]:
    """Triangles of a grid of vertices stored row by row, `(2 (rows-1) (columns-1), 3)`.

    Corners are counter-clockwise if columns run to the right and rows run down.
    """
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1)
    first = np.stack([corner, corner + columns, corner + columns + 1], 1)
    second = np.stack([corner, corner + columns + 1, corner + 1], 1)
    return np.concatenate([first, second]).astype(np.int32)


def box(half: tuple[float, float, float], roundness: float, rows: int = 9, columns: int = 20) -> tuple[
    Array, NDArray[np.int32], Array
]:  # fmt: skip
    """A box with rounded edges around the origin.

    Args:
        half: half extents in metres along x, y, z.
        roundness: 0.2 (boxy) to 1 (an ellipsoid).
        rows: vertices from top to bottom.
        columns: vertices around.

    Returns:
        vertices: `(rows * columns, 3)` float32.
        faces: `(F, 3)` int32.
        uv: `(rows * columns, 2)` float32: u = 0.5 on the +z side, v from 0 at the bottom to 1 at the top.
    """
    tilt = np.linspace(np.pi / 2, -np.pi / 2, rows)[:, None]
    turn = np.linspace(-np.pi, np.pi, columns)[None]

    def power(value: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sign(value) * np.abs(value) ** roundness

    x = power(np.cos(tilt)) * power(np.sin(turn)) * half[0]
    y = power(np.sin(tilt)) * half[1] + 0 * turn
    z = power(np.cos(tilt)) * power(np.cos(turn)) * half[2]
    vertices = np.stack([x, y, z], -1).reshape(-1, 3).astype(np.float32)
    u = np.broadcast_to(turn / (2 * np.pi) + 0.5, (rows, columns))
    v = np.clip((y / half[1] + 1) / 2, 0, 1)
    uv = np.stack([u, v], -1).reshape(-1, 2).astype(np.float32)
    return vertices, grid_faces(rows, columns), uv
