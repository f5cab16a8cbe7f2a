"""Pseudo textures: a side data set, a folder of images named after the images they belong to.

A benchmark stays as published; its textures, painted by a texture generator or taken from the paper's authors
(who publish them in the same form), are attached by file name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_folder
from san_tf.data.records import Records, is_image
from san_tf.errors import UserError


def write_textures(
    folder: str | os.PathLike[str],
    filenames: Iterable[str],
    textures: Iterable[np.ndarray],
    quality: int = 95,
) -> None:
    """Write textures as JPEG files `<stem>.jpg`, all of them or none.

    Args:
        folder: where; replaced if it exists.
        filenames: N names of the images; their stems name the textures.
        textures: N arrays `(T, T, 3)` uint8 RGB; may be a generator, so that they need not all fit in memory.
        quality: of the JPEGs, 1-100.

    Raises:
        UserError: two images have the same stem, or the folder cannot be written.
        ValueError: a texture is not `(T, T, 3)` uint8, or there are not as many textures as names.
    """
    written: set[str] = set()
    with atomic_folder(folder) as temporary:
        for filename, texture in zip(filenames, textures, strict=True):
            if (
                texture.dtype != np.uint8
                or texture.ndim != 3
                or texture.shape != (len(texture), len(texture), 3)
            ):
                raise ValueError(f"A texture is (T, T, 3) uint8. Received: {texture.shape} {texture.dtype}.")
            stem = Path(filename).stem
            if stem in written:
                raise UserError(f"Two images are named {stem}, so their textures would overwrite each other.")
            written.add(stem)
            encoded = tf.io.encode_jpeg(texture, quality=quality, chroma_downsampling=False)
            (temporary / f"{stem}.jpg").write_bytes(encoded.numpy())


def attach_textures(records: Records, folder: str | os.PathLike[str], allow_missing: bool = False) -> Records:
    """Return the records with the textures of a folder, matched by the stems of the file names.

    Args:
        records: whose `filenames` name the textures.
        folder: of `.jpg` or `.png` files, such as `write_textures` or the paper's authors make.
        allow_missing: let images without a texture pass; they train without the reconstruction losses.

    Raises:
        UserError: the folder is missing, a texture is missing (the message counts them and lists the first),
            or one is damaged or not a square RGB image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"The texture folder {folder} does not exist; paint the textures first, or check the path."
        )
    paths = {path.stem: path for path in sorted(folder.iterdir()) if is_image(path)}
    stems = [Path(name).stem for name in records.filenames]
    missing = [name for name, stem in zip(records.filenames, stems, strict=True) if stem not in paths]
    if missing and (not allow_missing or len(missing) == len(records)):
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"The folder {folder} has no texture for {len(missing)} of {len(records)} images ({first}); "
            "paint them first."
        )
    with ThreadPoolExecutor(8) as threads:
        textures = list(threads.map(lambda stem: paths[stem].read_bytes() if stem in paths else b"", stems))
    for stem, texture in zip(stems, textures, strict=True):
        if stem in paths and not texture:
            raise UserError(f"The texture {paths[stem]} is empty; paint it again.")
    return records.with_textures(textures).verified()
