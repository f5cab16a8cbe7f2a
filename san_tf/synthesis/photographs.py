"""Backgrounds cut from a user's photographs, as the paper's PIT used COCO."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import cv2
import numpy as np

from san_tf.errors import UserError
from san_tf.image_formats import image_suffixes, is_image_name, jpeg_or_png, read_regular
from san_tf.synthesis.rasterizer import to_linear

_MAX_FILE_BYTES = 256 * 2**20


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
