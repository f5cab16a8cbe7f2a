"""Compiled inner loops of the rasterizer: project, fill, shade, average samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.compiled import compiled

# Vertices nearer than this (metres) count as behind the camera.
NEAR = 0.05


class DepthBuffer(NamedTuple):
    """The nearest surface at each pixel."""

    inverse_depth: np.ndarray  # (H, W) float64: 1 / depth, 0 for none
    triangle: np.ndarray  # (H, W) int32: its face, -1 for none
    which: np.ndarray  # (H, W) int16: index of its mesh, -1 for none


class Surface(NamedTuple):
    """A mesh with its colours, as contiguous arrays; `mesh.Mesh` explains them."""

    points: np.ndarray  # (V, 3) float64 from `project`
    faces: np.ndarray  # (F, 3) int32
    vertices: np.ndarray  # (V, 3) float64 metres
    normals: np.ndarray  # (V, 3) float64 unit vectors
    uv: np.ndarray  # (VT, 2) float32
    uv_faces: np.ndarray  # (F, 3) int32 into `uv`
    texture: np.ndarray  # (T, T, 3) float32 linear; used if `textured`
    colors: np.ndarray  # (V, 3) float32 linear; used if not `textured`
    textured: bool  # whether colours come from the texture
    part: np.ndarray  # (F,) uint8 labels, or empty
    occlusion: np.ndarray  # (V,) float32 in 0..1, or empty for 1
    gloss: float  # strength of the highlight


class ShadowMap(NamedTuple):
    """The key light's view, a parallel projection."""

    axes: np.ndarray  # (3, 3) float64 rows: right, down, towards the light
    x: float  # metres, origin of the map
    y: float
    scale: float  # pixels per metre
    zero: float  # metres along the light where nearness is 0
    nearness: np.ndarray  # (S, S) float64, larger near the light; (0, 0) means no shadows


class Lighting(NamedTuple):
    """Light of a scene, and the point that sees it."""

    lamps: np.ndarray  # (6, 3) float64: key direction, key, sky, ground, fill direction, fill
    eye: np.ndarray  # (3,) float64 metres, position of the camera
    shadow: ShadowMap


class Samples(NamedTuple):
    """What each pixel of the fine grid shows; pixels without a mesh keep their values."""

    rgb: np.ndarray  # (H, W, 3) float32 linear light
    uv: np.ndarray  # (H, W, 2) float32 texture coordinates
    part: np.ndarray  # (H, W) uint8 labels


@compiled
def project(
    vertices: np.ndarray, rotation: np.ndarray, position: np.ndarray, focal: float, cx: float, cy: float
) -> np.ndarray:
    """Project world vertices to pixels with a pinhole camera.

    Args:
        vertices: (V, 3) float64 metres.
        rotation: (3, 3) float64, world to camera axes.
        position: (3,) float64 metres, position of the camera.
        focal: focal length in pixels.
        cx: x of the principal point in pixels.
        cy: y of the principal point in pixels.

    Returns:
        (V, 3) float64: pixel x, pixel y, 1 / depth; all 0 for vertices behind the camera.
    """
    points = np.empty(vertices.shape, np.float64)
    r = rotation
    for i in range(vertices.shape[0]):
        x, y, z = vertices[i, 0] - position[0], vertices[i, 1] - position[1], vertices[i, 2] - position[2]
        depth = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
        if depth < NEAR:
            points[i, 0], points[i, 1], points[i, 2] = 0.0, 0.0, 0.0
            continue
        points[i, 0] = cx + focal * (r[0, 0] * x + r[0, 1] * y + r[0, 2] * z) / depth
        points[i, 1] = cy + focal * (r[1, 0] * x + r[1, 1] * y + r[1, 2] * z) / depth
        points[i, 2] = 1.0 / depth
    return points


