"""The human body: one mesh and one UV layout, shaped by five numbers.

The mesh is MakeHuman's base mesh (CC0, see `assets/PROVENANCE.md`). World axes: y up, feet at y = 0; the
person looks along +z, and the left hand is at +x. Lengths are metres. In a texture image, row 0 is v = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources

import numpy as np

from san_tf.errors import UserError
from san_tf.synthesis.mesh import triangulate

# Index 0 means "no body here", so part masks need no second array.
PARTS: tuple[str, ...] = (
    "none",
    "face",
    "scalp",
    "head",
    "neck",
    "torso",
    "hips",
    "upper_arm_l",
    "upper_arm_r",
    "forearm_l",
    "forearm_r",
    "hand_l",
    "hand_r",
    "thigh_l",
    "thigh_r",
    "shin_l",
    "shin_r",
    "foot_l",
    "foot_r",
    "eyes",
)
# MakeHuman's height targets range from dwarf to giant; this share of the range covers adults.
_HEIGHT_RANGE = 0.34
_HEAVY_SLACK = 0.6
_REFLECTION = np.array([-1, 1, 1], np.float32)


@dataclass(frozen=True)
class BodyShape:
    """The shape of a body: five numbers in 0..1.

    Attributes:
        sex: 0 female, 1 male.
        age: 0 young adult (25), 1 old (90).
        weight: 0 thin, 0.5 average, 1 heavy.
        muscle: 0 slack, 0.5 average, 1 athletic.
        height: 0 short, 0.5 average, 1 tall, for the sex.

    Raises:
        UserError: If a number lies outside 0..1.
    """

    sex: float = 0.5
    age: float = 0.2
    weight: float = 0.5
    muscle: float = 0.5
    height: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise UserError(f"BodyShape.{field.name} must lie in 0..1. Received: {field.name}={value}.")


@dataclass(frozen=True, eq=False)
class Body:
    """The mesh that all bodies share. Treat the arrays as read-only.

    Attributes:
        faces: (F, 3) int32 triangles, counter-clockwise from outside.
        uv: (VT, 2) float32 in 0..1, v = 1 at the top of the texture.
        uv_faces: (F, 3) int32 into `uv`.
        face_part: (F,) uint8 into `PARTS`.
        rest_vertices: (V, 3) float32 metres, the average body (`BodyShape()`), arms held out.
        vertex_mirror: (V,) int32, each vertex's left-right mirror vertex.
        bones, parents: (B,) names, and indices of parents (-1 for the root); parents come first.
        bone_mirror: (B,) int32, each bone's left-right mirror.
        skin_bones, skin_weights: (V, 4) int32 and float32, the bones that move a vertex; weights sum to 1.
        mirror_uv_faces: (F, 3) int32, the UV index of each corner's left-right mirror corner.
        occlusion: (V,) float32 in 0..1, the share of the sky that a vertex sees when the arms hang down; for
            `Mesh.occlusion`.
        skirt_faces, skirt_bones, skirt_weights: the helper skirt, a closed tube from waist to shins;
            its vertices are `skirt_vertices(shape)`.
        hair_faces, hair_bones, hair_weights: the helper hair, a shell of shoulder-long hair; its vertices
            are `hair_vertices(shape)`.
    """

    faces: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray
    face_part: np.ndarray
    rest_vertices: np.ndarray
    vertex_mirror: np.ndarray
    bones: tuple[str, ...]
    parents: np.ndarray
    bone_mirror: np.ndarray
    skin_bones: np.ndarray
    skin_weights: np.ndarray
    mirror_uv_faces: np.ndarray
    occlusion: np.ndarray
    skirt_faces: np.ndarray
    skirt_bones: np.ndarray
    skirt_weights: np.ndarray
    hair_faces: np.ndarray
    hair_bones: np.ndarray
    hair_weights: np.ndarray

    def bone(self, name: str) -> int:
        """Return the index of a bone; an unknown name raises UserError with all names."""
        if name not in self.bones:
            raise UserError(f"No bone is called {name!r}; the bones are {', '.join(self.bones)}.")
        return self.bones.index(name)


@lru_cache(maxsize=1)
def _asset() -> dict[str, np.ndarray]:
    with (
        resources.as_file(resources.files("san_tf.synthesis") / "assets" / "body.npz") as path,
        np.load(path) as data,
    ):
        asset = {name: data[name] for name in data.files}
    mirror = asset["mirror"].astype(np.int64)
    half = np.flatnonzero(mirror >= np.arange(len(mirror)))

    def whole(stored: np.ndarray) -> np.ndarray:
        """Both sides of a field (..., P, 3) from the stored side."""
        full = np.empty((*stored.shape[:-2], len(mirror), 3), np.float32)
        full[..., mirror[half], :] = stored * _REFLECTION
        full[..., half, :] = stored
        return full

    return asset | {
        "mirror": mirror,
        "base": whole(asset["base"] * asset["base_step"]),
        "targets": whole(asset["targets"] * asset["target_step"]).reshape(2, 2, 3, 3, -1, 3),
        "heights": whole(asset["heights"] * asset["height_step"]).reshape(2, 2, -1, 3),
    }


@lru_cache(maxsize=128)
def _points(shape: BodyShape) -> np.ndarray:
    """All points of a shape, (P, 3) float32: body and eyes, skirt, hair, bone heads, bone tails."""
    asset = _asset()
    sex = np.array([1 - shape.sex, shape.sex])
    age = np.array([1 - shape.age, shape.age])
    # MakeHuman's heavy, muscular bodies are bulky but lean; only slack heavy bodies look heavy in clothes
    muscle = _levels(shape.muscle * (1 - _HEAVY_SLACK * max(0.0, 2 * shape.weight - 1)))
    weight = _levels(shape.weight)
    points = asset["base"].copy()
    # a plain loop, not a matrix product, so that the additions keep their order with any number of threads
    for index in np.ndindex(2, 2, 3, 3):
        share = sex[index[0]] * age[index[1]] * muscle[index[2]] * weight[index[3]]
        if share > 0:
            points += np.float32(share) * asset["targets"][index]
    reach = (2 * shape.height - 1) * _HEIGHT_RANGE
    end = 1 if reach > 0 else 0
    for share, offsets in zip(sex, asset["heights"][:, end], strict=True):
        points += np.float32(abs(reach) * share) * offsets
    points[:, 1] -= points[: asset["counts"][0], 1].min()
    points = points.astype(np.float32)
    points.flags.writeable = False
    return points


def _levels(value: float) -> np.ndarray:
    """Shares of the minimum, average and maximum target for a value in 0..1."""
    return np.array([max(0, 1 - 2 * value), 1 - abs(2 * value - 1), max(0, 2 * value - 1)])


def _slice(first: int, last: int, shape: BodyShape) -> np.ndarray:
    ends = np.cumsum([0, *_asset()["counts"]])
    return _points(shape)[ends[first] : ends[last]]


def shaped(shape: BodyShape) -> np.ndarray:
    """Vertices of a body in rest pose.

    Args:
        shape: The body's five numbers.

    Returns:
        (V, 3) float32 metres, read-only; the lowest point lies at y = 0.

    Example:
        >>> tall = shaped(BodyShape(sex=1.0, height=1.0))
        >>> bool(1.85 < tall[:, 1].max() < 2.1)
        True
    """
    return _slice(0, 1, shape)


def skirt_vertices(shape: BodyShape) -> np.ndarray:
    """Vertices of the helper skirt in rest pose, (S, 3) float32 metres."""
    return _slice(1, 2, shape)


def hair_vertices(shape: BodyShape) -> np.ndarray:
    """Vertices of the helper hair in rest pose, (H, 3) float32 metres."""
    return _slice(2, 3, shape)


def joints(shape: BodyShape) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of a body's bones in rest pose: heads and tails, each (B, 3) float32 metres."""
    heads, tails = _points(shape)[_asset()["counts"].sum() :].reshape(2, -1, 3)
    return heads, tails


