"""Skirts, dresses and long coats: tubes around the legs that follow both thighs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from san_tf.synthesis.body import PARTS, BodyShape, load_body, skirt_vertices
from san_tf.synthesis.wardrobe.cloth import skirt_colors
from san_tf.synthesis.wardrobe.coordinates import Array, body_points
from san_tf.synthesis.wardrobe.extras import ExtraMesh, grid_faces
from san_tf.synthesis.wardrobe.person import Identity

_ROWS = 12
_TEXTURE = (48, 96)
# Dresses and coats whose hem is lower than this (metres) get a tube; others are offsets of the body's mesh.
_LONG = 0.76


@lru_cache(maxsize=1)
def _columns() -> tuple[NDArray[np.int64], Array]:
    """The helper skirt as a grid of levels (downwards) and columns (around, starting behind).

    Returns:
        index: `(levels, columns)` vertices of the helper skirt.
        weights: `(levels, columns, B)` float32, their dense bone weights.
    """
    body = load_body()
    faces = body.skirt_faces.reshape(-1, 2, 3)
    neighbours: dict[int, set[int]] = {}
    for first, second in faces.tolist():
        quad = set(first) | set(second)
        diagonal = set(first) & set(second)
        for a in quad:
            for b in quad - {a}:
                if {a, b} != diagonal and not {a, b} <= quad - diagonal:
                    neighbours.setdefault(a, set()).add(b)
    place = skirt_vertices(BodyShape())
    rim = {v for v, near in neighbours.items() if len(near) == 3 and place[v, 1] > 0.6}
    ring = sorted(rim, key=lambda v: np.arctan2(place[v, 0], place[v, 2] - 0.03))
    levels, seen = [ring], set(rim)
    while True:
        below = [next(iter(neighbours[v] - seen), None) for v in levels[-1]]
        if any(v is None for v in below):
            break
        seen |= {v for v in below if v is not None}
        levels.append([v for v in below if v is not None])
    index = np.array(levels)
    dense = np.zeros((len(place), len(body.bones)), np.float32)
    np.put_along_axis(dense, body.skirt_bones, 0, 1)
    for k in range(body.skirt_bones.shape[1]):
        np.add.at(dense, (np.arange(len(place)), body.skirt_bones[:, k]), body.skirt_weights[:, k])
    return index, dense[index]


def _tube(
    shape: BodyShape, top: float, hem: float, flare: float, margin: float
) -> tuple[Array, Array, Array]:
    """Points of a tube from height `top` to height `hem`.

    Returns:
        average: `(rows, columns + 1, 3)` around the average body, for painting.
        own: the same points around the given build.
        weights: `(rows, columns + 1, B)` dense bone weights.
    """
    index, dense = _columns()
    rest, mine = skirt_vertices(BodyShape())[index], skirt_vertices(shape)[index]
    height = rest[:, :, 1]
    wanted = np.linspace(0, 1, _ROWS)[:, None] * (hem - top) + top
    average = np.empty((_ROWS, index.shape[1], 3), np.float32)
    own = np.empty_like(average)
    weights = np.empty((_ROWS, index.shape[1], dense.shape[2]), np.float32)
    for column in range(index.shape[1]):
        level = np.interp(-wanted[:, 0], -height[:, column], np.arange(len(index)))
        low = np.minimum(level.astype(int), len(index) - 2)
        part = (level - low)[:, None].astype(np.float32)
        for source, target in ((rest, average), (mine, own), (dense, weights)):
            target[:, column] = (1 - part) * source[low, column] + part * source[low + 1, column]
    down = np.linspace(0, 1, _ROWS, dtype=np.float32)[:, None]
    margin_here = margin * np.clip(4 * down + 0.15, 0, 1)  # close to the body under the hem of the top
    for points in (average, own):
        middle = points.mean(1, keepdims=True)
        ray = points - middle
        ray[..., 1] = 0
        length = np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1e-6)
        points += ray / length * (margin_here + flare * down)[..., None]
    closed = [np.concatenate([a, a[:, :1]], 1) for a in (average, own, weights)]
    return closed[0], closed[1], closed[2]


def skirt_meshes(identity: Identity, seed: int) -> tuple[ExtraMesh, ...]:
    """Builds the tube of a skirt, a dress or a long coat.

    Args:
        identity: `Identity`.
        seed: `int`. Places the folds.

    Returns:
        One `ExtraMesh`, or none for people in trousers and short tops.
    """
    upper, lower = identity.upper, identity.lower
    if upper.kind in ("dress", "coat") and upper.hem < _LONG:
        name, hem, top, loose = upper.kind, upper.hem, 0.97, upper.looseness
    elif lower.kind == "skirt":
        name, hem, top, loose = "skirt", lower.hem, min(0.985, upper.hem + 0.03), lower.looseness
    else:
        return ()
    # coats flare less than skirts and dresses, but stand further from the body
    flare = (0.015 + 0.07 * loose) if name != "coat" else 0.01 + 0.03 * loose
    margin = 0.026 if name == "coat" else 0.012
    average, own, weights = _tube(identity.shape, top, hem, flare, margin)
    rows, columns = own.shape[:2]
    faces = grid_faces(rows, columns)
    if name == "coat" and upper.opening > 0:
        middle = average.reshape(-1, 3)[faces].mean(1)
        faces = faces[~((middle[:, 2] > 0.05) & (np.abs(middle[:, 0]) < 0.02 + upper.opening))]
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(1, 0, rows))
    order = np.argsort(-weights, axis=-1)[..., :4]
    share = np.take_along_axis(weights, order, -1)
    return (
        ExtraMesh(
            name=name,
            vertices=own.reshape(-1, 3),
            faces=faces,
            uv=np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
            texture=_texture(identity, average, name, seed),
            bones=order.reshape(-1, 4).astype(np.int32),
            weights=(share / share.sum(-1, keepdims=True)).reshape(-1, 4).astype(np.float32),
            double_sided=True,
        ),
    )


def _texture(identity: Identity, average: Array, name: str, seed: int) -> NDArray[np.uint8]:
    """Texture of the tube, painted like the rest of the garment by position around the average body."""
    rows, columns = _TEXTURE
    r = np.linspace(0, average.shape[0] - 1, rows)
    c = np.linspace(0, average.shape[1] - 1, columns)
    r0, c0 = np.minimum(r.astype(int), average.shape[0] - 2), np.minimum(c.astype(int), average.shape[1] - 2)
    fr, fc = (r - r0)[:, None, None], (c - c0)[None, :, None]
    place = (1 - fr) * ((1 - fc) * average[r0][:, c0] + fc * average[r0][:, c0 + 1])
    place = place + fr * ((1 - fc) * average[r0 + 1][:, c0] + fc * average[r0 + 1][:, c0 + 1])
    place = place.reshape(-1, 3).astype(np.float32)
    normal = place * np.array([1, 0, 1], np.float32) - np.array([0, 0, 0.03], np.float32)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    points = body_points(place, normal, np.full(len(place), PARTS.index("hips"), np.uint8))
    around = np.arctan2(points.x, points.z - 0.03)
    points = replace(
        points,
        on_leg=np.zeros_like(points.on_leg),
        around=(0.14 * around).astype(np.float32),
        around_period=np.full_like(points.around, 2 * np.pi * 0.14),
        occlusion=np.ones_like(points.occlusion),
    )
    rgb = skirt_colors(points, identity.upper, identity.lower, name, seed)
    return np.clip(np.rint(rgb), 4, 250).astype(np.uint8).reshape(rows, columns, 3)
