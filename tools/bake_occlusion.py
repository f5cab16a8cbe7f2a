"""Computes the share of the sky that each vertex of a mesh sees.

It looks at the mesh from many directions.
"""

from __future__ import annotations

import numpy as np

from san_tf.synthesis import raster_kernels as kernels
from san_tf.synthesis.mesh import vertex_normals

# Side of the depth map in pixels.
SIZE = 512


def directions(count: int) -> np.ndarray:
    """Return evenly spread unit vectors (count, 3): a Fibonacci sphere."""
    i = np.arange(count) + 0.5
    y, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - y**2)
    return np.stack([radius * np.cos(turn), y, radius * np.sin(turn)], axis=1)


def open_share(vertices: np.ndarray, faces: np.ndarray, count: int = 256) -> np.ndarray:
    """Return the cosine-weighted share of free directions above each vertex.

    Args:
        vertices: (V, 3) float metres.
        faces: (F, 3) int32.
        count: number of directions.

    Returns:
        (V,) float64 in 0..1.
    """
    normals = vertex_normals(vertices, faces)
    seen, total = np.zeros(len(vertices)), np.zeros(len(vertices))
    for toward in directions(count):
        helper = np.eye(3)[np.abs(toward).argmin()]
        right = np.cross(helper, toward)
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(right, toward), toward])
        points = vertices @ axes.T
        low = points.min(0)
        scale = (SIZE - 4) / np.ptp(points[:, :2], axis=0).max()
        points = (points - low) * [scale, scale, 1] + [2, 2, 1]
        nearness = np.zeros((SIZE, SIZE))
        triangle, which = np.full(nearness.shape, -1, np.int32), np.full(nearness.shape, -1, np.int16)
        kernels.fill(points, faces, 0, True, kernels.DepthBuffer(nearness, triangle, which))
        cosine = np.maximum(normals @ toward, 0)
        # start a little off the surface, so that it does not block itself
        off = points + 0.01 * (normals @ axes.T) * [scale, scale, 1]
        column, row = np.clip(off[:, :2], 0, SIZE - 1).astype(int).T
        free = nearness[row, column] <= off[:, 2] + 0.006
        seen += cosine * free
        total += cosine
    return seen / np.maximum(total, 1e-9)
