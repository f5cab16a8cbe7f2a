"""Decorator that compiles inner loops with numba, with a safe cache on disk.

numba's own cache watches only the file of the called function. After an edit of a function or constant that
the kernel takes from another file, the old machine code would still run. Its entries are also numbered, so
two processes that save at the same time can mix them up. Here the name of an entry is a digest of everything
that determines its machine code. A changed source has another name, so an old entry cannot be found.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import os
import pickle
import platform
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

import llvmlite
import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

Function = TypeVar("Function", bound=Callable[..., Any])

# The versions of these modules are part of every entry's name, so their contents need no digest.
_VERSIONED = {"builtins", "math", "cmath", "operator", "numpy", "numba"}
# Switches of numba (environment variables NUMBA_*) that change the machine code.
_SWITCHES = (
    "OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "ENABLE_AVX", "USING_SVML",
    "DEBUGINFO_DEFAULT", "LLVM_REFPRUNE_PASS",
)  # fmt: skip
# Entries of renamed kernels and replaced versions are removed after this many days.
_KEPT_DAYS = 60
_SUFFIX = ".kernel"


def compiled(function: Function) -> Function:
    """Compile a function of NumPy arrays with numba: cached on disk, without the GIL.

    It uses neither `fastmath` nor parallel loops. Additions keep their written order, so the same input gives
    the same bits with any number of threads and processes.

    The machine code is stored in `__pycache__` beside the source, or else in the user's cache folder; if
    `NUMBA_CACHE_DIR` is set, it is stored there. It is reused as long as the function, everything it calls,
    all constants it reads, numba, NumPy and Python are the same. If nothing can be written, each process
    compiles again.

    Args:
        function: Function in numba's nopython subset. It may use other compiled functions, NumPy, `math`, and
            constants: numbers, strings, enumerations, arrays and tuples of them. Many arguments are best
            grouped into named tuples (`typing.NamedTuple`), which it can also build.

    Returns:
        The compiled function; compilation happens at the first call of each argument type.
    """
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    if hasattr(dispatcher, "py_func"):  # a plain function if NUMBA_DISABLE_JIT is set
        dispatcher._cache = KernelCache(dispatcher)
    return dispatcher


class NotCachable(Exception):
    """A kernel uses something that cannot be compared between processes."""


def source_digest(dispatcher: Dispatcher) -> str:
    """Return a digest of a kernel's code, all kernels it calls, and all their constants.

    It uses the code that Python loaded, not files. So comments and line numbers do not count, and zipped and
    frozen packages work too. Functions added with `numba.extending.overload` are not included.

    Args:
        dispatcher: result of `compiled`.

    Returns:
        64 hexadecimal digits.

    Raises:
        NotCachable: the kernel uses something else than `compiled` allows, such as a plain function.
    """
    digest = hashlib.sha256()
    for part in _parts_of_kernel(dispatcher, {}):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _parts_of_kernel(dispatcher: Dispatcher, met: dict[int, int]) -> Iterator[str]:
    """Yield the parts of a kernel's digest; `met` numbers the kernels already seen, for recursion."""
    function = dispatcher.py_func
    if id(function) in met:
        yield f"kernel {met[id(function)]}"
        return
    met[id(function)] = len(met)
    yield f"kernel {function.__module__}.{function.__qualname__}"
    yield repr(sorted(dispatcher.targetoptions.items()))
    yield from _parts_of_value(function.__defaults__, met)
    yield from _parts_of_value(tuple(sorted((function.__kwdefaults__ or {}).items())), met)
    for cell in function.__closure__ or ():
        yield from _parts_of_value(cell.cell_contents, met, _names(function.__code__))
    yield from _parts_of_code(function.__code__, function, met)


