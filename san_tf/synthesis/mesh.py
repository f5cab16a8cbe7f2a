"""Triangle meshes, their normals, and splitting quads into triangles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from san_tf.compiled import compiled
from san_tf.errors import UserError


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh with its colours.

    Colour comes either from `texture` (with `uv` and `uv_faces`) or from `colors`. Integer colours are sRGB
    as stored in image files (0..255); float colours are linear light (0..1).

    Attributes:
        vertices: (V, 3) float, metres, world coordinates (y up).
        faces: (F, 3) int32, counter-clockwise seen from outside.
        texture: (T, T, 3) uint8 sRGB or float32 linear; row 0 is v = 1.
        uv: (VT, 2) float32 in 0..1.
        uv_faces: (F, 3) int32 into `uv`.
        colors: (V, 3) uint8 sRGB or float32 linear, one colour per vertex.
        part: (F,) uint8, one label per face; None means 0.
        occlusion: (V,) float32 in 0..1, the share of the sky that a vertex sees; None means 1.
        gloss: Strength of a broad highlight, 0 (cloth) to about 0.4 (patent leather).
        double_sided: Also draw faces seen from behind (thin sheets such as skirts).

    Raises:
        UserError: If shapes, dtypes or indices do not fit together.
    """

    vertices: np.ndarray
    faces: np.ndarray
    texture: np.ndarray | None = None
    uv: np.ndarray | None = None
    uv_faces: np.ndarray | None = None
    colors: np.ndarray | None = None
    part: np.ndarray | None = None
    occlusion: np.ndarray | None = None
    gloss: float = 0.0
    double_sided: bool = False

    def __post_init__(self) -> None:
        vertices, faces = self.vertices, self.faces
        if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
            raise UserError(f"Mesh vertices must be finite and (V, 3). Received: shape={vertices.shape}.")
        _check_faces("faces", faces, len(vertices))
        if (self.texture is None) == (self.colors is None):
            raise UserError("A mesh takes its colour from `texture` or from `colors`: give exactly one.")
        if self.texture is not None:
            if self.uv is None or self.uv_faces is None:
                raise UserError("A textured mesh needs `uv` and `uv_faces`.")
            _check_faces("uv_faces", self.uv_faces, len(self.uv))
            if self.uv_faces.shape != faces.shape:
                raise UserError(f"uv_faces must match faces {faces.shape}. Received: {self.uv_faces.shape}.")
            if self.texture.ndim != 3 or self.texture.shape[2] != 3 or min(self.texture.shape[:2]) < 2:
                raise UserError(f"A texture must be (rows, columns, 3). Received: {self.texture.shape}.")
        for name, value, shape in (
            ("colors", self.colors, vertices.shape),
            ("part", self.part, (len(faces),)),
            ("occlusion", self.occlusion, (len(vertices),)),
        ):
            if value is not None and value.shape != shape:
                raise UserError(f"Mesh {name} must have shape {shape}. Received: {value.shape}.")
        for name, value in (("texture", self.texture), ("colors", self.colors)):
            if value is not None and value.dtype != np.uint8 and value.dtype.kind != "f":
                raise UserError(
                    f"Mesh {name} must be uint8 (sRGB) or float (linear). Received: {value.dtype}."
                )

    def at(self, vertices: np.ndarray) -> Mesh:
        """Return the same mesh with other vertices, such as posed ones."""
        return replace(self, vertices=vertices)


def _check_faces(name: str, faces: np.ndarray, count: int) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise UserError(f"Mesh {name} must be integers (F, 3). Received: {faces.dtype} {faces.shape}.")
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        raise UserError(f"Mesh {name} point at {faces.min()}..{faces.max()}, but there are {count} vertices.")


@compiled
def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    normals = np.zeros(vertices.shape, np.float64)
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        ex, ey, ez = (
            vertices[b, 0] - vertices[a, 0],
            vertices[b, 1] - vertices[a, 1],
            vertices[b, 2] - vertices[a, 2],
        )
        fx, fy, fz = (
            vertices[c, 0] - vertices[a, 0],
            vertices[c, 1] - vertices[a, 1],
            vertices[c, 2] - vertices[a, 2],
        )
        nx, ny, nz = ey * fz - ez * fy, ez * fx - ex * fz, ex * fy - ey * fx
        for k in range(3):
            i = faces[t, k]
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    for i in range(vertices.shape[0]):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2)
        if length > 0:
            normals[i] /= length
        else:
            normals[i, 1] = 1.0
    return normals


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return smooth normals: the area-weighted mean of the neighbouring faces' normals.

    Args:
        vertices: (V, 3) float, metres.
        faces: (F, 3) int32, counter-clockwise seen from outside.

    Returns:
        (V, 3) float64 unit vectors; (0, 1, 0) at a vertex without faces.

    Example:
        >>> triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> vertex_normals(triangle, np.array([[0, 1, 2]], np.int32))[0].tolist()
        [0.0, 0.0, 1.0]
    """
    return _normals(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32))


def triangulate(quads: np.ndarray, key: np.ndarray | None = None) -> np.ndarray:
    """Split each quad into two triangles.

    Args:
        quads: (Q, 4) int vertex indices.
        key: (V,) int; a quad is cut from the corner with the lowest key. If each vertex and its mirror share
            a key, a symmetric mesh stays symmetric.

    Returns:
        (2 * Q, 3) int positions 0..3 within a quad: triangle t has the corners `quads[t // 2, result[t]]`.
    """
    rank = quads if key is None else key[quads]
    odd = rank[:, [1, 3]].min(1) < rank[:, [0, 2]].min(1)
    even_cut, odd_cut = np.array([[0, 1, 2], [0, 2, 3]]), np.array([[1, 2, 3], [1, 3, 0]])
    return np.where(odd[:, None, None], odd_cut, even_cut).reshape(-1, 3)
