"""Pseudo textures: a separate folder of texture images, matched to images by file name.

The benchmark itself stays as published. Its textures come from a texture generator or from the paper's
authors, who publish them in the same form.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_folder
from san_tf.data.records import Records, is_image, read_image
from san_tf.errors import UserError

# Bytes of a name, and of a path within the folder; leaves room for temporary names and the folder's own path.
_LONGEST_NAME, _LONGEST_PATH = 200, 1000


def write_textures(
    folder: str | os.PathLike[str],
    filenames: Iterable[str],
    textures: Iterable[np.ndarray],
    quality: int = 95,
) -> None:
    """Write textures as JPEG files, all or none; the texture of `a/1.png` is `a/1.jpg`.

    Args:
        folder: folder to write; replaced if it exists.
        filenames: N names of the images, with or without folders.
        textures: N arrays `(T, T, 3)` uint8 RGB; may be a generator, so that they need not all fit in memory.
        quality: JPEG quality, 1-100.

    Raises:
        UserError: two images differ only in their suffix, a name leads out of the folder, or the folder
            cannot be written.
        ValueError: a texture is not `(T, T, 3)` uint8, or the numbers of textures and names differ.
    """
    names = texture_names(filenames)
    with atomic_folder(folder) as temporary:
        for name, texture in zip(names, textures, strict=True):
            if (
                texture.dtype != np.uint8
                or texture.ndim != 3
                or texture.shape != (len(texture), len(texture), 3)
            ):
                raise ValueError(f"A texture is (T, T, 3) uint8. Received: {texture.shape} {texture.dtype}.")
            encoded = tf.io.encode_jpeg(texture, quality=quality, chroma_downsampling=False)
            path = temporary / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.numpy())


def texture_names(filenames: Iterable[str]) -> list[str]:
    """Return the texture names of images: the image names with folders, without suffix.

    A name that is too long for a file system is shortened to its beginning and a digest of the whole name.

    Args:
        filenames: names of the images.

    Raises:
        UserError: two images differ only in their suffix, or a name leads out of the folder.

    Example:
        >>> texture_names(["a/1.png", "2.jpg"])
        ['a/1', '2']
    """
    names: dict[str, str] = {}
    for filename in filenames:
        name = _short(_bare(filename))
        if name in names:
            raise UserError(
                f"The images {names[name]} and {filename} differ in their suffix alone, so their textures"
                " would overwrite each other; rename one."
            )
        names[name] = filename
    return list(names)


def _short(name: str) -> str:
    """The name, or its short form if file systems (255 bytes a name, 4,096 a path) might refuse it."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= _LONGEST_PATH and max(map(len, encoded.split(b"/"))) <= _LONGEST_NAME:
        return name
    beginning = encoded.rpartition(b"/")[2][:60].decode("utf-8", "ignore")
    return f"{beginning}-{hashlib.sha256(encoded).hexdigest()[:32]}"


def _bare(filename: str) -> str:
    """The name with its folders, without its suffix."""
    name = PurePosixPath(filename).with_suffix("")
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"The image name {filename} leads out of its folder; rename the image.")
    return str(name)


def attach_textures(records: Records, folder: str | os.PathLike[str], allow_missing: bool = False) -> Records:
    """Return the records with the textures of a folder, matched by file name without suffix.

    Args:
        records: the images; their `filenames` name the textures.
        folder: folder of texture images as `write_textures` makes it. A flat folder, as the paper's authors
            publish it, also works if no two images then have the same name.
        allow_missing: accept images without a texture; they train without the reconstruction losses.

    Raises:
        UserError: the folder or a texture is missing (the message counts them and lists the first), or a
            texture is damaged or not a square RGB image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"The texture folder {folder} does not exist; paint the textures first, or check the path."
        )
    found = [path for path in sorted(folder.rglob("*")) if is_image(path)]
    paths = {str(PurePosixPath(path.relative_to(folder)).with_suffix("")): path for path in found}
    bare = (_bare(name) for name in records.filenames)
    # A folder made by other software may use the long names.
    stems = [stem if stem in paths else _short(stem) for stem in bare]
    flat = [PurePosixPath(stem).name for stem in stems]
    if len(set(flat)) == len(flat) and not any(stem in paths for stem in stems):
        stems = flat
    missing = [name for name, stem in zip(records.filenames, stems, strict=True) if stem not in paths]
    if missing and (not allow_missing or len(missing) == len(records)):
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"The folder {folder} has no texture for {len(missing)} of {len(records)} images ({first}); "
            "paint them first."
        )
    with ThreadPoolExecutor(8) as threads:
        textures = list(
            threads.map(lambda stem: read_image(paths[stem], "texture") if stem in paths else b"", stems)
        )
    for stem, texture in zip(stems, textures, strict=True):
        if stem in paths and not texture:
            raise UserError(f"The texture {paths[stem]} is empty; paint it again.")
    return records.with_textures(textures).verified()