def _parts_of_code(code: CodeType, function: Callable[..., Any], met: dict[int, int]) -> Iterator[str]:
    """Yield the instructions of a function (or a nested one), its constants, and the values of its names."""
    yield code.co_code.hex()
    variables = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    yield repr((variables, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts_of_code(constant, function, met)
        else:
            yield from _parts_of_value(constant, met)
    for name in code.co_names:  # globals and attributes; an attribute with a global's name does no harm
        if name in function.__globals__:
            yield name
            yield from _parts_of_value(function.__globals__[name], met, _names(code))


def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals and attributes in a function and its nested functions."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return sum(inner, code.co_names)


def _parts_of_value(value: Any, met: dict[int, int], names: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a value as numba compiles it into machine code; for a module, its attributes in `names`."""
    kind = type(value)
    yield f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Dispatcher):
        yield from _parts_of_kernel(value, met)
    elif isinstance(value, ModuleType):
        yield value.__name__
        if value.__name__.partition(".")[0] not in _VERSIONED:
            for name in names:
                if hasattr(value, name):
                    yield name
                    yield from _parts_of_value(getattr(value, name), met, names)
    elif isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        yield repr((value.dtype, value.shape, value.strides))
        yield value.tobytes().hex()
    elif isinstance(value, enum.EnumMeta):
        yield from _parts_of_value(tuple(value.__members__.values()), met)
    elif isinstance(value, enum.Enum):
        yield value.name
        yield from _parts_of_value(value.value, met)
    elif isinstance(value, tuple):
        yield repr((len(value), getattr(value, "_fields", None)))
        for item in value:
            yield from _parts_of_value(item, met)
    elif value is None or value is Ellipsis or kind in (bool, int, float, complex, str, bytes):
        yield repr(value)
    elif isinstance(value, frozenset):  # a literal after `in`
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, np.dtype | numba.types.Type) and " at 0x" not in repr(value):
        yield repr(value)
    elif isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
        yield _named_tuple(value)
        yield from _parts_of_value(tuple(getattr(value, "_field_defaults", {}).items()), met)
    elif _is_versioned(value):
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        raise NotCachable(f"{value!r} of type {kind.__qualname__}")


def _named_tuple(kind: Any) -> str:
    """Describe a class of named tuples; the order of its fields determines where machine code finds them.

    Raises:
        NotCachable: another process cannot import the class.
    """
    if kind.__module__ == "__main__" or not _is_importable(kind):
        raise NotCachable(f"{kind!r}, which other processes cannot import")
    return f"{kind.__module__}.{kind.__qualname__}{kind._fields}"


def _named_tuples(kind: Any) -> Iterator[str]:
    """Yield the named tuples in an argument's type: numba's name of the type leaves their fields out."""
    if isinstance(kind, numba.types.BaseTuple):
        if hasattr(kind, "instance_class"):
            yield _named_tuple(kind.instance_class)
        for item in getattr(kind, "types", ()):
            yield from _named_tuples(item)


def _is_importable(value: Any) -> bool:
    """Whether a value is what its module has under its name."""
    owner, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(owner, str) or not isinstance(name, str):
        return False
    return getattr(sys.modules.get(owner), name, None) is value


def _is_versioned(value: Any) -> bool:
    """Whether a value really is a type or function of Python, NumPy or numba."""
    return _is_importable(value) and value.__module__.partition(".")[0] in _VERSIONED


@functools.cache
def _environment() -> str:
    """Return a digest of versions and settings that determine the machine code.

    Source, argument types and processor are not included.
    """
    switches = [(name, getattr(numba.config, name, None)) for name in _SWITCHES]
    versions = (sys.version, platform.machine(), numba.__version__, llvmlite.__version__, np.__version__)
    return hashlib.sha256(repr((versions, switches)).encode()).hexdigest()


class KernelCache(NullCache):
    """Disk cache of one kernel's machine code, with the interface of numba's dispatcher.

    An entry is one file, `<kernel>.<environment>.<source>.<types>.kernel`; the last three parts are digests.
    It holds the SHA-256 of its payload and the payload, and appears complete or not at all. On errors of the
    disk the kernel is simply compiled.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        function = dispatcher.py_func
        module = function.__module__.rpartition(".")[2]
        self._kernel = f"{module}.{function.__qualname__}".replace("<", "").replace(">", "")

    @functools.cached_property
    def folders(self) -> list[Path]:
        """Folders to search in this order; entries are written to the first writable one."""
        source = Path(os.path.abspath(self._dispatcher.py_func.__code__.co_filename))
        place = f"{source.parent.name}_{hashlib.sha256(os.fsencode(source.parent)).hexdigest()[:16]}"
        chosen = getattr(numba.config, "CACHE_DIR", "")
        if chosen:
            return [Path(chosen) / place]
        folders = [source.parent / "__pycache__"] if source.parent.is_dir() else []
        users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return [*folders, Path(users) / "san_tf" / place] if os.path.isabs(users) else folders

    @property
    def cache_path(self) -> str | None:
        """The first folder, for `dispatcher.stats`."""
        return str(self.folders[0]) if self.folders else None

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the machine code for a signature; None if missing, damaged or of another source."""
        target_context.refresh()
        name = self._name(sig, target_context.codegen())
        for folder in self.folders if name else ():
            with contextlib.suppress(OSError):
                content = (folder / str(name)).read_bytes()
                digest, payload = content[:32], content[32:]
                if hashlib.sha256(payload).digest() == digest:
                    return CompileResult._rebuild(target_context, *pickle.loads(payload))
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store the machine code for a signature, and remove that of the kernel's old source."""
        name = self._name(sig, data.codegen)
        if name is None or data.lifted or data.library.has_dynamic_globals:
            return
        payload = dumps(data._reduce())
        for folder in self.folders:
            try:
                self._write(folder / name, hashlib.sha256(payload).digest() + payload)
            except OSError:
                continue
            self._clear(folder, name)
            return

    def flush(self) -> None:
        """Remove this kernel's entries, for `dispatcher.recompile`."""
        for folder in self.folders:
            self._clear(folder, "")

    def _name(self, sig: Any, codegen: Any) -> str | None:
        """Return the name of an entry's file; None if it cannot be cached."""
        try:
            source = source_digest(self._dispatcher)
            named = [name for kind in normalize_signature(sig)[0] for name in _named_tuples(kind)]
        except NotCachable:
            return None
        types = repr((sig, named, codegen.magic_tuple()))
        if " at 0x" in types:  # a kernel as an argument: the name of its type contains an address
            return None
        of_types = hashlib.sha256(types.encode()).hexdigest()
        return f"{self._kernel}.{_environment()[:12]}.{source[:32]}.{of_types[:32]}{_SUFFIX}"

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{self._kernel}.{secrets.token_hex(8)}.tmp{_SUFFIX}")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _clear(self, folder: Path, kept: str) -> None:
        """Remove what `kept` replaces: entries of the kernel's other sources, and any old entries.

        Entries of other environments stay, because two stacks may share one checkout.
        """
        # Earlier versions used numba's own cache, with entries named `<kernel>-<line>...`.
        same_kernel = (f"{self._kernel}.{_environment()[:12]}.", f"{self._kernel}-")
        same_source = kept.removesuffix(_SUFFIX).rpartition(".")[0] + "."
        oldest = time.time() - _KEPT_DAYS * 86400
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                if not entry.name.endswith((_SUFFIX, ".nbi", ".nbc")):
                    continue
                replaced = entry.name.startswith(same_kernel) and not entry.name.startswith(same_source)
                with contextlib.suppress(OSError):
                    if replaced or (entry.name.endswith(_SUFFIX) and entry.stat().st_mtime < oldest):
                        os.unlink(entry.path)
