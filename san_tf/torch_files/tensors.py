"""Tensors of a checkpoint as they lie in its file: where, of which shape and type; read when asked for."""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from san_tf.errors import UserError

# PyTorch's name of a type -> NumPy's code for the same bytes. bfloat16 has no code: it is widened on reading.
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
    """Bytes of a file as a flat array in this machine's byte order; bfloat16 becomes float32, without loss.

    Args:
        data: whole elements.
        dtype: a key of `DTYPES`.
        big_endian: the order of the file.
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
    """Where a storage's bytes lie in the file; `crc` is their CRC-32 where the file gives one."""

    position: int
    nbytes: int
    crc: int | None = None


class StorageFile:
    """The storages of one checkpoint file, read one at a time.

    Args:
        path: the checkpoint.
        big_endian: the byte order of its tensors.

    By storage key, `extents` says where its bytes lie, and `itemsizes` how many an element has.
    """

    def __init__(self, path: Path, big_endian: bool = False) -> None:
        self.path = path
        self.big_endian = big_endian
        self.extents: dict[str, Extent] = {}
        self.itemsizes: dict[str, int] = {}
        # Weak: what no tensor is a view of any more is let go.
        self._parts: WeakValueDictionary[tuple[str, str, int, int], np.ndarray] = WeakValueDictionary()
        self._last: np.ndarray | None = None

    def read(self, key: str) -> np.ndarray:
        """The bytes of a storage, `(nbytes,)` uint8; all who ask while it is in use get the same array."""
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
        # The last one stays: views that share it come in a row.
        self._last = kept
        return kept

    def part(self, key: str, dtype: str, first: int, nbytes: int) -> np.ndarray:
        """Numbers of a storage in this machine's byte order: the stored bytes themselves, where that does.

        Args:
            key: of the storage.
            dtype: a key of `DTYPES`.
            first: byte.
            nbytes: whole elements.
        """
        kept = self._parts.get((key, dtype, first, nbytes))
        if kept is None:
            kept = decode(self.read(key)[first : first + nbytes].data, dtype, self.big_endian)
            self._parts[key, dtype, first, nbytes] = kept
        return kept


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """A stretch of bytes that tensors are views of, as a checkpoint's pickle names it.

    Args:
        file: holds the bytes.
        key: of the storage in the file.
        dtype: of its elements, a key of `DTYPES`, or None where the tensor says it.
        start: first byte; other than 0 only for old views of storages.
        nbytes: its length.
    """

    file: StorageFile
    key: str
    dtype: str | None
    start: int
    nbytes: int


@dataclasses.dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a checkpoint; nothing of it is in memory before `array`.

    Args:
        storage: what it is a view of.
        dtype: a key of `DTYPES`.
        offset: of its first element in the storage, in elements.
        shape: of the tensor.
        strides: in elements.
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
        """Elements from the first to the last one, both counted."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    def fault(self) -> str | None:
        """What is impossible about the tensor: reaching out of its storage, or being larger than that."""
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
        # Strides of 0 would make terabytes of one element; no state dict needs them.
        if size and (self.offset + self._span > elements or size > elements):
            return f"a tensor of shape {self.shape} does not fit its storage of {elements} elements"
        return None

    def array(self) -> np.ndarray:
        """Read the tensor, in this machine's byte order.

        Tensors that share a storage share its memory while they are in use, as they do in PyTorch: a file of
        a thousand names for one storage takes the room of one. Copy before you write.

        Raises:
            UserError: the file has changed or is damaged.
        """
        storage = self.storage
        if not math.prod(self.shape):
            return decode(b"", self.dtype).reshape(self.shape)
        first = storage.start + self.offset * self._itemsize
        flat = storage.file.part(storage.key, self.dtype, first, self._span * self._itemsize)
        # The stride of a dimension of one place is never gone, and may be any number.
        strides = [
            stride * flat.itemsize if n > 1 else 0 for n, stride in zip(self.shape, self.strides, strict=True)
        ]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides)

    @property
    def decoded(self) -> tuple[tuple[str, str, int, int], int]:
        """What of the file is turned into other numbers for it, and how many bytes that takes."""
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
        """Of the array."""
        return () if self.values is None else self.values.shape

    def array(self) -> np.ndarray:
        """The array; all names of it share it. Copy before you write."""
        return np.empty(0) if self.values is None else self.values
