"""A pickle machine with bounded memory and time that imports nothing.

Python's unpickler imports and calls whatever a pickle names. A subclass with a list of allowed names
(`find_class`) prevents that, but it cannot bound memory and time. Measured with Python 3.11:

- A memo index of 2**27 takes 2 GB from 9 bytes (32 GB with 2**31).
- A dict key of nested tuples takes twice as long to hash for every 2 bytes more (6 s at 60 bytes).
- 400 kB that pass one list to an allowed constructor again and again take minutes.

This machine reads the same opcodes (`pickletools` splits them) but imports nothing. It looks names up in the
fixed table of `constructors`, whose short functions make a dict, a number or a `StoredTensor`. Any other name
raises an error that states the name. The cost of every opcode is bounded or counted.
"""

from __future__ import annotations

import dataclasses
import io
import math
import mmap
import pickletools
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np

from san_tf.errors import UserError
from san_tf.torch_files.tensors import DTYPES, STORAGES, PickledArray, Storage, StorageFile, StoredTensor


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


# A ResNet-50 with its optimiser's state takes about 40,000; a pickle of millions is not a list of weights.
MAX_OPCODES = 2_000_000
# Bytes that all constructor calls together may process: four times the longest pickle.
MAX_WORK = 1 << 28
# Bytes that a storage, tensor or container counts beside its content.
OBJECT = 512
# An attacker can choose number keys that collide; an optimiser has one number key per parameter.
MAX_NUMBER_KEYS = 20_000
MAX_BITS = 4096
_KEYS = (str, int, float, bytes, type(None))


class MalformedPickle(ValueError):
    """The bytes are not a pickle that PyTorch could have written."""


@dataclasses.dataclass(eq=False)
class _Frame:
    """The stack below a mark."""

    items: list[Any]


