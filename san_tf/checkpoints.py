"""Checkpoints: one safetensors file holds every variable of a model and its optimizer.

A file is complete or absent (`atomic_file`). Reading it executes nothing. It names its variables, so that a
mismatch can be described. It contains digests of all variables and of its header, and the form of its network
(see `san_tf.forms`). A damaged file, or one of another form, is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.forms import check_form, form_of
from san_tf.keras_compat import model_variables, optimizer_variables
from san_tf.keras_distribution import local_value

_FORMAT = "san_tf checkpoint "
# Version 1 had no digests and no form.
_VERSION = 2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's file, training steps and extras, without its variables."""

    path: Path
    step: int
    extra: dict[str, Any] = field(default_factory=dict)


class DamagedError(UserError):
    """The file is damaged or not a checkpoint; an earlier checkpoint may be good."""


class NonFiniteError(ArithmeticError):
    """A variable to save holds NaN or infinity; the message is its name."""


def _canonical(path: str) -> str:
    """A variable's path without the numbers that Keras appends to names (`dense_3/kernel`).

    The kernel of a depthwise convolution is `depthwise_kernel` in Keras 2 and `kernel` in Keras 3.
    """
    return re.sub(r"/depthwise_kernel$", "/kernel", re.sub(r"_\d+(?=[_/]|$)", "", path))


def _numbered(names: Iterable[str]) -> list[str]:
    """Make names unique: the second `a` becomes `a#2`."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _named_variables(
    model: keras.Model, optimizer: keras.optimizers.Optimizer | None
) -> dict[str, keras.Variable]:
    """All variables as `model/...` and `optimizer/...`; creates missing slots of the optimizer."""
    named = [("model/" + name, variable) for name, variable in model_variables(model)]
    if optimizer is not None:
        slots = optimizer_variables(optimizer, model.trainable_variables)
        named += [("optimizer/" + name, variable) for name, variable in slots]
    names, variables = zip(*named, strict=True)
    return dict(zip(_numbered(names), variables, strict=True))


def save(
    path: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None,
    step: int,
    extra: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> Path:
    """Write all variables of `model` and `optimizer` (slots, iterations, loss scale) to one file.

    Args:
        path: file to write, usually named `*.safetensors`; replaced if it exists.
        model: a built model; its random seed states are saved, its metrics are not.
        optimizer: optimizer of the model, or None to save only the model.
        step: training steps done, >= 0.
        extra: additional facts, such as epoch, seed and recipe; anything JSON can hold.
        half: keep kernels (float32, two or more axes) as float16, half the size. `restore` gives them to a
            float32 model, rounded.

    Returns:
        The path written.

    Raises:
        NonFiniteError: a variable holds NaN or infinity, or with `half` is beyond float16 (65,504); nothing
            is written.
        UserError: the disk is full or the file cannot be written; an earlier file at `path` stays.

    Example:
        >>> save("checkpoints/last.safetensors", model, model.optimizer, step=100, extra={"epoch": 4})
    """
    path = Path(path)
    tensors = {
        name: np.asarray(local_value(variable), order="C")
        for name, variable in _named_variables(model, optimizer).items()
    }
    if half:
        with np.errstate(over="ignore"):
            tensors = {
                name: tensor.astype(np.float16) if tensor.ndim > 1 and tensor.dtype == np.float32 else tensor
                for name, tensor in tensors.items()
            }
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise NonFiniteError(name)
    metadata = {
        "format": f"{_FORMAT}{_VERSION}",
        "step": str(step),
        "extra": json.dumps(dict(extra or {})),
        "order": json.dumps(list(tensors)),
        "form": json.dumps(form_of(model)),
        "sha256": json.dumps({name: _digest(tensor) for name, tensor in tensors.items()}),
    }
    metadata["header"] = _header_digest(metadata)
    with atomic_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    return path


def _is_finite(tensor: np.ndarray) -> bool:
    if "float" not in str(tensor.dtype):  # bfloat16 is not a NumPy type
        return True
    # A finite sum proves that all values are finite, without a copy; an infinite one may be an overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.sum())) or bool(np.isfinite(tensor).all())


def _digest(tensor: np.ndarray) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
    digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _header_digest(metadata: Mapping[str, str]) -> str:
    rest = {name: value for name, value in metadata.items() if name != "header"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class _Header(NamedTuple):
    """A checkpoint's header after checks of its types and, from version 2 on, its digest."""

    checkpoint: Checkpoint
    order: list[str]
    form: Any
    digests: dict[str, str] | None


