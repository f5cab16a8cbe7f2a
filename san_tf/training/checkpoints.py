"""Checkpoints: one safetensors file holds every variable of a model and its optimizer.

A file is complete or absent (`atomic_file`), is read without executing anything, and names its variables, so
that a mismatch can be told in words.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.keras_compat import model_variables, optimizer_variables
from san_tf.keras_distribution import local_value

_FORMAT = "san_tf checkpoint 1"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says besides its variables: the file, training steps done, the writer's extras."""

    path: Path
    step: int
    extra: dict[str, Any] = field(default_factory=dict)


class NonFiniteError(ArithmeticError):
    """A variable to be saved holds NaN or infinity; the message is its name."""


def _canonical(path: str) -> str:
    """A variable's path without the running numbers that Keras appends to names (`dense_3/kernel`)."""
    return re.sub(r"_\d+(?=[_/]|$)", "", path)


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
    """All state as `model/...` and `optimizer/...`; builds the optimizer's slots where they are missing."""
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
) -> Path:
    """Write all variables of `model` and `optimizer` (slots, iterations, loss scale) to one file.

    Args:
        path: where the file shall stand, named `*.safetensors` by custom; replaced whole if it exists.
        model: a built model; its random seed states are saved, its metrics are not.
        optimizer: of the model, or None to save the model alone.
        step: training steps done, >= 0.
        extra: anything JSON can hold: epoch, seed, recipe.

    Returns:
        The path written.

    Raises:
        NonFiniteError: a variable holds NaN or infinity; nothing is written.
        UserError: the disk is full or the place cannot be written; an earlier file at `path` stays.

    Example:
        >>> save("checkpoints/last.safetensors", model, model.optimizer, step=100, extra={"epoch": 4})
    """
    path = Path(path)
    tensors = {
        name: np.asarray(local_value(variable), order="C")
        for name, variable in _named_variables(model, optimizer).items()
    }
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise NonFiniteError(name)
    metadata = {
        "format": _FORMAT,
        "step": str(step),
        "extra": json.dumps(dict(extra or {})),
        "order": json.dumps(list(tensors)),
    }
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
    if not np.issubdtype(tensor.dtype, np.floating):
        return True
    # A finite sum proves every value finite without a temporary; an infinite one may be a mere overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.sum())) or bool(np.isfinite(tensor).all())


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what a checkpoint says of itself, without its variables.

    Raises:
        UserError: the file is missing, truncated or no checkpoint of this package.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({error}); name another file or delete it."
        ) from error
    if metadata.get("format") != _FORMAT:
        raise UserError(f"{path} is no checkpoint written by this package; name another file.")
    return Checkpoint(path, int(metadata["step"]), json.loads(metadata["extra"]))


def restore(
    path: str | os.PathLike[str],
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> Checkpoint:
    """Put a checkpoint's values into `model` and `optimizer`, or change nothing.

    Running numbers in names are forgiven (`dense_3` restores into `dense`), so a model may be built twice in
    one process.

    Args:
        path: a file written by `save`.
        model: a built model of the same architecture.
        optimizer: its optimizer, or None to restore the model alone.

    Returns:
        The step and the extras that were saved.

    Raises:
        UserError: the file is unreadable, or the model's variables differ from those saved.

    Example:
        >>> restore("checkpoints/last.safetensors", model, model.optimizer).step
        100
    """
    checkpoint = read(path)
    variables = _named_variables(model, optimizer)
    with safe_open(checkpoint.path, framework="numpy") as file:
        order = json.loads(file.metadata()["order"])
        saved = [name for name in order if optimizer is not None or name.startswith("model/")]
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in saved}
        source = _match(checkpoint.path, variables, shapes)
        for name, variable in variables.items():
            variable.assign(file.get_tensor(source[name]))
    return checkpoint


def _match(
    path: Path, variables: Mapping[str, keras.Variable], saved: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """For each variable of the model, the saved name it takes its value from."""
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
    """The checkpoints of one stage: `step_00000100.safetensors` and, where asked for, `best.safetensors`.

    One process writes to a folder at a time.

    Args:
        folder: made on the first save.
        keep: how many of the newest are kept, >= 1; two, so that one is left should a disk lose the newest.

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
        """Where `save_best` writes."""
        return self.folder / "best.safetensors"

    def paths(self) -> list[Path]:
        """The numbered checkpoints, newest (most steps) first."""
        return sorted(self.folder.glob("step_*.safetensors"), reverse=True)

    def save(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None,
        step: int,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a numbered checkpoint, then remove the oldest beyond `keep`; see `save`."""
        path = save(self.folder / f"step_{step:08d}.safetensors", model, optimizer, step, extra)
        # What a killed process left: our temporary files, and those of the safetensors library.
        for leftover in [*self.folder.glob(".*.tmp.safetensors"), *self.folder.glob(".tmp*")]:
            leftover.unlink(missing_ok=True)
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, model: keras.Model, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Write `best.safetensors`: the model alone, for evaluation; see `save`."""
        return save(self.best, model, None, step, extra)

    def newest(self) -> Checkpoint | None:
        """The newest readable checkpoint, or None; unreadable ones are skipped with a warning."""
        for path in self.paths():
            try:
                return read(path)
            except UserError as error:
                _logger.warning("%s Falling back to the checkpoint before it.", error)
        return None

    def restore_newest(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None
    ) -> Checkpoint | None:
        """Restore the newest readable checkpoint; None, and nothing changed, where there is none.

        Raises:
            UserError: it holds another architecture.
        """
        checkpoint = self.newest()
        return None if checkpoint is None else restore(checkpoint.path, model, optimizer)
