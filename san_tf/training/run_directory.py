"""The run directory: keeps everything that an experiment shows on screen.

recipe.yaml      environment.json   metrics.csv    results.json
stages/          tensorboard/       checkpoints/   figures/      saved_model/<version>/
"""

from __future__ import annotations

import contextlib
import csv
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from san_tf.atomic import atomic_file
from san_tf.checkpoints import CheckpointFolder
from san_tf.errors import UserError
from san_tf.file_lock import file_lock, holder_of
from san_tf.version import __version__

_FIRST_COLUMNS = ("stage", "epoch", "step")


class MetricsTable:
    """A CSV file of metrics with the columns `stage`, `epoch`, `step` and one per metric.

    `step` counts the training steps done at the end of the row. A new metric gets a new column, which is
    empty in earlier rows.

    Args:
        path: path of the file; created with the first row.

    Example:
        >>> table = MetricsTable("runs/synthetic/metrics.csv")
        >>> table.append("train", epoch=1, step=40, values={"loss": 2.5})
        >>> table.rows("train")[0]["loss"]
        '2.5'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def rows(self, stage: str | None = None) -> list[dict[str, str]]:
        """Return the rows of a stage, or all rows, in order, with values as strings.

        Raises:
            UserError: the file is not a table of metrics.
        """
        try:
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = list(reader)
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} cannot be read ({error}); move it away.") from error
        if rows and not set(_FIRST_COLUMNS) <= set(rows[0]):
            raise UserError(f"{self.path} is not a table of metrics of this package; move it away.")
        return [row for row in rows if stage is None or row["stage"] == stage]

    def series(self, stage: str, name: str) -> list[tuple[int, float]]:
        """Return steps and values of one metric of a stage, without the rows that lack it."""
        return [(int(row["step"]), float(row[name])) for row in self.rows(stage) if row.get(name)]

    def append(self, stage: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Add a row, and remove the stage's rows from the same step on.

        Args:
            stage: name of the stage.
            epoch: counted from 1.
            step: training steps done since the start of the stage.
            values: metrics by name.
        """
        row = {"stage": stage, "epoch": str(epoch), "step": str(step)}
        row.update({name: f"{float(value):.8g}" for name, value in values.items()})
        self._write([*self._without(stage, step - 1), row])

    def drop(self, stage: str, after_step: int) -> None:
        """Remove the rows of `stage` beyond `after_step`; a run resumed there writes them again."""
        rows = self.rows()
        kept = self._without(stage, after_step)
        if len(kept) < len(rows):
            self._write(kept)

    def drop_stage(self, stage: str) -> None:
        """Remove all rows of a stage and its parts, such as `train/san` of `train`."""
        rows = self.rows()
        kept = [row for row in rows if row["stage"] != stage and not row["stage"].startswith(f"{stage}/")]
        if len(kept) < len(rows):
            self._write(kept)

    def _without(self, stage: str, after_step: int) -> list[dict[str, str]]:
        return [row for row in self.rows() if row["stage"] != stage or int(row["step"]) <= after_step]

    def _write(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys([*_FIRST_COLUMNS, *(name for row in rows for name in row)]))
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


CHECKPOINTS = "checkpoints"
_VERSIONS_OF = (
    *("tensorflow", "keras", "tensorflow-addons", "tensorflow-datasets"),
    *("numpy", "numba", "opencv-python-headless"),
)