@compiled
def flatten(vertices: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return coordinates (V, 3) along the rows of `axes`, a parallel projection.

    Unlike a matrix product, it adds in a fixed order.
    """
    points = np.empty(vertices.shape, np.float64)
    for i in range(vertices.shape[0]):
        for k in range(3):
            points[i, k] = (
                axes[k, 0] * vertices[i, 0] + axes[k, 1] * vertices[i, 1] + axes[k, 2] * vertices[i, 2]
            )
    return points


@compiled
def fill(
    points: np.ndarray, faces: np.ndarray, number: int, double_sided: bool, nearest: DepthBuffer
) -> None:
    """Write a mesh's triangles into the pixels where they are nearest so far.

    Args:
        points: (V, 3) float64 pixel x, pixel y, 1 / depth, from `project` or `flatten`.
        faces: (F, 3) int32.
        number: index of the mesh.
        double_sided: whether to draw faces seen from behind.
        nearest: changed in place.
    """
    inverse_depth, triangle, which = nearest.inverse_depth, nearest.triangle, nearest.which
    height, width = inverse_depth.shape
    for t in range(faces.shape[0]):
        a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
        x0, y0, x1, y1, x2, y2 = (
            points[a, 0],
            points[a, 1],
            points[b, 0],
            points[b, 1],
            points[c, 0],
            points[c, 1],
        )
        z0, z1, z2 = points[a, 2], points[b, 2], points[c, 2]
        if z0 <= 0 or z1 <= 0 or z2 <= 0:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        # y points down, so a triangle that is counter-clockwise seen from outside has a negative area
        if area == 0 or (area > 0 and not double_sided):
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2) - 0.5)))
        right = min(width - 1, int(np.floor(max(x0, x1, x2) - 0.5)))
        if right < left:
            continue
        top = max(0, int(np.ceil(min(y0, y1, y2) - 0.5)))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
        for row in range(top, bottom + 1):
            y = row + 0.5
            for col in range(left, right + 1):
                x = col + 0.5
                w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                w2 = 1 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                z = w0 * z0 + w1 * z1 + w2 * z2
                if z > inverse_depth[row, col]:
                    inverse_depth[row, col] = z
                    triangle[row, col] = t
                    which[row, col] = number


@compiled
def _lit(nearness: np.ndarray, x: float, y: float, z: float) -> float:
    """Lit share of the point (x, y) at nearness z: four texels of the shadow map, bilinear."""
    fx, fy = x - 0.5, y - 0.5
    ix, iy = int(np.floor(fx)), int(np.floor(fy))
    ax, ay = fx - ix, fy - iy
    height, width = nearness.shape
    lit = 0.0
    for dy in range(2):
        for dx in range(2):
            w = (ax if dx else 1 - ax) * (ay if dy else 1 - ay)
            row, col = iy + dy, ix + dx
            if row < 0 or col < 0 or row >= height or col >= width or nearness[row, col] <= z:
                lit += w
    return lit


@compiled
def shade(number: int, surface: Surface, lighting: Lighting, nearest: DepthBuffer, samples: Samples) -> None:
    """Colour the pixels that show mesh `number`.

    Args:
        number: index of the mesh.
        surface: the mesh.
        lighting: light and shadows.
        nearest: result of `fill` for all meshes.
        samples: changed in place.
    """
    points, faces, vertices, normals = surface.points, surface.faces, surface.vertices, surface.normals
    uv, uv_faces, texture, colors = surface.uv, surface.uv_faces, surface.texture, surface.colors
    part, occlusion, gloss = surface.part, surface.occlusion, surface.gloss
    lamps, eye, shadow = lighting.lamps, lighting.eye, lighting.shadow
    inverse_depth, triangle, which = nearest.inverse_depth, nearest.triangle, nearest.which
    rows, cols = texture.shape[0], texture.shape[1]
    color = np.empty(3)
    for row in range(which.shape[0]):
        for col in range(which.shape[1]):
            if which[row, col] != number:
                continue
            t = triangle[row, col]
            a, b, c = faces[t, 0], faces[t, 1], faces[t, 2]
            x0, y0, x1, y1 = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
            x2, y2, x, y = points[c, 0], points[c, 1], col + 0.5, row + 0.5
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
            w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
            z = inverse_depth[row, col]
            # attribute / depth is linear on the screen; dividing by 1 / depth corrects the perspective
            w0, w1 = w0 * points[a, 2] / z, w1 * points[b, 2] / z
            w2 = 1 - w0 - w1
            if surface.textured:
                i, j, k = uv_faces[t, 0], uv_faces[t, 1], uv_faces[t, 2]
                u = w0 * uv[i, 0] + w1 * uv[j, 0] + w2 * uv[k, 0]
                v = w0 * uv[i, 1] + w1 * uv[j, 1] + w2 * uv[k, 1]
                samples.uv[row, col, 0], samples.uv[row, col, 1] = u, v
                fx = min(max(u * cols - 0.5, 0.0), cols - 1.0)
                fy = min(max((1 - v) * rows - 0.5, 0.0), rows - 1.0)
                ix, iy = min(int(fx), cols - 2), min(int(fy), rows - 2)
                ax, ay = fx - ix, fy - iy
                for k in range(3):
                    color[k] = (1 - ay) * (
                        (1 - ax) * texture[iy, ix, k] + ax * texture[iy, ix + 1, k]
                    ) + ay * ((1 - ax) * texture[iy + 1, ix, k] + ax * texture[iy + 1, ix + 1, k])
            else:
                for k in range(3):
                    color[k] = w0 * colors[a, k] + w1 * colors[b, k] + w2 * colors[c, k]
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
            if area > 0:
                length = -length  # seen from behind
            nx, ny, nz = nx / length, ny / length, nz / length
            px = w0 * vertices[a, 0] + w1 * vertices[b, 0] + w2 * vertices[c, 0]
            py = w0 * vertices[a, 1] + w1 * vertices[b, 1] + w2 * vertices[c, 1]
            pz = w0 * vertices[a, 2] + w1 * vertices[b, 2] + w2 * vertices[c, 2]
            key = nx * lamps[0, 0] + ny * lamps[0, 1] + nz * lamps[0, 2]
            if key > 0 and shadow.nearness.shape[0] > 0:
                # a step along the normal keeps the surface from casting a shadow on itself
                qx, qy, qz = px + 0.02 * nx, py + 0.02 * ny, pz + 0.02 * nz
                sx = shadow.axes[0, 0] * qx + shadow.axes[0, 1] * qy + shadow.axes[0, 2] * qz
                sy = shadow.axes[1, 0] * qx + shadow.axes[1, 1] * qy + shadow.axes[1, 2] * qz
                sz = shadow.axes[2, 0] * qx + shadow.axes[2, 1] * qy + shadow.axes[2, 2] * qz
                key *= _lit(
                    shadow.nearness,
                    (sx - shadow.x) * shadow.scale,
                    (sy - shadow.y) * shadow.scale,
                    sz - shadow.zero,
                )
            key = max(key, 0.0)
            fill_light = max(nx * lamps[4, 0] + ny * lamps[4, 1] + nz * lamps[4, 2], 0.0)
            shine = 0.0
            if gloss > 0 and key > 0:
                ex, ey, ez = eye[0] - px, eye[1] - py, eye[2] - pz
                length = np.sqrt(ex * ex + ey * ey + ez * ez) + 1e-12
                hx, hy, hz = ex / length + lamps[0, 0], ey / length + lamps[0, 1], ez / length + lamps[0, 2]
                length = np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-12
                half = max((nx * hx + ny * hy + nz * hz) / length, 0.0)
                shine = gloss * half**24
            up = 0.5 + 0.5 * ny
            open_sky = 1.0
            if occlusion.shape[0] > 0:
                open_sky = w0 * occlusion[a] + w1 * occlusion[b] + w2 * occlusion[c]
            for k in range(3):
                ambient = open_sky * (up * lamps[2, k] + (1 - up) * lamps[3, k])
                samples.rgb[row, col, k] = (
                    color[k] * (ambient + key * lamps[1, k] + fill_light * open_sky * lamps[5, k])
                    + shine * lamps[1, k]
                )
            if part.shape[0] > 0:
                samples.part[row, col] = part[t]


@compiled
def resolve(
    n: int, nearest: DepthBuffer, samples: Samples
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average n x n samples per pixel.

    Args:
        n: samples per pixel and side.
        nearest: (n H, n W) surfaces.
        samples: (n H, n W) results of `shade`.

    Returns:
        rgb, alpha, uv, depth, part and mesh, as in `rasterizer.Frame`.
    """
    inverse_depth, which = nearest.inverse_depth, nearest.which
    rgb, uv, part = samples.rgb, samples.uv, samples.part
    height, width = rgb.shape[0] // n, rgb.shape[1] // n
    color = np.zeros((height, width, 3), np.float32)
    alpha = np.zeros((height, width), np.float32)
    uv_out = np.full((height, width, 2), -1, np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    part_out = np.zeros((height, width), np.uint8)
    mesh = np.full((height, width), -1, np.int16)
    for row in range(height):
        for col in range(width):
            covered = 0
            closest = 0.0
            for i in range(row * n, row * n + n):
                for j in range(col * n, col * n + n):
                    if which[i, j] < 0:
                        continue
                    covered += 1
                    for k in range(3):
                        color[row, col, k] += rgb[i, j, k]
                    if inverse_depth[i, j] > closest:
                        closest = inverse_depth[i, j]
                        depth[row, col] = 1 / closest
                        uv_out[row, col, 0], uv_out[row, col, 1] = uv[i, j, 0], uv[i, j, 1]
                        part_out[row, col] = part[i, j]
                        mesh[row, col] = which[i, j]
            if covered:
                alpha[row, col] = covered / (n * n)
                for k in range(3):
                    color[row, col, k] /= covered
    return color, alpha, uv_out, depth, part_out, mesh
