"""What stands behind people where no street does: a user's photographs, or painted collages.

The paper's PIT cut its backgrounds from COCO. Collages need no photographs. They are surfaces with grain,
slats and tiles, a horizon, and things in front of it; an encoder learns from them to look at the person.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from san_tf.errors import UserError
from san_tf.image_formats import image_suffixes, is_image_name, jpeg_or_png, read_regular
from san_tf.synthesis.rasterizer import to_linear

_MAX_FILE_BYTES = 256 * 2**20
# Corners of a polygon, x and y in pixels.
Outline: TypeAlias = Sequence[tuple[float, float]]


@functools.lru_cache(maxsize=8)
def photograph_paths(folder: str) -> tuple[str, ...]:
    """List the photographs in a folder and its subfolders.

    Args:
        folder: path of the folder.

    Returns:
        Paths of all files with an image suffix, sorted, so that every process sees the same order.

    Raises:
        UserError: there is no such folder, or no image in it.

    Example:
        >>> photograph_paths("coco/val2017")[0]
        'coco/val2017/000000000139.jpg'
    """
    if not os.path.isdir(folder):
        raise UserError(
            f"The backgrounds folder {folder} does not exist; give a folder of photographs, "
            "or leave `backgrounds` out for procedural streets."
        )
    paths = sorted(
        str(path) for path in Path(folder).rglob("*") if is_image_name(path.name) and path.is_file()
    )
    if not paths:
        raise UserError(
            f"The backgrounds folder {folder} holds no image ({', '.join(sorted(image_suffixes()))}); put "
            "photographs there, or leave `backgrounds` out for procedural streets."
        )
    return tuple(paths)


@functools.lru_cache(maxsize=32)
def _read(path: str) -> np.ndarray:
    try:
        content = jpeg_or_png(read_regular(path, _MAX_FILE_BYTES))
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, ValueError, cv2.error):
        image = None
    if image is None:
        raise UserError(f"The background photograph {path} cannot be read; delete it or copy it again.")
    return image


def crop_photograph(folder: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a random part of a random photograph, resized.

    Args:
        folder: folder of photographs.
        size: (height, width) of the result in pixels.
        rng: chooses photograph and part.

    Returns:
        `(height, width, 3)` float32 RGB in linear light, 0..1.

    Raises:
        UserError: the folder is missing or empty, or a file cannot be read.

    Example:
        >>> crop_photograph("coco/val2017", (256, 128), np.random.default_rng(0)).shape
        (256, 128, 3)
    """
    paths = photograph_paths(folder)
    image = _read(paths[int(rng.integers(len(paths)))])
    rows, columns = image.shape[:2]
    height, width = size
    largest = min(rows / height, columns / width)
    scale = largest * rng.uniform(0.45, 1.0)
    part_rows, part_columns = max(1, int(scale * height)), max(1, int(scale * width))
    top, left = int(rng.integers(rows - part_rows + 1)), int(rng.integers(columns - part_columns + 1))
    part = image[top : top + part_rows, left : left + part_columns]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    part = cv2.resize(np.ascontiguousarray(part[..., ::-1]), (width, height), interpolation=cv2.INTER_AREA)
    return to_linear(part)


