"""Maps of the shared UV layout: position, body part and mirror of each texel.

Textures are painted from these maps, so hems and patterns continue across the seams of the UV islands. In a
texture of size S, the texel at row r, column c has its centre at u = (c + 0.5) / S, v = 1 - (r + 0.5) / S.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from san_tf.compiled import compiled
from san_tf.errors import UserError
from san_tf.synthesis.body import load_body
from san_tf.synthesis.mesh import vertex_normals

# Bilinear lookups stay inside this border at 256 x 256, and after the texture is halved a few times.
_PADDING = 6


@dataclass(frozen=True, eq=False)
class TexelMap:
    """Geometry of the average body at each texel of an (S, S) texture, read-only.

    Attributes:
        position: (S, S, 3) float32 metres on the body in rest pose (arms held out).
        normal: (S, S, 3) float32 unit vectors on `mask`, zeros elsewhere.
        part: (S, S) uint8 into `body.PARTS`; 0 off the mask.
        mask: (S, S) bool, texels of the body and of a border around each island. The border repeats the
            island's nearest texel, so bilinear lookups never read background.
        inside: (S, S) bool, texels whose centre lies on the body.
        face: (S, S) int32, the texel's triangle in `load_body().faces`; -1 off the mask.
        weights: (S, S, 3) float32, the texel's barycentric coordinates in that triangle.
    """

    position: np.ndarray
    normal: np.ndarray
    part: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    face: np.ndarray
    weights: np.ndarray


@compiled
def _locate(uv: np.ndarray, uv_faces: np.ndarray, face: np.ndarray, weights: np.ndarray) -> None:
    """Write the triangle and the barycentric coordinates of each texel's centre."""
    size = face.shape[0]
    for t in range(uv_faces.shape[0]):
        a, b, c = uv_faces[t, 0], uv_faces[t, 1], uv_faces[t, 2]
        x0, x1, x2 = uv[a, 0] * size - 0.5, uv[b, 0] * size - 0.5, uv[c, 0] * size - 0.5
        y0, y1, y2 = (1 - uv[a, 1]) * size - 0.5, (1 - uv[b, 1]) * size - 0.5, (1 - uv[c, 1]) * size - 0.5
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        for row in range(
            max(0, int(np.ceil(min(y0, y1, y2)))), min(size - 1, int(np.floor(max(y0, y1, y2)))) + 1
        ):
            for col in range(
                max(0, int(np.ceil(min(x0, x1, x2)))), min(size - 1, int(np.floor(max(x0, x1, x2)))) + 1
            ):
                w0 = ((x1 - col) * (y2 - row) - (x2 - col) * (y1 - row)) / area
                w1 = ((x2 - col) * (y0 - row) - (x0 - col) * (y2 - row)) / area
                w2 = 1 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0 or face[row, col] >= 0:
                    continue
                face[row, col] = t
                weights[row, col, 0], weights[row, col, 1], weights[row, col, 2] = w0, w1, w2


@lru_cache(maxsize=8)
def texel_map(size: int = 256) -> TexelMap:
    """Return the geometry of the average body at each texel.

    Args:
        size: Texture side S, at least 16 texels.

    Returns:
        The map, computed once per size.

    Raises:
        UserError: If the size is below 16.

    Example:
        >>> texels = texel_map(64)
        >>> bool(texels.position[texels.inside][:, 1].max() > 1.5)
        True
    """
    if size < 16:
        raise UserError(f"A body texture must be at least 16 texels wide. Received: size={size}.")
    body = load_body()
    face = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 3))
    _locate(body.uv.astype(np.float64), body.uv_faces, face, weights)
    inside = face >= 0
    # each texel's distance to the nearest texel inside, and that texel's label
    distance, label = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    mask = distance <= _PADDING * max(1, size / 256)
    place = np.zeros(label.max() + 1, np.int64)
    place[label[inside]] = np.flatnonzero(inside)
    nearest = place[label]
    face = np.where(mask, face.ravel()[nearest], -1).astype(np.int32)
    weights = np.where(mask[..., None], weights.reshape(-1, 3)[nearest], 0).astype(np.float32)

    corners = body.faces[face]
    normals = vertex_normals(body.rest_vertices, body.faces)
    normal = np.einsum("ijk,ijkd->ijd", weights, normals[corners])
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    arrays = {
        "position": np.einsum("ijk,ijkd->ijd", weights, body.rest_vertices[corners]).astype(np.float32),
        "normal": np.where(mask[..., None], normal, 0).astype(np.float32),
        "part": np.where(mask, body.face_part[face], 0).astype(np.uint8),
        "mask": mask,
        "inside": inside,
        "face": face,
        "weights": weights,
    }
    for array in arrays.values():
        array.flags.writeable = False
    return TexelMap(**arrays)


def texels_at(uv: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the texels at texture coordinates.

    Args:
        uv: (..., 2) texture coordinates; values outside 0..1 give the nearest edge.
        size: Texture side S.

    Returns:
        Row and column, (...) int64 each, an index into a texture.

    Example:
        >>> texels_at(np.array([0.5, 0.99]), 64)
        (np.int64(0), np.int64(32))
    """
    column = np.clip(np.floor(uv[..., 0] * size), 0, size - 1).astype(np.int64)
    row = np.clip(np.floor((1 - uv[..., 1]) * size), 0, size - 1).astype(np.int64)
    return row, column


@lru_cache(maxsize=8)
def mirror_map(size: int = 256) -> np.ndarray:
    """Return the left-right mirror texel of each texel.

    A flipped photograph shows the mirrored texture, `texture[map[..., 0], map[..., 1]]`. Texels off the body
    map to themselves.

    Args:
        size: Texture side S.

    Returns:
        (S, S, 2) int32 of (row, column), read-only.

    Example:
        >>> mirror_map(64).shape
        (64, 64, 2)
    """
    body, texels = load_body(), texel_map(size)
    uv = np.einsum("ijk,ijkd->ijd", texels.weights, body.uv[body.mirror_uv_faces[texels.face]])
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    place = np.stack([(1 - uv[..., 1]) * size - 0.5, uv[..., 0] * size - 0.5], axis=-1)
    result = np.where(texels.mask[..., None], np.clip(np.rint(place), 0, size - 1), grid).astype(np.int32)
    result.flags.writeable = False
    return result