def plain(value: Any) -> Any:
    """Turn a recipe's value into types of YAML and JSON: dicts, lists, strings, numbers, booleans, None.

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
    """The folder of one run of an experiment; creating the object creates the folder.

    Args:
        path: the folder, usually `runs/<experiment>`.

    Raises:
        UserError: the folder cannot be created or written.

    Example:
        >>> run = RunDirectory("runs/synthetic")
        >>> run.write_recipe(recipe)
        >>> with run.held():
        ...     if not run.is_done("train"):
        ...         with run.attempt("train", fields):
        ...             train(...)
        ...         run.mark_done("train")
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
    def environment_path(self) -> Path:
        """`environment.json`."""
        return self.path / "environment.json"

    @property
    def results_path(self) -> Path:
        """`results.json`."""
        return self.path / "results.json"

    @property
    def metrics(self) -> MetricsTable:
        """`metrics.csv`, one row per epoch."""
        return MetricsTable(self.path / "metrics.csv")

    @property
    def figures(self) -> Path:
        """The folder of figures; created if missing."""
        return self._folder("figures")

    @property
    def saved_model(self) -> Path:
        """The folder of exports, with one numbered folder per version; created if missing."""
        return self._folder("saved_model")

    def tensorboard(self, stage: str) -> Path:
        """The folder of a stage's TensorBoard logs."""
        return self.path / "tensorboard" / stage

    def checkpoints(self, stage: str, keep: int = 2) -> CheckpointFolder:
        """The checkpoints of a stage."""
        return CheckpointFolder(self.path / CHECKPOINTS / stage, keep)

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The folder {folder} cannot be created ({error.strerror}); move away what is in its place."
            ) from error
        return folder

    def write_recipe(self, recipe: Any, seed: int | None = None, **facts: Any) -> None:
        """Write `recipe.yaml`, and `environment.json`: versions, seed, command, machine.

        Args:
            recipe: a dataclass instance or a mapping.
            seed: stored in `environment.json`; the recipe's field `seed` if None.
            facts: also stored there, such as `data_dir`.
        """
        values = plain(recipe)
        _write(self.recipe_path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        noted = {**environment(), "seed": values.get("seed") if seed is None else seed, **plain(facts)}
        _write(self.environment_path, json.dumps(noted, indent=2) + "\n")

    def recipe_contents(self) -> dict[Path, bytes | None]:
        """Return the contents of `recipe.yaml` and `environment.json` for `put_back`; None if missing."""
        return {path: _content(path) for path in (self.recipe_path, self.environment_path)}

    def put_back(self, contents: Mapping[Path, bytes | None]) -> None:
        """Restore the contents of files."""
        for path, content in contents.items():
            _put_back(path, content)

    def note_in_environment(self, **facts: Any) -> None:
        """Add facts to `environment.json`, such as `peak_memory_gb`; they replace facts of the same name."""
        path = self.environment_path
        try:
            known = dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            known = {}  # missing or damaged; write the new facts all the same
        _write(path, json.dumps(known | plain(facts), indent=2) + "\n")

    def write_results(self, results: Mapping[str, Any]) -> Path:
        """Write `results.json`, whole or not at all.

        Args:
            results: mappings, sequences, NumPy values, numbers and strings.
        """
        _write(self.results_path, json.dumps(plain(results), indent=2) + "\n")
        return self.results_path

    def results(self) -> dict[str, Any]:
        """Return the contents of `results.json`; empty if there is none.

        Raises:
            UserError: the file is damaged.
        """
        try:
            values = json.loads(self.results_path.read_bytes())
            values["rows"][0]["mAP"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{self.results_path} is damaged ({error!r}); run --stage evaluate again."
            ) from error
        return dict(values)

    @contextlib.contextmanager
    def held(self, wait: bool = False, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Lock this run against other processes while the block runs.

        If the block fails, empty folders are removed, and the run itself if nothing else is left.

        Args:
            wait: wait until the other process is done, instead of raising.
            waiting: called with a description of that process.

        Raises:
            UserError: another process uses the run; the message says which.
        """
        path = self.path / ".lock"
        try:
            with file_lock(path, remove=True) as mine:
                if mine:
                    with self._without_empty_folders():
                        yield
                    return
                holder = holder_of(path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.path.rmdir()  # if nothing is left in it
            raise
        if not wait:
            raise UserError(
                f"{self.path} is in use by {holder}; wait until it is done, or choose another --workdir."
            )
        if waiting is not None:
            waiting(holder)
        with file_lock(path, wait=True, remove=True), self._without_empty_folders():
            yield

    @contextlib.contextmanager
    def _without_empty_folders(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for folder in sorted(self.path.rglob("*"), reverse=True):
                if folder.is_dir() and not folder.is_symlink():
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            raise

    def is_done(self, stage: str) -> bool:
        """Whether a stage was finished; False if it never started or was interrupted."""
        marker = self._marker(stage)
        return bool(marker and marker["done"])

    def made_with(self, stage: str) -> dict[str, Any] | None:
        """Return the recipe values that `begin` got for a stage; None if it never began."""
        marker = self._marker(stage)
        return None if marker is None else dict(marker["fields"])

    def environments(self, stage: str) -> list[dict[str, Any]]:
        """Return versions, machine and command of each process that worked on a stage, in order."""
        return list((self._marker(stage) or {}).get("environments", []))

    def begin(self, stage: str, fields: Mapping[str, Any] | None = None) -> None:
        """Record that a stage starts, or resumes, with these recipe values."""
        before = self._marker(stage) or {}
        new = {"done": False, "began": time.time(), "fields": _as_json(fields or {})}
        # Keep what an interrupted process noted: it still holds for the one that resumes.
        if before.get("facts"):
            new["facts"] = before["facts"]
        new["environments"] = [*before.get("environments", []), environment()]
        self._write_marker(stage, new)

    @contextlib.contextmanager
    def attempt(self, stage: str, fields: Mapping[str, Any], anew: bool = False) -> Iterator[None]:
        """Begin a stage; if the block fails before its first checkpoint, restore everything.

        Args:
            stage: name of the stage.
            fields: see `begin`.
            anew: start over: earlier results of the stage, such as checkpoints, are moved aside and deleted
                at the end of the block.
        """
        marker = _content(self._marker_path(stage))
        metrics = _content(self.metrics.path)
        folders = (self.path / CHECKPOINTS / stage, self.tensorboard(stage))
        aside = {folder: folder.with_name(f".{folder.name}.former") for folder in folders}
        for former in aside.values():
            shutil.rmtree(former, ignore_errors=True)  # left by a killed process
        if anew:
            for folder, former in aside.items():
                if folder.exists():
                    folder.rename(former)
            self._marker_path(stage).unlink(missing_ok=True)
            self.metrics.drop_stage(stage)
        saved = set(folders[0].rglob("*.safetensors"))
        try:
            self.begin(stage, fields)
            yield
        except BaseException:
            if set(folders[0].rglob("*.safetensors")) == saved:
                for folder, former in aside.items():
                    if former.exists():
                        shutil.rmtree(folder, ignore_errors=True)
                        former.rename(folder)
                self.put_back({self._marker_path(stage): marker, self.metrics.path: metrics})
            raise
        finally:
            for former in aside.values():
                shutil.rmtree(former, ignore_errors=True)

    def note(self, stage: str, **facts: Any) -> None:
        """Store facts about a started stage, for a process that resumes it."""
        marker = self._marker(stage) or {"done": False, "began": time.time(), "fields": {}}
        self._write_marker(stage, {**marker, "facts": {**marker.get("facts", {}), **plain(facts)}})

    def facts(self, stage: str) -> dict[str, Any]:
        """Return the facts stored by `note`."""
        return dict((self._marker(stage) or {}).get("facts", {}))

    def mark_done(self, stage: str, **facts: Any) -> None:
        """Record that a stage is finished.

        Args:
            stage: name of the stage; `begin` was called for it.
            facts: additional facts to store, such as counts.
        """
        now = time.time()
        marker = self._marker(stage) or {"began": now, "fields": {}}
        seconds = round(now - marker["began"], 3)
        facts = {**marker.get("facts", {}), **plain(facts)}
        self._write_marker(stage, {**marker, "done": True, "seconds": seconds, "facts": facts})

    def seconds(self, stage: str) -> float:
        """Seconds that a finished stage took since it last began; 0.0 if it is not finished."""
        marker = self._marker(stage)
        return float(marker["seconds"]) if marker and marker["done"] else 0.0

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


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as JSON reads them back, so that tuples and NumPy types compare equal."""
    result: dict[str, Any] = json.loads(json.dumps(plain(fields)))
    return result


def environment() -> dict[str, Any]:
    """Return versions, machine and command of this process."""
    return {
        "san_tf": __version__,
        **{name: _version_of(name) for name in _VERSIONS_OF},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "command": [sys.executable, *sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    elif _content(path) != content:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