def paint_collage(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Paint a random background: a wall above a ground, with things before it.

    Args:
        size: (height, width) in pixels.
        rng: source of randomness.

    Returns:
        `(height, width, 3)` float32 RGB in linear light, 0..1.

    Example:
        >>> paint_collage((192, 96), np.random.default_rng(0)).shape
        (192, 96, 3)
    """
    height, width = size
    canvas = surface(size, rng)
    # The ground begins anywhere between above the head and below the knees, seldom level.
    level, slope = rng.uniform(-0.1, 0.85) * height, rng.normal(0.0, 0.25)
    corners = [
        (0, height),
        (0, level - slope * width / 2),
        (width, level + slope * width / 2),
        (width, height),
    ]
    _lay(canvas, surface(size, rng), [corners], rng.uniform(0.0, 1.5))
    for _ in range(rng.poisson(2.0)):
        _lay(canvas, surface(size, rng), _outline(size, rng), rng.uniform(0.0, 1.0))
    blur = max(0.0, rng.normal(0.0, 0.8)) * height / 128.0
    if blur > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), blur)
    # Colours are given as they look on a screen; squaring approximates linear light.
    return np.square(np.clip(canvas, 0.0, 1.0))


def surface(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Paint a flat surface of any material: mostly grey, with stains and grain, slats or tiles.

    Args:
        size: (height, width) in pixels.
        rng: source of randomness.

    Returns:
        `(height, width, 3)` float32 RGB as it looks on a screen, about 0..1.
    """
    height, width = size
    tint = rng.normal(0.0, 0.03 if rng.random() < 0.75 else 0.25, 3)
    color = rng.uniform(0.06, 0.95) * (1 + tint - tint.mean())
    shade = np.ones((height, width), np.float32)
    for cells in (3, 10, 40):  # stains of three sizes; the last number is across
        coarse = rng.standard_normal((2 * cells, cells), np.float32)
        strength = np.float32(rng.uniform(0.0, 0.12))
        shade += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    shade += np.float32(np.exp(rng.uniform(-4.5, -1.4))) * rng.standard_normal((height, width), np.float32)
    pattern = rng.random()
    if pattern < 0.55:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        angle, skew = rng.choice([0.0, 0.5 * np.pi, rng.uniform(0, np.pi)]), rng.normal(0.0, 0.15)
        period, thick = np.exp(rng.uniform(*np.log([2.5, 30.0]))) * height / 128.0, rng.uniform(0.08, 0.5)
        dark = np.float32(rng.uniform(-0.5, 0.5))
        for turn in (angle, angle + 0.5 * np.pi)[: 1 if pattern < 0.35 else 2]:
            along = x * np.cos(turn + skew) + y * np.sin(turn + skew)
            shade += dark * ((along / period) % 1.0 < thick)
    ramp = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(rng.normal(0.0, 0.12))
    return (shade + ramp[:, None])[..., None] * color.astype(np.float32)


def _outline(size: tuple[int, int], rng: np.random.Generator) -> list[Outline]:
    """Polygons of one thing: a box, a post, a rail with bars, or a lump."""
    height, width = size
    x, y = rng.uniform(-0.2, 1.0) * width, rng.uniform(-0.1, 0.9) * height
    kind = rng.choice(["box", "post", "rail", "lump"], p=[0.4, 0.25, 0.2, 0.15])
    if kind == "box":
        wide, high, lean = rng.uniform(0.1, 0.9) * width, rng.uniform(0.05, 0.5) * height, rng.normal(0, 0.3)
        return [[(x, y), (x + wide, y + lean * wide), (x + wide, y + high + lean * wide), (x, y + high)]]
    if kind == "post":
        thick, lean = rng.uniform(0.02, 0.15) * width, rng.normal(0, 0.02) * height
        return [[(x, -1), (x + thick, -1), (x + thick + lean, height), (x + lean, height)]]
    if kind == "rail":
        thick, tall, lean = rng.uniform(1.5, 6.0), rng.uniform(0.15, 0.4) * height, rng.normal(0, 0.15)
        rails: list[Outline] = [
            [(-1, top), (width, top + lean * width), (width, top + lean * width + thick), (-1, top + thick)]
            for top in (y, y + tall)
        ]
        step = rng.uniform(5.0, 40.0)
        bars = np.arange(x % step, width, step)
        return rails + [
            [(b, y + lean * b), (b + thick / 2, y + lean * b), (b + thick / 2, y + lean * b + tall),
             (b, y + lean * b + tall)]
            for b in bars
        ]  # fmt: skip
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    reach = rng.uniform(0.05, 0.35) * width * rng.uniform(0.7, 1.3, 14)
    return [list(zip(x + reach * np.cos(turn), y + 1.5 * reach * np.sin(turn), strict=True))]


def _mask(size: tuple[int, int], polygons: list[Outline], soft: float) -> np.ndarray:
    """Opacity of polygons, `(height, width)` float32; `soft` is the blur of their edges in pixels."""
    mask = np.zeros(size, np.float32)
    for polygon in polygons:
        # Three binary digits below the pixel keep slanted edges smooth.
        points = np.rint(np.array(polygon) * 8).astype(np.int32).reshape(-1, 1, 2)
        cv2.fillPoly(mask, [points], 1.0, shift=3)
    return cv2.GaussianBlur(mask, (0, 0), soft) if soft > 0.3 else mask


def _lay(canvas: np.ndarray, cloth: np.ndarray, polygons: list[Outline], soft: float) -> np.ndarray:
    """Paint a surface inside polygons, in place; return the opacity."""
    alpha = _mask(canvas.shape[:2], polygons, soft)
    canvas += alpha[..., None] * (cloth - canvas)
    return alpha


def paint_cover(canvas: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Paint something large and near in front of a finished picture, in place.

    Args:
        canvas: `(H, W, 3)` float32 RGB in linear light, changed in place.
        level: strength of the light, such as the mean of the canvas.
        rng: source of randomness.

    Returns:
        `(H, W)` float32 opacity of what was painted.
    """
    height, width = size = canvas.shape[:2]
    kind = rng.choice(["parapet", "side", "post", "rail", "leaves"], p=[0.4, 0.2, 0.15, 0.15, 0.1])
    side = rng.integers(2)
    if kind == "parapet":
        left, right = height * (1 - rng.uniform(0.0, 0.35, 2))
        reach = width * rng.uniform(0.3, 1.3)
        outline: list[Outline] = [[(0, height), (0, left), (reach, right), (reach, height)]]
    elif kind == "side":
        reach = rng.uniform(0.08, 0.35, 2) * width
        top = height * max(0.0, rng.uniform(-0.6, 0.6))
        outline = [[(0, height), (0, top), (reach[0], top), (reach[1], height)]]
    elif kind == "post":
        x, thick = rng.uniform(0, 1) * width, rng.uniform(0.04, 0.16) * width
        outline = [[(x, -1), (x + thick, -1), (x + thick, height), (x, height)]]
    elif kind == "rail":
        y, tall, thick = rng.uniform(0.55, 0.85) * height, rng.uniform(0.2, 0.4) * height, rng.uniform(2, 5)
        bars = np.arange(rng.uniform(0, 12), width, rng.uniform(8.0, 40.0))
        outline = [[(0, y), (width, y), (width, y + thick), (0, y + thick)]]
        outline += [[(b, y), (b + thick / 2, y), (b + thick / 2, y + tall), (b, y + tall)] for b in bars]
    else:
        outline = []
    if kind == "leaves":
        cells = int(rng.integers(8, 24))
        lump = cv2.resize(rng.standard_normal((2 * cells, cells), np.float32), (width, height))
        away = np.linspace(-2.5, 1.5, height, dtype=np.float32)[:, None]
        alpha = np.clip(2 * (lump + away - np.float32(rng.uniform(0.4, 1.0))), 0, 1)
        alpha = cv2.GaussianBlur(alpha, (0, 0), 0.8)
    else:
        alpha = _mask(size, outline, rng.uniform(0.3, 1.2))
    if side:
        alpha = np.ascontiguousarray(alpha[:, ::-1])
    cloth = np.square(np.clip(surface(size, rng), 0, 1)) * np.float32(level * rng.uniform(1.0, 4.0))
    if kind == "leaves":
        cloth *= np.array([0.6, 1.0, 0.35], np.float32)
    canvas += alpha[..., None] * (cloth - canvas)
    return alpha