def _read_header(path: Path) -> _Header:
    """Read and check a checkpoint's header.

    Raises:
        DamagedError: the header cannot be read, or is invalid.
        UserError: a newer version wrote the file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
    except (OSError, SafetensorError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DamagedError(
            f"{path} cannot be read as a checkpoint ({reason}); name another file or delete it."
        ) from error
    version = re.fullmatch(re.escape(_FORMAT) + r"(\d{1,6})", metadata.get("format", ""))
    if version is None:
        raise DamagedError(f"{path} is not a checkpoint written by this package; name another file.")
    if int(version[1]) > _VERSION:
        raise UserError(f"{path} was written by a newer san_tf; upgrade san_tf.")
    damaged = DamagedError(f"{path} is damaged: its header is not as it was written; delete it.")
    digests = None
    if int(version[1]) > 1:
        if metadata.get("header") != _header_digest(metadata):
            raise damaged
        digests = json.loads(metadata["sha256"])
    try:
        step, extra, order = (json.loads(metadata[name]) for name in ("step", "extra", "order"))
        form = json.loads(metadata.get("form", "null"))
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged from error
    sound = type(step) is int and step >= 0 and isinstance(extra, dict) and isinstance(order, list)
    if not sound or len(order) != len(names) or not all(isinstance(n, str) and n in names for n in order):
        raise damaged
    return _Header(Checkpoint(path, step, extra), order, form, digests)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint's step and extras, without its variables.

    Raises:
        UserError: the file is missing or truncated, its header is damaged, or it is not a checkpoint of this
            package.
    """
    return _read_header(Path(path)).checkpoint


