"""Reads the images of CUHK03 from the arrays of its MATLAB file (version 7.3, so HDF5)."""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import h5py
import numpy as np

from san_tf.archives.files import DamagedFileError, Files
from san_tf.errors import UserError
from san_tf.layouts.checking import MAX_SIDE

Boxes = Literal["labeled", "detected"]
PAIRS = 5
# Images of a person: five by each camera of a pair.
_SHOTS = 10
# More than there are; a small file could declare billions.
_MAX_PEOPLE = 10_000
_MAX_SETS = 1_000
_NAME = re.compile(r"(?P<pair>[1-5])_(?P<person>\d{3})_(?P<view>[12])_(?P<shot>\d{2})\.png")


class Cuhk03Images(Files):
    """Images of `cuhk-03.mat` as PNG files named `pair_person_view_shot.png`, as CUHK03-NP names them.

    In the MATLAB file, `labeled` and `detected` are cells of five camera pairs. Each pair is a cell of
    persons x 10 images, the first five by one camera. Cells without an image are empty. HDF5 stores every
    array transposed.

    Args:
        mat: path of `cuhk-03.mat`.
        boxes: "labeled" (by hand) or "detected".

    Raises:
        UserError: the file is truncated, or not that of CUHK03.

    Example:
        >>> Cuhk03Images("cuhk03_release/cuhk-03.mat", "labeled").paths()[0]
        '1_001_1_01.png'
    """

    def __init__(self, mat: Path, boxes: Boxes) -> None:
        self.place = Path(mat)
        self.boxes = boxes
        with _mat_errors_named(self.place):
            state = self.place.stat()
            self._version = (state.st_mtime_ns, state.st_size, state.st_ctime_ns)
            self._names = _names(self.place, self._version, boxes)

    def __reduce__(self) -> tuple[Callable[..., Files], tuple[Path, Boxes]]:
        return type(self), (self.place, self.boxes)

    def paths(self, under: str = "") -> list[str]:
        """See `Files.paths`; an HDF5 file has no folders."""
        return [] if under else sorted(self._names)

    def has(self, path: str) -> bool:
        """See `Files.has`."""
        return path in self._names

    def size(self, path: str) -> int:
        """See `Files.size`; the size of the array, without PNG's header."""
        return int(np.prod(self._names[path]))

    def stamp(self, path: str) -> str:
        """See `Files.stamp`."""
        return f"{self._version} {self.boxes} {path}"

    def describe(self, path: str) -> str:
        """See `Files.describe`."""
        return f"{path} ({self.boxes}) in {self.place}"

    def rooted(self, folder: str) -> Files:
        """Not supported: an HDF5 file has no folders."""
        raise NotImplementedError

    def local(self, path: str) -> contextlib.AbstractContextManager[Path]:
        """Not supported: the images are not separate files."""
        raise NotImplementedError

    def test_sets(self) -> list[list[tuple[int, int]]]:
        """Return the 20 sets of 100 test identities: camera pair and person, both from 1."""
        with _mat_errors_named(self.place), _LOCK:
            file = _opened(self.place, self._version)
            references = np.ravel(_content(_dataset(file, "testsets"), _MAX_SETS))
            sets = [_content(file[reference], 2 * _MAX_PEOPLE) for reference in references]
            return [[(int(pair), int(person)) for pair, person in rows.T] for rows in sets]

    def _read(self, path: str) -> bytes:
        pair, person, _, shot = (int(value) for value in _NAME.fullmatch(path).groups())  # type: ignore[union-attr]
        try:
            with _LOCK:
                file = _opened(self.place, self._version)
                dataset = file[_cell(file, self.boxes, pair)[shot - 1, person - 1]]
                elsewhere = dataset.external or dataset.is_virtual
                if dataset.dtype != np.uint8 or max(dataset.shape) > MAX_SIDE or elsewhere:
                    raise DamagedFileError(f"is not an array of at most {MAX_SIDE}x{MAX_SIDE} bytes")
                array = _content(dataset, 3 * MAX_SIDE**2)
        except DamagedFileError:
            raise
        except Exception:  # h5py raises whatever it stumbles on
            raise DamagedFileError("is damaged: it cannot be read") from None
        # HDF5 stores MATLAB's array as (colours, width, height); OpenCV needs blue first.
        image = np.ascontiguousarray(array.transpose(2, 1, 0)[..., ::-1])
        return cv2.imencode(".png", image)[1].tobytes()


# HDF5 has its own lock; this one also prevents closing a file while another thread reads it.
_LOCK = threading.RLock()


@functools.lru_cache(maxsize=1)
def _opened(mat: Path, version: tuple[int, ...]) -> h5py.File:
    """Open the file and keep it open; a changed file is opened again."""
    return h5py.File(mat, "r")


@functools.lru_cache(maxsize=2 * PAIRS)
def _cell(file: h5py.File, boxes: str, pair: int) -> np.ndarray:
    """Return references to the images of a camera pair, `(10, persons)`."""
    references = np.ravel(_content(_dataset(file, boxes), PAIRS))
    if len(references) != PAIRS:
        raise KeyError(boxes)
    cell = _content(file[references[pair - 1]], _SHOTS * _MAX_PEOPLE)
    if cell.ndim != 2 or len(cell) != _SHOTS:
        raise KeyError(boxes)
    return cell


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):  # a link may lead into another file
        raise KeyError(name)
    return file[name]


def _content(dataset: h5py.Dataset, most: int) -> np.ndarray:
    """Read an array stored in this file, after checking its declared size.

    Raises:
        ValueError: the array has more than `most` elements, or is stored in another file.
    """
    if dataset.is_virtual or dataset.external:
        raise ValueError("its elements lie in another file")
    if dataset.size > most:
        raise ValueError(f"{dataset.size} elements")
    return np.asarray(dataset[()])


@functools.lru_cache(maxsize=2)
def _names(mat: Path, version: tuple[int, ...], boxes: Boxes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the existing images by name."""
    names = {}
    with _LOCK:
        file = _opened(mat, version)
        for pair in range(1, PAIRS + 1):
            for (shot, person), reference in np.ndenumerate(_cell(file, boxes, pair)):
                shape = file[reference].shape
                if len(shape) == 3 and shape[0] == 3:  # an empty cell holds its two sizes
                    view = 1 if shot < _SHOTS // 2 else 2
                    names[f"{pair}_{person + 1:03d}_{view}_{shot + 1:02d}.png"] = shape
    return names


@contextlib.contextmanager
def _mat_errors_named(mat: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # h5py raises whatever it stumbles on
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
            raise
        raise UserError(
            f"{mat} is not the HDF5 file of CUHK03, or was not copied to its end; copy it again."
        ) from error
