"""Pseudo textures: a separate folder of texture images, matched to images by file name; and decoded textures.

The benchmark itself stays as published. Its textures come from a texture generator or from the paper's
authors, who publish them in the same form. Decoding one costs as much as the rest of the pipeline for its
image, so textures that are too many for the memory are decoded once, into a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_file, atomic_folder
from san_tf.data.records import Records, is_image, read_image
from san_tf.errors import UserError

# Bytes of a name, and of a path within the folder; leaves room for temporary names and the folder's own path.
_LONGEST_NAME, _LONGEST_PATH = 200, 1000
# Names the folder of decoded textures; empty: none are stored.
STORE_VARIABLE = "SAN_TF_TEXTURES"
# Bytes of all files of decoded textures; MSMT17's 32,621 of 256x256 texels take 6.4 GB.
STORE_LIMIT = 16 * 10**9
_STORE_SUFFIX, _STORE_FORM = ".texels", b"san_tf textures 1"
# A killed process leaves an unfinished file; nobody writes one for so long.
_ABANDONED_AFTER = 24 * 3600.0
_logger = logging.getLogger(__name__)


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


def store_folder() -> Path | None:
    """Return the folder of decoded textures: `$SAN_TF_TEXTURES`, else `san_tf/textures` in the user's cache.

    Returns:
        None if the variable is empty, which switches the store off, or if the user has no home.
    """
    chosen = os.environ.get(STORE_VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(users) / "san_tf" / "textures" if os.path.isabs(users) else None


def stored_textures(
    files: Iterable[bytes],
    size: int,
    decode: Callable[[int], np.ndarray],
    decode_all: Callable[[], Iterator[np.ndarray]],
) -> np.ndarray | None:
    """Return textures from a memory-mapped file of decoded ones, which is written first if need be.

    The file's name is a digest of the encoded textures, their size and TensorFlow's version, so other
    textures have another file. It appears complete or not at all. Before a file is used, its length is
    checked, and three of its textures are compared with freshly decoded ones. The files used longest ago are
    removed when all of them would take more than `STORE_LIMIT` bytes.

    Args:
        files: U encoded textures.
        size: T, side of the decoded textures.
        decode: function from an index to one texture, `(T, T, 3)` uint8.
        decode_all: function that yields all textures in order.

    Returns:
        `(U, T, T, 3)` uint8, mapped: pages that were read stay in the system's page cache as long as nobody
        needs the memory. None without a folder, with too little disk or if the file cannot be written; a log
        message says so, and training decodes as it goes.
    """
    folder, files = store_folder(), list(files)
    if folder is None or not files:
        return None
    shape = (len(files), size, size, 3)
    needed = len(files) * size * size * 3
    path = folder / f"{_store_name(files, size)}{_STORE_SUFFIX}"
    try:
        found = _mapped(path, shape)
        if found is not None and _equals(found, decode):
            os.utime(path)  # used now
        else:
            del found
            reason = _no_room(folder, path, needed)
            if reason:
                _logger.info("Textures are decoded for each image: %s.", reason)
                return None
            _logger.info("Decoding %d textures once, into %s.", len(files), path)
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                for texture in decode_all():
                    file.write(np.ascontiguousarray(texture).data)
            found = _mapped(path, shape)
    except (OSError, UserError, ValueError) as error:
        _logger.warning("Textures are decoded for each image, because %s cannot be used: %s", path, error)
        return None
    _logger.info(
        "%d textures of %dx%d texels are read from %s: %.0f MB on disk, in memory as far as there is room.",
        len(files), size, size, path, needed / 1e6,
    )  # fmt: skip
    return found


def _store_name(files: list[bytes], size: int) -> str:
    digest = hashlib.blake2b(b"%s %s %d" % (_STORE_FORM, tf.__version__.encode(), size), digest_size=16)
    for content in files:
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in a file; None if the file is missing or has another length."""
    if not path.is_file() or path.stat().st_size != np.prod(shape, dtype=np.int64):
        return None
    # Copy on write: an array that can be written to, as compiled loops expect, whose file never changes.
    return np.asarray(np.memmap(path, np.uint8, "c", shape=shape))


def _equals(found: np.ndarray, decode: Callable[[int], np.ndarray]) -> bool:
    places = sorted({0, len(found) // 2, len(found) - 1})
    return all(np.array_equal(found[place], decode(place)) for place in places)


def _no_room(folder: Path, path: Path, needed: int) -> str:
    """Remove files for `needed` bytes more; return why there is too little room, or an empty string."""
    if needed > STORE_LIMIT:
        return f"decoded they would take {needed / 1e9:.1f} GB, more than {STORE_LIMIT / 1e9:.0f}"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f".*{_STORE_SUFFIX}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
                left.unlink()
    # Names with a dot are being written.
    others = [other for other in folder.glob(f"[!.]*{_STORE_SUFFIX}") if other != path]
    newest_first = sorted(((other.stat(), other) for other in others), key=lambda pair: -pair[0].st_mtime)
    total = needed
    for stat, other in newest_first:
        total += stat.st_size
        if total > STORE_LIMIT:
            with contextlib.suppress(OSError):  # somebody else has removed it, or reads it on Windows
                other.unlink()
    free = shutil.disk_usage(folder).free
    if needed > free / 2:
        return f"decoded they would take {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left"
    return ""