@lru_cache(maxsize=1)
def load_body() -> Body:
    """Return the mesh that all bodies share, read once per process.

    Example:
        >>> body = load_body()
        >>> body.faces.shape == body.uv_faces.shape
        True
    """
    asset = _asset()
    mirror, (count, skirt, hair) = asset["mirror"], asset["counts"]
    key = np.minimum(mirror, np.arange(len(mirror)))
    quads, uv_quads = asset["quads"].astype(np.int64), asset["uv_quads"].astype(np.int64)
    corner = triangulate(quads, key)
    row = np.arange(len(corner))[:, None] // 2
    bones = asset["skin_bones"].astype(np.int32)
    weights = asset["skin_weights"].astype(np.float32) / 255
    ends = np.cumsum([0, count, skirt, hair])

    def tube(name: str, number: int) -> np.ndarray:
        faces = asset[name].astype(np.int64)
        return (
            faces[np.arange(2 * len(faces))[:, None] // 2, triangulate(faces, key)] - ends[number]
        ).astype(np.int32)

    return Body(
        faces=quads[row, corner].astype(np.int32),
        uv=asset["uv"].astype(np.float32) / 65535,
        uv_faces=uv_quads[row, corner].astype(np.int32),
        face_part=asset["part"].repeat(2),
        rest_vertices=shaped(BodyShape()),
        vertex_mirror=mirror[:count].astype(np.int32),
        bones=tuple(str(b) for b in asset["bones"]),
        parents=asset["parents"].astype(np.int32),
        bone_mirror=(mirror[ends[3] : ends[3] + len(asset["bones"])] - ends[3]).astype(np.int32),
        skin_bones=bones[:count],
        skin_weights=weights[:count],
        mirror_uv_faces=_mirror_corners(quads, uv_quads, mirror)[row, corner].astype(np.int32),
        occlusion=asset["occlusion"].astype(np.float32) / 255,
        skirt_faces=tube("skirt_quads", 1),
        skirt_bones=bones[ends[1] : ends[2]],
        skirt_weights=weights[ends[1] : ends[2]],
        hair_faces=tube("hair_quads", 2),
        hair_bones=bones[ends[2] : ends[3]],
        hair_weights=weights[ends[2] : ends[3]],
    )


def _mirror_corners(quads: np.ndarray, uv_quads: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The UV index of each quad corner's mirror corner, (Q, 4).

    A vertex on a seam has several UVs; the mirrored *quad* decides which one is used.
    """
    number = {tuple(sorted(q)): i for i, q in enumerate(quads.tolist())}
    partner = np.array([number[tuple(sorted(q))] for q in mirror[quads].tolist()])
    same = quads[partner][:, None, :] == mirror[quads][:, :, None]
    return np.take_along_axis(uv_quads[partner], same.argmax(2), axis=1)
