"""The run directory: everything an experiment says on screen can be found there again.

recipe.yaml      environment.json   metrics.csv    results.json
stages/          tensorboard/       checkpoints/   figures/      saved_model/<version>/
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.training.checkpoints import CheckpointFolder
from san_tf.training.metrics_table import MetricsTable
from san_tf.version import __version__

_VERSIONS_OF = (
    *("tensorflow", "keras", "tensorflow-addons", "tensorflow-datasets"),
    *("numpy", "numba", "opencv-python-headless"),
)


def plain(value: Any) -> Any:
    """Turn a recipe's value into what YAML and JSON hold: dicts, lists, strings, numbers, booleans, None.

    Example:
        >>> plain({"size": (256, 128), "folder": Path("data")})
        {'size': [256, 128], 'folder': 'data'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        entries = [plain(entry) for entry in value]
        return sorted(entries) if isinstance(value, (set, frozenset)) else entries
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


class RunDirectory:
    """The folder of one run of an experiment; made, and tried for writing, at once.

    Args:
        path: the folder, by custom `runs/<experiment>`.

    Raises:
        UserError: it cannot be made or written.

    Example:
        >>> run = RunDirectory("runs/synthetic")
        >>> run.write_recipe(recipe)
        >>> if not run.is_done("train", fields):
        ...     run.begin("train", fields)
        ...     train(...)
        ...     run.mark_done("train")
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"probe")
        except OSError as error:
            raise UserError(
                f"The run directory {self.path} cannot be written ({error.strerror}); "
                "choose another folder with --workdir."
            ) from error

    @property
    def recipe_path(self) -> Path:
        """`recipe.yaml`."""
        return self.path / "recipe.yaml"

    @property
    def results_path(self) -> Path:
        """`results.json`."""
        return self.path / "results.json"

    @property
    def metrics(self) -> MetricsTable:
        """`metrics.csv`, one row an epoch."""
        return MetricsTable(self.path / "metrics.csv")

    @property
    def figures(self) -> Path:
        """The folder of figures; exists after this call."""
        return self._folder("figures")

    @property
    def saved_model(self) -> Path:
        """The folder of exports, one numbered folder a version; exists after this call."""
        return self._folder("saved_model")

    def tensorboard(self, stage: str) -> Path:
        """The folder of a stage's TensorBoard logs."""
        return self.path / "tensorboard" / stage

    def checkpoints(self, stage: str, keep: int = 2) -> CheckpointFolder:
        """The checkpoints of a stage."""
        return CheckpointFolder(self.path / "checkpoints" / stage, keep)

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The folder {folder} cannot be made ({error.strerror}); move what is in its place."
            ) from error
        return folder

    def write_recipe(self, recipe: Any, seed: int | None = None) -> None:
        """Write `recipe.yaml`, and `environment.json`: versions, seed, command, machine.

        Args:
            recipe: a dataclass instance or a mapping.
            seed: noted beside the versions; the recipe's field `seed` if None.
        """
        values = plain(recipe)
        _write(self.recipe_path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        environment = {
            "san_tf": __version__,
            **{name: _version_of(name) for name in _VERSIONS_OF},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "seed": values.get("seed") if seed is None else seed,
            "command": [sys.executable, *sys.argv],
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        _write(self.path / "environment.json", json.dumps(environment, indent=2) + "\n")

    def note_in_environment(self, **facts: Any) -> None:
        """Add facts to `environment.json`, such as `peak_memory_gb`; former ones of their names go."""
        path = self.path / "environment.json"
        known = json.loads(path.read_text()) if path.is_file() else {}
        _write(path, json.dumps(known | plain(facts), indent=2) + "\n")

    def write_results(self, results: Mapping[str, Any]) -> Path:
        """Write `results.json`, whole or not at all.

        Args:
            results: anything of mappings, sequences, NumPy values, numbers and strings.
        """
        _write(self.results_path, json.dumps(plain(results), indent=2) + "\n")
        return self.results_path

    def is_done(self, stage: str, fields: Mapping[str, Any] | None = None) -> bool:
        """Whether a stage was finished with these recipe values.

        Args:
            stage: its name.
            fields: the recipe values that decide its result, those of the stages before it included; None
                asks for the marker alone.

        Returns:
            False where it was never started or was interrupted.

        Raises:
            UserError: it was started or finished with other values; the sentence names them.
        """
        marker = self._marker(stage)
        if marker is None:
            return False
        if fields is not None:
            self._check_same(stage, marker["fields"], _as_json(fields))
        return bool(marker["done"])

    def begin(self, stage: str, fields: Mapping[str, Any] | None = None) -> None:
        """Note that a stage starts, or goes on, with these recipe values.

        Raises:
            UserError: it was started with other values: what lies there would be mixed with the new.
        """
        marker = self._marker(stage)
        if marker is not None and fields is not None:
            self._check_same(stage, marker["fields"], _as_json(fields))
        new = {"done": False, "began": time.time(), "fields": _as_json(fields or {})}
        # What a killed process noted of its plans holds for the one that goes on.
        noted = marker.get("facts") if marker and not marker["done"] else None
        self._write_marker(stage, {**new, "facts": noted} if noted else new)

    def note(self, stage: str, **facts: Any) -> None:
        """Note something of a begun stage, for the process that goes on should this one be killed."""
        marker = self._marker(stage) or {"done": False, "began": time.time(), "fields": {}}
        self._write_marker(stage, {**marker, "facts": {**marker.get("facts", {}), **plain(facts)}})

    def facts(self, stage: str) -> dict[str, Any]:
        """What was noted of a stage."""
        return dict((self._marker(stage) or {}).get("facts", {}))

    def mark_done(self, stage: str, **facts: Any) -> None:
        """Note that a stage is finished.

        Args:
            stage: its name, given to `begin` before.
            facts: whatever should be found beside it, such as counts.
        """
        now = time.time()
        marker = self._marker(stage) or {"began": now, "fields": {}}
        seconds = round(now - marker["began"], 3)
        facts = {**marker.get("facts", {}), **plain(facts)}
        self._write_marker(stage, {**marker, "done": True, "seconds": seconds, "facts": facts})

    def seconds(self, stage: str) -> float:
        """How long a finished stage took since it was begun last; 0.0 where it is not finished."""
        marker = self._marker(stage)
        return float(marker["seconds"]) if marker and marker["done"] else 0.0

    def reset(self, stage: str) -> None:
        """Forget a stage: marker, checkpoints, logs and rows of `metrics.csv`; it starts anew."""
        for folder in (self.path / "checkpoints" / stage, self.tensorboard(stage)):
            shutil.rmtree(folder, ignore_errors=True)
        self.metrics.drop(stage, after_step=-1)
        self._marker_path(stage).unlink(missing_ok=True)

    def _marker_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def _marker(self, stage: str) -> dict[str, Any] | None:
        path = self._marker_path(stage)
        try:
            marker: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it to run the stage again.") from error
        return marker

    def _write_marker(self, stage: str, marker: Mapping[str, Any]) -> None:
        _write(self._marker_path(stage), json.dumps(marker, indent=2) + "\n")

    def _check_same(self, stage: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        before, now = _flat(before), _flat(now)
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if names:
            changes = ", ".join(
                f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names[:3]
            )
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(
                f"Stage {stage} in {self.path} belongs to another recipe ({changes}{more}); "
                "choose another --workdir, or put the values back."
            )


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they will be read back, so that a comparison does not depend on tuples or NumPy types."""
    result: dict[str, Any] = json.loads(json.dumps(plain(fields)))
    return result


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"head": "plain"}}` as `{"model.head": "plain"}`, so that a difference has a short name."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)
