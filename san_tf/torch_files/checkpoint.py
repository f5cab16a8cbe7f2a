"""Reads PyTorch checkpoints without PyTorch and without running their code.

There are three formats, recognised by their first bytes: the zip archives of `torch.save` since 1.6, its
older format of pickles followed by raw storages, and `.safetensors`.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors

from san_tf.errors import UserError
from san_tf.torch_files.pickle_machine import MalformedPickle, PickleMachine
from san_tf.torch_files.tensors import Extent, PickledArray, StorageFile, StoredTensor, decode

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
# Everything that zipfile raises on damaged archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    struct.error,
    LookupError,
    ValueError,
    OverflowError,
)
# Longest pickle in bytes; `torch.save` writes a few hundred bytes per tensor.
MAX_PICKLE = 1 << 26
SAFETENSORS = {
    "F32": "float32",
    "F64": "float64",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
}


def read_checkpoint(path: str | Path) -> Any:
    """Read the object that was given to `torch.save`, with tensors as `StoredTensor`.

    Shapes and positions of the tensors are checked here. Their bytes stay in the file until
    `StoredTensor.array`.

    Args:
        path: a `.pth`, `.pt`, `.pth.tar` or `.safetensors` file.

    Returns:
        Dicts, lists, tuples, sets, strings, numbers, `StoredTensor`s and `PickledArray`s.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint, or it holds more than weights. Nothing
            in it was run.

    Example:
        >>> read_checkpoint("model.pth.tar-60")["state_dict"]["conv1.weight"].shape
        (64, 3, 7, 7)
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is a folder or a device; name the checkpoint file.")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
            if not head:
                raise UserError(f"{path} is empty; copy it again.")
            if head.startswith(b"PK\x03\x04"):
                return _read_archive(path, size)
            if head[8:9] == b"{" and path.suffix == ".safetensors":
                return _read_safetensors(path)
            if head[257:262] == b"ustar":
                raise UserError(
                    f"{path} is a tar file; unpack it, or save it anew if PyTorch before 0.1.10 wrote it."
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _read_legacy(path, mapped, size)
    except MalformedPickle as error:
        raise UserError(f"{path} is damaged or not a PyTorch checkpoint: {error}; copy it again.") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); check the path and copy it again."
        ) from error


def _read_archive(path: Path, size: int) -> Any:
    """Read the format since 1.6: `<name>/data.pkl` and `<name>/data/<key>` per storage, uncompressed."""
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise UserError(f"{path} is a zip file with no data.pkl; name a checkpoint of torch.save.")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}constants.pkl" in entries:
                raise UserError(
                    f"{path} is a TorchScript program, not a state dict; save model.state_dict() instead."
                )
            for info in entries.values():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise MalformedPickle(f"its entry {info.filename} is compressed, unlike PyTorch's")
            if sum(info.file_size for info in entries.values()) > size:
                raise MalformedPickle("its entries are larger than the file")
            if entries[pickles[0]].file_size > MAX_PICKLE:
                raise MalformedPickle("its pickle is too long for a list of weights")
            big = f"{root}byteorder" in entries and archive.read(f"{root}byteorder").strip() == b"big"
            storages = StorageFile(path, big)
            for name, info in entries.items():
                if name.startswith(f"{root}data/"):
                    storages.extents[name.removeprefix(f"{root}data/")] = _extent(file, info)
            pickled = archive.read(pickles[0])
    except (UserError, MalformedPickle):
        raise
    except _ZIP_ERRORS as error:
        raise MalformedPickle(f"its zip archive is damaged ({str(error)[:160]})") from error
    tensors: list[StoredTensor] = []
    value = PickleMachine(io.BytesIO(pickled), storages, tensors).run()
    _check(tensors, size)
    return value


class _BoundedFile(io.FileIO):
    """A file whose `read` allocates at most the file's size.

    A damaged archive may state any length.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most the rest of the file."""
        left = max(0, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


def _extent(file: io.FileIO, info: zipfile.ZipInfo) -> Extent:
    """Position of a stored entry's bytes, behind its local header of variable length."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise MalformedPickle(f"its entry {info.filename} is not where the list of entries says")
    name, extra = struct.unpack_from("<HH", header, 26)
    return Extent(info.header_offset + 30 + name + extra, info.file_size, info.CRC)


def _read_legacy(path: Path, mapped: mmap.mmap, size: int) -> Any:
    """Read the format before 1.6.

    It has pickles of magic number, version, system, value and storage keys, then the storages.
    """
    storages = StorageFile(path)
    tensors: list[StoredTensor] = []
    try:
        magic = PickleMachine(mapped, storages, tensors).run()
    except MalformedPickle as error:
        raise MalformedPickle("it does not begin as a checkpoint does") from error
    if magic != MAGIC:
        # A pickle of another program, perhaps of the weights themselves.
        raise UserError(
            f"{path} is a pickle, but not of torch.save; load it where it was made and save the weights with "
            "torch.save(model.state_dict(), 'weights.pth')."
        )
    version, system, value, keys = (PickleMachine(mapped, storages, tensors).run() for _ in range(4))
    if version != PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise MalformedPickle("its header is not that of torch.save")
    storages.big_endian = system.get("little_endian") is False
    for key in keys:
        if not isinstance(key, str) or key not in storages.itemsizes:
            raise MalformedPickle("it lists a storage that no tensor uses")
        head = mapped.read(8)
        if len(head) != 8:
            raise MalformedPickle("it ends early")
        count = int.from_bytes(head, "big" if storages.big_endian else "little", signed=True)
        nbytes = count * storages.itemsizes[key]
        if count < 0 or nbytes > size - mapped.tell():
            raise MalformedPickle("it ends early")
        storages.extents[key] = Extent(mapped.tell(), nbytes)
        mapped.seek(nbytes, io.SEEK_CUR)
    _check(tensors, size)
    return value


def _check(tensors: list[StoredTensor], size: int) -> None:
    """Refuse impossible tensors, and tensors that together take many times their file's size."""
    for tensor in tensors:
        fault = tensor.fault()
        if fault is not None:
            raise MalformedPickle(fault)
    # Views share memory, unless their numbers must be converted. Each converted stretch counts once.
    if sum(dict(tensor.decoded for tensor in tensors).values()) > 8 * size:
        raise MalformedPickle("its tensors overlap far more than those of a network")


def _read_safetensors(path: Path) -> dict[str, PickledArray]:
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error}); copy it again.") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in SAFETENSORS:
            raise UserError(f"{path} has {name} as {entry['dtype']}, an unknown type; save it as F32.")
        values = decode(bytes(entry["data"]), SAFETENSORS[entry["dtype"]])
        try:
            arrays[name] = PickledArray(values.reshape(entry["shape"]))
        except (ValueError, OverflowError) as error:  # a size of 0 with another that is too large
            raise UserError(
                f"{path} is damaged: {name} has shape {entry['shape']}; copy it again."
            ) from error
    return arrays