def verify(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a whole checkpoint and check every variable against its digest; see `read`.

    Raises:
        UserError: as `read`, or a variable is damaged.
    """
    header = _read_header(Path(path))
    for _ in _read_tensors(header, header.order):
        pass
    return header.checkpoint


def shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's variables by name, from its header only; see `read`."""
    header = _read_header(Path(path))
    return _shapes(header, header.order)


def _shapes(header: _Header, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    with safe_open(header.checkpoint.path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


def _read_tensors(header: _Header, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield variables by name, each checked against its digest; in version 1, only for finite values.

    Raises:
        DamagedError: a variable is not as it was written.
    """
    path = header.checkpoint.path
    with safe_open(path, framework="numpy") as file:
        for name in names:
            try:
                tensor = file.get_tensor(name)
            except (SafetensorError, TypeError, ValueError, AttributeError) as error:
                raise DamagedError(f"{path} is damaged at {name}; delete it or copy it again.") from error
            if header.digests is not None and header.digests.get(name) != _digest(tensor):
                raise DamagedError(
                    f"{path} is damaged: {name} is not as it was written; delete it or copy it again."
                )
            if not _is_finite(tensor):
                raise DamagedError(
                    f"{path} holds NaN or infinity in {name}; delete it or use an earlier one."
                )
            yield name, tensor


def restore(
    path: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None = None,
    *,
    start: bool = False,
) -> Checkpoint:
    """Restore all values of `model` and `optimizer` from a checkpoint, or change nothing.

    Numbers that Keras appends to names are ignored (`dense_3` restores into `dense`), so a model may be built
    twice in one process.

    Args:
        path: a file written by `save`.
        model: a built model of the same architecture and form.
        optimizer: its optimizer, or None to restore only the model.
        start: a new training starts from these weights, so the image size may differ, see
            `san_tf.forms.check_form`.

    Returns:
        The saved step and extras.

    Raises:
        DamagedError: the file is missing, unreadable, or not as it was written.
        UserError: the model's variables or its form differ from those saved.

    Example:
        >>> restore("checkpoints/last.safetensors", model, model.optimizer).step
        100
    """
    header = _read_header(Path(path))
    checkpoint = header.checkpoint
    variables = _named_variables(model, optimizer)
    saved = [name for name in header.order if optimizer is not None or name.startswith("model/")]
    source = _match(checkpoint.path, variables, _shapes(header, saved))
    check_form(checkpoint.path, header.form, model, start)
    # Read all values before assigning the first.
    values = dict(_read_tensors(header, saved))
    kinds = [
        f"{name} is {_dtype(variable)} in the model and {values[source[name]].dtype} in the file"
        for name, variable in variables.items()
        if _kind(_dtype(variable)) != _kind(str(values[source[name]].dtype))
    ]
    if kinds:
        raise _mismatch(checkpoint.path, [], [], kinds)
    for name, variable in variables.items():
        variable.assign(values[source[name]])
    return checkpoint


def _dtype(variable: keras.Variable) -> str:
    return str(getattr(variable.dtype, "name", variable.dtype))  # Keras 2 uses TensorFlow's types


def _kind(dtype: str) -> str:
    """The kind of numbers of a dtype; the precision within a kind may differ."""
    return "float" if "float" in dtype else dtype.rstrip("0123456789")


def _match(
    path: Path, variables: Mapping[str, keras.Variable], saved: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """For each variable of the model, the saved name that holds its value."""
    if set(variables) == set(saved):
        source = {name: name for name in variables}
    else:
        ours = dict(zip(_numbered(map(_canonical, variables)), variables, strict=True))
        theirs = dict(zip(_numbered(map(_canonical, saved)), saved, strict=True))
        missing = [name for key, name in ours.items() if key not in theirs]
        unexpected = [name for key, name in theirs.items() if key not in ours]
        if missing or unexpected:
            raise _mismatch(path, missing, unexpected, [])
        source = {name: theirs[key] for key, name in ours.items()}
    wrong = [
        f"{name} is {tuple(variable.shape)} in the model and {saved[source[name]]} in the file"
        for name, variable in variables.items()
        if tuple(variable.shape) != saved[source[name]]
    ]
    if wrong:
        raise _mismatch(path, [], [], wrong)
    return source


def _mismatch(path: Path, missing: list[str], unexpected: list[str], wrong: list[str]) -> UserError:
    parts = []
    for title, items in (("the file lacks", missing), ("the model lacks", unexpected), ("", wrong)):
        if items:
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            parts.append(f"{title} {', '.join(items[:3])}{more}".strip())
    return UserError(
        f"{path} holds another architecture or optimizer: {'; '.join(parts)}. "
        "Use the recipe it was trained with, or another run directory."
    )


class CheckpointFolder:
    """The checkpoints of one stage: `step_00000100.safetensors`, and optionally `best.safetensors`.

    Only one process may write to a folder at a time.

    Args:
        folder: the folder; created on the first save.
        keep: number of newest checkpoints to keep, >= 1; two, in case the disk loses the newest.

    Example:
        >>> checkpoints = CheckpointFolder("runs/synthetic/checkpoints/train")
        >>> start = checkpoints.restore_newest(model, model.optimizer)
        >>> checkpoints.save(model, model.optimizer, step=100)
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise UserError(f"keep must be at least 1; received {keep}.")
        self.folder = Path(folder)
        self.keep = keep

    @property
    def best(self) -> Path:
        """The file that `save_best` writes."""
        return self.folder / "best.safetensors"

    def paths(self) -> list[Path]:
        """The numbered checkpoints, newest (most steps) first."""
        found = (re.fullmatch(r"step_(\d+)\.safetensors", path.name) for path in self.folder.glob("step_*"))
        numbered = {int(match[1]): self.folder / match[0] for match in found if match}
        return [numbered[step] for step in sorted(numbered, reverse=True)]

    def save(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        step: int,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a numbered checkpoint, then remove the oldest beyond `keep`; see `save`.

        Checkpoints of later steps are removed too: they were damaged, and training resumed from an earlier
        one.
        """
        path = save(self.folder / f"step_{step:08d}.safetensors", model, optimizer, step, extra)
        # Left by killed processes: temporary files of this package and of the safetensors library.
        for leftover in [*self.folder.glob(".*.tmp.safetensors"), *self.folder.glob(".tmp*")]:
            leftover.unlink(missing_ok=True)
        paths = self.paths()
        newest = paths.index(path)
        for other in [*paths[:newest], *paths[newest + self.keep :]]:
            other.unlink(missing_ok=True)
        return path

    def save_best(self, model: keras.Model, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Write `best.safetensors`: only the model, for evaluation; see `save`."""
        return save(self.best, model, None, step, extra)

    def newest(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, or None; warn about damaged ones."""
        return self._newest_that(verify)

    def restore_newest(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None
    ) -> Checkpoint | None:
        """Restore the newest undamaged checkpoint; return None, and change nothing, if there is none.

        Raises:
            UserError: the checkpoint has another architecture, or a network of another form.
        """
        return self._newest_that(lambda path: restore(path, model, optimizer))

    def _newest_that(self, read_all: Callable[[Path], Checkpoint]) -> Checkpoint | None:
        for path in self.paths():
            try:
                return read_all(path)
            except DamagedError as error:
                _logger.warning("%s Falling back to the checkpoint before it.", error)
        return None
