"""Writes checkpoints as `torch.save` does, opcode by opcode: PyTorch is not there in CI, and a reader is not
tested by its own inverse."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from typing import Any

import numpy as np

STORAGE_OF = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
    "c8": "ComplexFloatStorage",
    "c16": "ComplexDoubleStorage",
}


@dataclasses.dataclass
class Global:
    module: str
    name: str


@dataclasses.dataclass
class Call:
    """REDUCE: function, arguments, and what BUILD adds."""

    function: Global
    arguments: tuple
    state: Any = None


@dataclasses.dataclass
class Store:
    """A storage of the file."""

    key: str
    values: np.ndarray
    kind: str = ""
    numel: int | None = None
    view: Any = None

    @property
    def type_name(self) -> str:
        return self.kind or STORAGE_OF[self.values.dtype.str[1:]]


def tensor(values: np.ndarray, key: str, **changes: Any) -> Call:
    """A whole, contiguous tensor; `changes` override storage, offset, shape, strides."""
    shape = values.shape
    strides = tuple(stride // values.itemsize for stride in values.strides)
    fields = {"storage": Store(key, values.reshape(-1)), "offset": 0, "shape": shape, "strides": strides}
    fields |= changes
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (*fields.values(), False, hooks))


def pickled(value: Any, stores: dict[str, np.ndarray]) -> bytes:
    """One pickle of protocol 2; the storages it names are put into `stores`."""
    return b"\x80\x02" + _emit(value, stores) + b"."


def _emit(value: Any, stores: dict[str, np.ndarray]) -> bytes:
    def all_of(values: Any) -> bytes:
        return b"".join(_emit(item, stores) for item in values)

    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + all_of(value) + b"t"
    if isinstance(value, list):
        return b"](" + all_of(value) + b"e"
    if isinstance(value, dict):
        return b"}(" + all_of(item for pair in value.items() for item in pair) + b"u"
    if isinstance(value, Global):
        return b"c" + f"{value.module}\n{value.name}\n".encode()
    if isinstance(value, Store):
        stores[value.key] = value.values
        numel = value.values.size if value.numel is None else value.numel
        identity = ["storage", Global("torch", value.type_name), value.key, "cpu", numel]
        return _emit(tuple(identity if value.view is None else [*identity, value.view]), stores) + b"Q"
    if isinstance(value, Call):
        code = _emit(value.function, stores) + _emit(value.arguments, stores) + b"R"
        return code if value.state is None else code + _emit(value.state, stores) + b"b"
    raise TypeError(type(value))


def zip_checkpoint(value: Any, order: str = "little", compression: int = zipfile.ZIP_STORED) -> bytes:
    """The format since PyTorch 1.6."""
    stores: dict[str, np.ndarray] = {}
    code = pickled(value, stores)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("model/data.pkl", code)
        archive.writestr("model/byteorder", order)
        for key, values in stores.items():
            swapped = values.astype(values.dtype.newbyteorder("<" if order == "little" else ">"))
            archive.writestr(f"model/data/{key}", swapped.tobytes())
        archive.writestr("model/version", "3\n")
    return file.getvalue()


def legacy_checkpoint(value: Any, little: bool = True) -> bytes:
    """The format before PyTorch 1.6."""
    stores: dict[str, np.ndarray] = {}
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": sizes}
    parts = [pickled(part, stores) for part in (0x1950A86A20F9469CFC6C, 1001, system, value)]
    parts.append(pickled(sorted(stores), {}))
    for _, values in sorted(stores.items()):
        swapped = values.astype(values.dtype.newbyteorder("<" if little else ">"))
        parts.append(struct.pack("<q" if little else ">q", values.size) + swapped.tobytes())
    return b"".join(parts)


def zip_of(entries: dict[str, bytes]) -> bytes:
    """A zip file of these entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()
