"""Reads features of any toolkit: NPZ, NPY with a CSV beside it, or Parquet. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from san_tf.errors import UserError
from san_tf.evaluation.feature_set import UNKNOWN, FeatureSet
from san_tf.evaluation.inputs import checked_features, checked_ids
from san_tf.whole_numbers import WholeNumbers

SUFFIXES = (".npz", ".npy", ".parquet")
# Errors that the readers of archives and arrays raise for corrupt files.
_BROKEN = (
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
_LAYOUT = "`features` (N, D), `pids` (N,) whole numbers and, where known, `camids` (N,)"


def read_features(path: str | Path, role: str = "features") -> FeatureSet:
    """Read the embeddings of a query or gallery with their identities and cameras.

    - `.npz`: arrays `features`, `pids`, `camids`. Files of `numpy.savez` are memory-mapped, so the gallery
      may be larger than the memory; files of `savez_compressed` are unpacked. A run's own
      `features/<method>.npz` holds query and gallery, and serves as either.
    - `.npy`: the features, memory-mapped. A CSV file of the same name, `.csv`, holds the columns `pid` and
      `camid` (or `pids`, `camids`), one row per image.
    - `.parquet`: columns `features` (a list of numbers), `pids`, `camids`; needs `pyarrow`.

    Missing cameras are unknown (-1).

    Args:
        path: the file.
        role: "query" or "gallery": which arrays to take from a run's own file.

    Returns:
        Features of real numbers, with `pids` and `camids` int64.

    Raises:
        UserError: the file is missing, broken, of another kind, holds objects, or its arrays do not fit.

    Example:
        >>> gallery = read_features("gallery.npz", "gallery")
        >>> gallery.features.shape, gallery.pids.dtype
        ((15913, 2048), dtype('int64'))
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".npy": _read_npy, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is not a feature file by its name; give one of: {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the name.")
    try:
        arrays = reader(path, role)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_in_a_line(error.strerror or error)}.") from error
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit into memory; write it with numpy.savez, which is read piece by piece."
        ) from error
    except _BROKEN as error:
        reason = _in_a_line(error) or type(error).__name__
        raise UserError(f"{path} is not a valid {path.suffix} file ({reason}); write it anew.") from error
    return _checked(path, arrays)


def _in_a_line(text: object) -> str:
    """A library's message, shortened to fit into a sentence."""
    line = " ".join(str(text).split())[:80].rstrip(". ")
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _names(names: Iterable[str]) -> str:
    """The names in a file, made safe to print."""
    return _in_a_line(", ".join(names)) or "nothing"


def _checked(path: Path, arrays: dict[str, Any]) -> FeatureSet:
    features = checked_features(str(path), arrays["features"])
    pids = checked_ids(f"pids of {path}", arrays["pids"], len(features))
    if arrays.get("camids") is None:
        return FeatureSet(features, pids, np.full(len(features), UNKNOWN, np.int64))
    return FeatureSet(features, pids, checked_ids(f"camids of {path}", arrays["camids"], len(features)))


def _read_npz(path: Path, role: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        names = {"features": "features", "pids": "pids", "camids": "camids"}
        if "features" not in members and role in members:
            names = {"features": role, "pids": f"{role}_pids", "camids": f"{role}_camids"}
        missing = [names[key] for key in ("features", "pids") if names[key] not in members]
        if missing:
            raise UserError(
                f"{path} has no array {missing[0]!r}, only {_names(sorted(members))}; it must hold {_LAYOUT}."
            )
        return {
            key: _npz_member(path, archive, members[name]) for key, name in names.items() if name in members
        }


def _npz_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        start = _npy_header(path, file)
    shape, fortran, dtype, length = start
    if length + math.prod(shape) * dtype.itemsize != info.file_size:
        raise ValueError(f"{info.filename} is not as long as it says")
    if info.compress_type != zipfile.ZIP_STORED or math.prod(shape) == 0:
        with archive.open(info) as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            return array
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        local = raw.read(30)
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"{info.filename} is not where the list of contents says")
        # The local header's name and extra field may differ in length from the central directory's.
        offset = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30])) + length
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _npy_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read the header of an NPY file: shape, Fortran order, dtype, and the header's length in bytes."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"NPY version {version[0]}.{version[1]} holds no plain numbers")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise UserError(
            f"{path} holds Python objects, which can run any code when they are read; store plain numbers: "
            f"{_LAYOUT}."
        )
    return shape, fortran, dtype, file.tell()


def _read_npy(path: Path, role: str) -> dict[str, Any]:
    with path.open("rb") as file:
        shape, fortran, dtype, length = _npy_header(path, file)
    if length + math.prod(shape) * dtype.itemsize > path.stat().st_size:
        raise ValueError("it ends too early")
    if math.prod(shape) == 0:
        features: np.ndarray = np.empty(shape, dtype)
    else:
        features = np.memmap(path, dtype, "r", length, shape, "F" if fortran else "C")
    return {"features": features, **_read_csv(path.with_suffix(".csv"), path)}


def _read_csv(path: Path, beside: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{beside} holds only features; put the identities beside it, in {path}.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in rows.fieldnames or ()}
            pid, camid = (columns.get(name) or columns.get(f"{name}s") for name in ("pid", "camid"))
            if pid is None:
                raise UserError(f"{path} has no column `pid`; its first line must name the columns.")
            table = [(rows.line_num, row.get(pid), row.get(camid) if camid else UNKNOWN) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file ({error}); write it anew.") from error
    numbers = WholeNumbers()
    values = [
        [
            numbers.read(what, str(cell), f"{path}, line {line}")
            for what, cell in zip(("identity", "camera"), cells, strict=True)
        ]
        for line, *cells in table
    ]
    both = np.array(values, np.int64).reshape(-1, 2)
    return {"pids": both[:, 0], "camids": both[:, 1]}


def _read_parquet(path: Path, role: str) -> dict[str, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs pyarrow: pip install 'san-tf[parquet]', or give an .npz file."
        ) from error
    try:
        # Only plain columns are read; the schema's metadata are ignored.
        names = parquet.read_schema(path).names
        missing = [name for name in ("features", "pids") if name not in names]
        if missing:
            raise UserError(
                f"{path} has no column {missing[0]!r}, only {_names(names)}; it must hold {_LAYOUT}."
            )
        wanted = [name for name in ("features", "pids", "camids") if name in names]
        table = parquet.read_table(path, columns=wanted)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    arrays: dict[str, Any] = {}
    for name in wanted:
        column = table.column(name).combine_chunks()
        if column.null_count:
            raise UserError(f"{path}: {name} has {column.null_count} empty cells; fill or drop those images.")
        if name != "features":
            arrays[name] = column.to_numpy(zero_copy_only=False)
            continue
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise UserError(f"{path}: features must be lists of numbers, one list per image, not {kind}.")
        values = column.flatten()
        if len(column) == 0 or len(values) % len(column) or not _even(column, pa):
            raise UserError(f"{path}: the features of all images must have one length.")
        arrays[name] = values.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return arrays


def _even(column: Any, pa: Any) -> bool:
    """Whether all lists of an Arrow array have one length."""
    if pa.types.is_fixed_size_list(column.type):
        return True
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return bool((lengths == lengths[0]).all())