class PickleMachine:
    """Reads one pickle from the current position of a file.

    Args:
        file: the pickle.
        storages: the file that holds the tensors' bytes.
        tensors: receives every tensor, to be checked when the storages are known.

    Raises (on `run`):
        UserError: the pickle names something outside the table.
        MalformedPickle: the pickle has any other fault.
    """

    def __init__(
        self, file: io.BytesIO | mmap.mmap, storages: StorageFile, tensors: list[StoredTensor]
    ) -> None:
        self._file = file
        self._storages = storages
        self._tensors = tensors
        self._stack: list[Any] = []
        self._frames: list[_Frame] = []
        self._memo: dict[int, Any] = {}
        self._work = 0
        self._number_keys = 0

    def run(self) -> Any:
        """Return the pickle's value; `file` is then behind the pickle."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], self._file))):
                if count > MAX_OPCODES:
                    raise MalformedPickle("its pickle is too long for a list of weights")
                if opcode.name == "STOP":
                    return self._stack.pop()
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise MalformedPickle(f"its pickle uses {opcode.name}, which PyTorch does not use")
                step(self, argument)
        except (UserError, MalformedPickle):
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            raise MalformedPickle(f"its pickle makes no sense ({str(error)[:100]})") from error
        raise MalformedPickle("its pickle has no end")

    # --- stack ---
    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _new(self, container: Any) -> None:
        self._spend(())
        self._push(container)

    def _mark(self, _: object) -> None:
        self._spend(())
        self._frames.append(_Frame(self._stack))
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._frames.pop().items
        return items

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._since_mark()

    def _memoize(self, index: int | None) -> None:
        # Arbitrary indices could collide; PyTorch's count up.
        if index is not None and not 0 <= index <= MAX_OPCODES:
            raise MalformedPickle("its pickle has a memo index that PyTorch does not use")
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    # --- containers ---
    def _tuple_of(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _append(self, _: object) -> None:
        item = self._stack.pop()
        _list(self._stack[-1]).append(item)

    def _appends(self, _: object) -> None:
        items = self._since_mark()
        _list(self._stack[-1]).extend(items)

    def _dict(self, _: object) -> None:
        target: dict[Any, Any] = {}
        self._set_items(target, self._since_mark())
        self._push(target)

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items(self._stack[-1], [key, value])

    def _setitems(self, _: object) -> None:
        items = self._since_mark()
        self._set_items(self._stack[-1], items)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedPickle("its pickle puts an entry into something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._check_key(key)
            target[key] = value

    def _check_key(self, key: Any) -> None:
        # Hashing a key of nested tuples could take for ever.
        if not isinstance(key, _KEYS):
            raise MalformedPickle(f"its pickle has a {type(key).__name__} as the key of a dict")
        if not isinstance(key, str):
            self._number_keys += 1
        # The hash of an integer is its value modulo 2**61 - 1, so larger integers can collide.
        large = isinstance(key, int) and key.bit_length() > 60
        if large or self._number_keys > MAX_NUMBER_KEYS:
            raise MalformedPickle("its pickle has more or larger numbers as keys than a list of weights")

    def _set_items_of_set(self, _: object) -> None:
        items = self._since_mark()
        if not isinstance(self._stack[-1], set):
            raise MalformedPickle("its pickle adds to something that is not a set")
        for item in items:
            self._check_key(item)
            self._stack[-1].add(item)

    # --- names, calls and storages ---
    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise MalformedPickle("its pickle has a name that is not text")
        full = f"{module}.{name}"
        if inert(full):
            self._push(Inert(full))
        elif full in CONSTRUCTORS:
            self._push(Named(full))
        else:
            raise UserError(
                f"{self._storages.path} holds more than weights: to load it, Python would have to run "
                f"{full[:200]!r}. Nothing was run. If you trust its author, load it where it was made and "
                "save the weights alone: torch.save(model.state_dict(), 'weights.pth')."
            )

    def _global_line(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._global(module, name)

    def _inst(self, argument: str) -> None:
        self._global_line(argument)
        raise MalformedPickle("its pickle uses INST, which PyTorch does not use")

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._global(module, name)

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise MalformedPickle("its pickle calls something that is not a function")
        self._spend(arguments)
        value = CONSTRUCTORS[function.name](*arguments)
        if isinstance(value, StoredTensor):
            self._tensors.append(value)
        self._push(value)

    def _newobj(self, _: object) -> None:
        self._reduce(None)

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        self._spend((state, *state) if isinstance(state, tuple) else (state,))
        build_state(self._stack[-1], state)

    def _integer(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise MalformedPickle("its pickle has a number of thousands of digits")
        self._push(value)

    def _spend(self, arguments: tuple[Any, ...]) -> None:
        """Count the work of a call: a hostile pickle can pass one long list a million times."""
        self._work += OBJECT + 64 * len(arguments)
        for argument in arguments:
            if isinstance(argument, str | bytes | bytearray):
                self._work += len(argument)
            elif isinstance(argument, list | tuple | dict | set):
                self._work += 64 * len(argument)
        if self._work > MAX_WORK:
            raise MalformedPickle("its pickle is too much work for a list of weights")

    def _persistent(self, _: object) -> None:
        """Make a storage of ("storage", type, key, device, elements) and, in old files, a view."""
        told = self._stack.pop()
        if not isinstance(told, tuple) or len(told) not in (5, 6):
            raise MalformedPickle("its pickle has an invalid storage")
        self._spend(told)
        tag, kind, key, _device, numel, *views = told
        if tag != "storage" or not isinstance(kind, Inert) or not isinstance(key, str):
            raise MalformedPickle("its pickle has an invalid storage")
        name = kind.name.rpartition(".")[2]
        if name not in STORAGES and name != "UntypedStorage":
            raise MalformedPickle(f"its pickle has a storage of type {kind.name}")
        dtype = STORAGES.get(name)
        itemsize = np.dtype(DTYPES[dtype]).itemsize if dtype else 1
        start = 0
        view = views[0] if views else None
        if view is not None:
            if not isinstance(view, tuple) or len(view) != 3:
                raise MalformedPickle("its pickle has an invalid view of a storage")
            _view_key, start, numel = view
        if any(type(n) is not int or abs(n) >= 1 << 62 for n in (start, numel)):
            raise MalformedPickle("its pickle has a storage without a size")
        self._storages.itemsizes.setdefault(key, itemsize)
        self._push(Storage(self._storages, key, dtype, start * itemsize, numel * itemsize))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise MalformedPickle("its pickle appends to something that is not a list")
    return value


_Step = Callable[[PickleMachine, Any], object]
_M = PickleMachine
_STEPS: dict[str, _Step] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": _M._mark,
    "POP": _M._pop,
    "POP_MARK": lambda m, a: m._since_mark(),
    "DUP": lambda m, a: m._push(m._stack[-1]),
    "NONE": lambda m, a: m._push(None),
    "NEWTRUE": lambda m, a: m._push(True),
    "NEWFALSE": lambda m, a: m._push(False),
    "EMPTY_TUPLE": lambda m, a: m._push(()),
    "TUPLE1": lambda m, a: m._tuple_of(1),
    "TUPLE2": lambda m, a: m._tuple_of(2),
    "TUPLE3": lambda m, a: m._tuple_of(3),
    "TUPLE": lambda m, a: m._push(tuple(m._since_mark())),
    "EMPTY_LIST": lambda m, a: m._new([]),
    "LIST": lambda m, a: m._push(m._since_mark()),
    "APPEND": _M._append,
    "APPENDS": _M._appends,
    "EMPTY_DICT": lambda m, a: m._new({}),
    "DICT": _M._dict,
    "SETITEM": _M._setitem,
    "SETITEMS": _M._setitems,
    "EMPTY_SET": lambda m, a: m._new(set()),
    "ADDITEMS": _M._set_items_of_set,
    "GLOBAL": _M._global_line,
    "INST": _M._inst,
    "STACK_GLOBAL": _M._stack_global,
    "REDUCE": _M._reduce,
    "NEWOBJ": _M._newobj,
    "BUILD": _M._build,
    "BINPERSID": _M._persistent,
    "MEMOIZE": lambda m, a: m._memoize(None),
    "GET": lambda m, a: m._push(m._memo[a]),
    "BINGET": lambda m, a: m._push(m._memo[a]),
    "LONG_BINGET": lambda m, a: m._push(m._memo[a]),
    "PUT": _M._memoize,
    "BINPUT": _M._memoize,
    "LONG_BINPUT": _M._memoize,
}
_VALUES = (
    "BININT BININT1 BININT2 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_STEPS.update({name: lambda m, a: m._push(a) for name in _VALUES.split()})
_STEPS.update({name: _M._integer for name in ("INT", "LONG", "LONG1", "LONG4")})
