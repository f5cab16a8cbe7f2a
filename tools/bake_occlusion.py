"""How much of the sky each vertex of a mesh sees, found by looking at the mesh from many sides."""

from __future__ import annotations

import numpy as np

from san_tf.synthesis import raster_kernels as kernels
from san_tf.synthesis.mesh import vertex_normals

SIZE = 512


def directions(count: int) -> np.ndarray:
    """Evenly spread unit vectors (count, 3): a Fibonacci sphere."""
    i = np.arange(count) + 0.5
    y, turn = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - y**2)
    return np.stack([radius * np.cos(turn), y, radius * np.sin(turn)], axis=1)


def open_share(vertices: np.ndarray, faces: np.ndarray, count: int = 256) -> np.ndarray:
    """Cosine-weighted share (V,) in 0..1 of the directions above each vertex that nothing blocks."""
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
        kernels.fill(
            points,
            faces,
            0,
            True,
            nearness,
            np.full(nearness.shape, -1, np.int32),
            np.full(nearness.shape, -1, np.int16),
        )
        cosine = np.maximum(normals @ toward, 0)
        # look from a little off the surface
        off = points + 0.01 * (normals @ axes.T) * [scale, scale, 1]
        column, row = np.clip(off[:, :2], 0, SIZE - 1).astype(int).T
        free = nearness[row, column] <= off[:, 2] + 0.006
        seen += cosine * free
        total += cosine
    return seen / np.maximum(total, 1e-9)
