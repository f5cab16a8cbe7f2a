"""Tensors of a checkpoint file, whose bytes are read on demand."""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from san_tf.errors import UserError

# PyTorch's name of a type -> NumPy's code for the same bytes. bfloat16 has none; reading makes it float32.
DTYPES = {
    "float32": "f4",
    "float64": "f8",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "bool": "?",
    "complex64": "c8",
    "complex128": "c16",
}
STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}


def decode(data: bytes | memoryview, dtype: str, big_endian: bool = False) -> np.ndarray:
    """Return bytes of a file as a flat array in this machine's byte order.

    bfloat16 becomes float32, without loss.

    Args:
        data: bytes of whole elements.
        dtype: a key of `DTYPES`.
        big_endian: whether the file is big-endian.
    """
    code = np.dtype(DTYPES[dtype]).newbyteorder(">" if big_endian else "<")
    array = np.frombuffer(data, code) if data else np.empty(0, code)
    array = array.astype(code.newbyteorder("="), copy=False)
    if dtype == "bfloat16":
        # A bfloat16 is the upper half of a float32.
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


@dataclasses.dataclass(frozen=True)
class Extent:
    """Position and length of a storage in the file; `crc` is its CRC-32, if known."""

    position: int
    nbytes: int
    crc: int | None = None


class StorageFile:
    """The storages of one checkpoint file, read one at a time.

    `extents` has the position of each storage, `itemsizes` the bytes per element, both by storage key.

    Args:
        path: the checkpoint.
        big_endian: whether its tensors are big-endian.
    """

    def __init__(self, path: Path, big_endian: bool = False) -> None:
        self.path = path
        self.big_endian = big_endian
        self.extents: dict[str, Extent] = {}
        self.itemsizes: dict[str, int] = {}
        # Weak references: bytes that no tensor uses any more are freed.
        self._parts: WeakValueDictionary[tuple[str, str, int, int], np.ndarray] = WeakValueDictionary()
        self._last: np.ndarray | None = None

    def read(self, key: str) -> np.ndarray:
        """Return the bytes of a storage, `(nbytes,)` uint8; the same array while it is in use."""
        kept = self._parts.get((key, "", 0, 0))
        if kept is None:
            extent = self.extents[key]
            with self.path.open("rb") as file:
                file.seek(extent.position)
                kept = np.fromfile(file, np.uint8, extent.nbytes)
            damaged = extent.crc is not None and zlib.crc32(kept.data) != extent.crc
            if damaged or kept.nbytes != extent.nbytes:
                raise UserError(f"{self.path} is damaged at storage {key}; copy it again.")
            self._parts[key, "", 0, 0] = kept
        # Keep the last one: views of the same storage usually follow each other.
        self._last = kept
        return kept

    def part(self, key: str, dtype: str, first: int, nbytes: int) -> np.ndarray:
        """Return numbers of a storage in this machine's byte order, without a copy if possible.

        Args:
            key: key of the storage.
            dtype: a key of `DTYPES`.
            first: first byte.
            nbytes: number of bytes, of whole elements.
        """
        kept = self._parts.get((key, dtype, first, nbytes))
        if kept is None:
            kept = decode(self.read(key)[first : first + nbytes].data, dtype, self.big_endian)
            self._parts[key, dtype, first, nbytes] = kept
        return kept


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A range of bytes that tensors are views of.

    Args:
        file: file that holds the bytes.
        key: key of the storage in the file.
        dtype: type of its elements, a key of `DTYPES`; None if the tensor states it.
        start: first byte; not 0 only for views of storages in old files.
        nbytes: number of bytes.
    """

    file: StorageFile
    key: str
    dtype: str | None
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint; `array` reads its bytes.

    Args:
        storage: storage that the tensor is a view of.
        dtype: a key of `DTYPES`.
        offset: position of the first element in the storage, in elements.
        shape: shape of the tensor.
        strides: strides in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def _itemsize(self) -> int:
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def _span(self) -> int:
        """Number of elements from the first to the last, inclusive."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    def fault(self) -> str | None:
        """Return why the tensor is impossible, such as too large for its storage; else None."""
        storage = self.storage
        if len(self.shape) != len(self.strides) or len(self.shape) > 32:
            return f"a tensor has shape {self.shape[:8]} and strides {self.strides[:8]}"
        if min((self.offset, storage.start, storage.nbytes, *self.shape, *self.strides)) < 0:
            return "a tensor has a negative size, stride or offset"
        if math.prod(max(1, n) for n in self.shape) * self._itemsize >= 1 << 63:
            return f"a tensor has shape {self.shape[:8]}, which no array can have"
        extent = storage.file.extents.get(storage.key)
        if extent is None:
            return f"storage {storage.key!r} is missing"
        elements = max(0, min(storage.nbytes, extent.nbytes - storage.start)) // self._itemsize
        size = math.prod(self.shape)
        # Strides of 0 could make terabytes of one element; no state dict needs them.
        if size and (self.offset + self._span > elements or size > elements):
            return f"a tensor of shape {self.shape} does not fit its storage of {elements} elements"
        return None

    def array(self) -> np.ndarray:
        """Read the tensor, in this machine's byte order.

        Tensors of one storage share its memory while they are in use, as in PyTorch. So a thousand names of
        one storage take its memory only once. Copy the array before you write to it.

        Raises:
            UserError: the file has changed or is damaged.
        """
        storage = self.storage
        if not math.prod(self.shape):
            return decode(b"", self.dtype).reshape(self.shape)
        first = storage.start + self.offset * self._itemsize
        flat = storage.file.part(storage.key, self.dtype, first, self._span * self._itemsize)
        # The stride of a dimension of size 1 is never used, and the file may hold any number there.
        strides = [
            stride * flat.itemsize if n > 1 else 0 for n, stride in zip(self.shape, self.strides, strict=True)
        ]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)

    @property
    def decoded(self) -> tuple[tuple[str, str, int, int], int]:
        """Part of the file that must be converted for this tensor, and the bytes that this takes."""
        first = self.storage.start + self.offset * self._itemsize
        span = self._span * self._itemsize if math.prod(self.shape) else 0
        turned = self.dtype == "bfloat16" or self.storage.file.big_endian
        return (self.storage.key, self.dtype, first, span), 2 * span if turned else 0


@dataclasses.dataclass(eq=False)
class PickledArray:
    """A NumPy array inside a checkpoint's pickle; empty until the pickle fills it."""

    values: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return () if self.values is None else self.values.shape

    def array(self) -> np.ndarray:
        """Return the array, which all its names share; copy it before you write to it."""
        return np.empty(0) if self.values is None else self.values
