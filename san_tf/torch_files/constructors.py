"""The complete list of names that a checkpoint's pickle may call.

No entry imports or calls anything that the pickle chooses. Each entry checks the pickle's arguments and
returns a number, a plain container or a tensor that is read later.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from san_tf.torch_files.tensors import DTYPES, STORAGES, PickledArray, Storage, StoredTensor


@dataclasses.dataclass(frozen=True)
class Named:
    """A key of `CONSTRUCTORS` on the machine's stack."""

    name: str


@dataclasses.dataclass(frozen=True)
class Inert:
    """A name that is only passed on: a type of storage, element or number."""

    name: str


@dataclasses.dataclass(eq=False)
class _ArrayType:
    """A `numpy.dtype` of numbers; the pickle sets the byte order after making it."""

    code: str
    order: str = "="

    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Namespace(dict[str, Any]):
    """An `argparse.Namespace` as a dict: the options of a training."""


_INERT = {f"torch.{name}" for name in (*STORAGES, *DTYPES)}
_INERT |= {f"torch.cuda.{name}" for name in STORAGES}
_INERT |= {"torch.storage.UntypedStorage", "torch.UntypedStorage", "numpy.ndarray"}
_INERT |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "list", "int")}
_CODES = {np.dtype(code).str[1:] for code in DTYPES.values()} | {"b1"}


def inert(name: str) -> bool:
    """Return whether a name may be on the stack but may not be called."""
    return name in _INERT


def _sizes(sizes: Any) -> tuple[int, ...]:
    """Return sizes as a tuple: few and small enough to multiply quickly.

    The checks come before the copy: a pickle can pass a long text, which is a sequence too, very often.
    """
    if not isinstance(sizes, (tuple, list)) or len(sizes) > 128:
        raise TypeError("invalid sizes")
    if any(type(n) is not int or abs(n) >= 1 << 63 for n in sizes):
        raise TypeError("invalid sizes")
    return tuple(sizes)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    shape, strides, (offset,) = _sizes(shape), _sizes(strides), _sizes((offset,))
    dtype = dtype or storage.dtype
    if dtype is None:
        raise TypeError("a tensor without a type")
    return StoredTensor(storage, dtype, offset, shape, strides)


def _tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    _metadata: Any = None,
) -> StoredTensor:
    if not isinstance(dtype, Inert) or dtype.name.removeprefix("torch.") not in DTYPES:
        raise TypeError("a tensor of unknown type")
    return _tensor(storage, offset, shape, strides, dtype.name.removeprefix("torch."))


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise TypeError("a parameter without a tensor")
    return tensor


def _mapping(items: Any = ()) -> dict[Any, Any]:
    """OrderedDict and Counter as a dict. Python 2 wrote the items of an OrderedDict as pairs."""
    if isinstance(items, dict):
        return dict(items)
    if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in items):
        raise TypeError("a dict of items that are not pairs")
    if any(not isinstance(name, str) for name, _ in items):
        raise TypeError("a dict whose keys are not names")
    return {name: value for name, value in items}


def _default_mapping(_factory: Any = None) -> dict[Any, Any]:
    return {}


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("bytes in an unknown encoding")
    return text.encode("latin-1")


def _array_type(code: Any, *_: Any) -> _ArrayType:
    # The type comes first, because hashing nested tuples can take for ever.
    if not isinstance(code, str) or code not in _CODES:
        raise TypeError("a NumPy type that is not of numbers")
    return _ArrayType(code)


def _scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _ArrayType):
        raise TypeError("a NumPy number without a type")
    data = data.encode("latin-1") if isinstance(data, str) else data
    if len(data) != kind.dtype().itemsize:
        raise TypeError("a NumPy number of the wrong length")
    return np.frombuffer(data, kind.dtype())[0].item()


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or type(index) not in (int, type(None)):
        raise TypeError("a device without a name")
    return kind if index is None else f"{kind}:{index}"


def _empty_array(*_: Any) -> PickledArray:
    return PickledArray()


def _array(data: Any, kind: Any, shape: Any, order: Any = "C") -> PickledArray:
    dtype = kind.dtype()
    shape = _sizes(shape)
    if len(shape) > 32 or min((0, *shape)) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise TypeError("a NumPy array whose shape and bytes disagree")
    if not data:
        return PickledArray(np.empty(shape, dtype))
    return PickledArray(np.frombuffer(data, dtype).reshape(shape, order="F" if order in (True, "F") else "C"))


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": lambda *a: _tensor(*a[:4]),
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda sizes=(): _sizes(sizes),
    "torch.device": _device,
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "argparse.Namespace": lambda: _Namespace(),
    "_codecs.encode": _encoded,
    "numpy.dtype": _array_type,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    CONSTRUCTORS[f"{_module}.scalar"] = _scalar
    CONSTRUCTORS[f"{_module}._reconstruct"] = _empty_array
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    CONSTRUCTORS[f"{_module}._frombuffer"] = _array


def build_state(target: Any, state: Any) -> None:
    """Set an object's state after it is made: byte order, values, attributes.

    Attributes of a dict, such as the version numbers of a state dict, are dropped: they are not weights.
    """
    if isinstance(target, _Namespace):
        target.update(_mapping(state))
    elif isinstance(target, _ArrayType):
        if state[1] not in ("<", ">", "=", "|"):
            raise TypeError("a NumPy type of unknown byte order")
        target.order = state[1]
    elif isinstance(target, PickledArray):
        _version, shape, kind, fortran, data = state
        data = data.encode("latin-1") if isinstance(data, str) else data
        target.values = _array(data, kind, shape, fortran).values
    elif not isinstance(target, dict):
        raise TypeError("attributes for an object that cannot have any")
