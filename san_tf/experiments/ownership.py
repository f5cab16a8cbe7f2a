"""A run directory owns its recipe: which values are fixed, and which a command may choose.

`recipe.yaml` holds the recipe of the run. A stage fixes the values it depends on as soon as it has saved
something in the run. The markers in `stages/` record these values. Later commands use the fixed values
without repeated flags, and a command with other values is refused. Values that no stage has used yet may
change. Test sets and the comparison of embeddings are never fixed: each evaluation records its own settings
with its results.

Nothing here imports TensorFlow, so contradictions are reported quickly.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from san_tf.errors import UserError
from san_tf.experiments.recipe import NAMED_WEIGHTS, DataRecipe, Recipe
from san_tf.experiments.recipe_files import (
    owners,
    read_yaml,
    shown,
    updated,
    with_current_names,
    with_value,
)

# Values that are paths on this machine: `a` and `/home/me/a` may be the same folder.
_PLACES = ("folder", "backgrounds", "textures", "generator_weights", "weights")
# Sources of images. In a command that only tests, these flags describe the test sets.
_SOURCES = {
    "folder": "test_folder",
    "pattern": "test_pattern",
    "backgrounds": "test_backgrounds",
    "skip_corrupt": "test_skip_corrupt",
    "check_counts": "test_check_counts",
}
# Stages that may follow a training without changing it; `prepare` writes data sets outside of the run.
_TESTING = frozenset({"prepare", "evaluate", "report"})
# Markers that fix values, the most reliable first: the other stages use the results of trainings.
_FIRST = ("train", "texture-generator", "pseudo-textures")
_TRAINED = "train"
RECIPE, ENVIRONMENT, STAGES, CHECKPOINTS = "recipe.yaml", "environment.json", "stages", "checkpoints"


@dataclass(frozen=True)
class Owned:
    """Recipe and fixed values of a run directory.

    Attributes:
        workdir: the run directory.
        recipe: its recipe; values that it does not name are those of `Recipe`.
        fixed: names of the values that a stage has used, such as `epochs`.
        trained: whether a training was started.
        experiment: name of the experiment that made it; None if unknown.
        data_dir: absolute path of its data sets; None if unknown.
        notes: sentences about contradictions in the run directory.
    """

    workdir: Path
    recipe: Recipe
    fixed: frozenset[str]
    trained: bool
    experiment: str | None
    data_dir: str | None
    notes: tuple[str, ...]

    @classmethod
    def read(cls, workdir: str | os.PathLike[str], default: Recipe) -> Owned | None:
        """Read a run directory.

        Args:
            workdir: the folder; it need not exist.
            default: recipe for the values that no marker names, if there is no `recipe.yaml`.

        Returns:
            None if the folder has neither a recipe nor a marker of a stage.

        Raises:
            UserError: `recipe.yaml` or a marker cannot be read.
        """
        folder = Path(workdir)
        used = _values_used(folder)
        recipe = default
        path = folder / RECIPE
        if path.is_file():
            values = read_yaml(path, "recipe file")
            if not isinstance(values, dict):
                raise UserError(f"{path} must hold named values, such as `epochs: 30`.")
            recipe = updated(Recipe(), values, str(path))
        elif not used:
            return None
        notes = []
        for name, value in used.items():
            if path.is_file() and not _same(name, _value(recipe, name), value):
                notes.append(
                    f"{path} says {name} {_told(_value(recipe, name))}, but the run was made with"
                    f" {_told(value)}, so {_told(value)} is used."
                )
            recipe = updated(recipe, {name: value}, str(folder / STAGES))
        about = _environment(folder)
        return cls(
            folder,
            recipe,
            frozenset(used),
            "learning_rate" in used,
            about.get("experiment"),
            about.get("data_dir"),
            tuple(notes),
        )

    def asked(self, recipe: Recipe, stages: Collection[str], experiment: str, own: Recipe) -> Recipe:
        """Return the recipe of a command in this run.

        In a command that only tests, flags of the data describe the test set: `--folder b --stage evaluate`
        in a run that was trained on `a` tests on `b`. The recipe's training data stay the same, also if the
        command is that of another experiment.

        Args:
            recipe: recipe of the run, with the command's flags.
            stages: stages requested by name.
            experiment: name of the command's experiment.
            own: default recipe of the command's experiment.

        Raises:
            UserError: the run belongs to another experiment, and the command does not only test.
        """
        testing = self.trained and bool(stages) and set(stages) <= _TESTING
        other = self.experiment is not None and self.experiment.partition("/")[0] != experiment
        if other and not testing:
            raise UserError(
                f"{self.workdir} is a run of the experiment {self.experiment}, not of {experiment}; choose"
                " another --workdir. (--stage evaluate alone tests it on other data.)"
            )
        if not testing:
            return recipe
        trained, named = self.recipe.data, recipe.data
        if other and named.dataset == trained.dataset:
            named = dataclasses.replace(named, dataset=own.data.dataset)
        evaluation = recipe.evaluation
        if named.dataset != trained.dataset and evaluation.test == self.recipe.evaluation.test:
            evaluation = dataclasses.replace(evaluation, test=(named.dataset,))
        for name, tested in _SOURCES.items():
            before, now = getattr(trained, name), getattr(named, name)
            if not _same(name, before, now) and getattr(evaluation, tested) is None:
                evaluation = dataclasses.replace(evaluation, **{tested: now})
        kept = {name: getattr(trained, name) for name in ("dataset", *_SOURCES)}
        return dataclasses.replace(
            recipe, data=dataclasses.replace(recipe.data, **kept), evaluation=evaluation
        )

    def changes(self, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
        """Run's and new values by name where they differ, without those of the evaluation."""
        found = {}
        for name, part in owners().items():
            before, now = _value(self.recipe, name), _value(recipe, name)
            if part != "evaluation" and not _same(name, before, now):
                found[name] = (before, now)
        return found

    def check(self, recipe: Recipe, stages: Collection[str]) -> bool:
        """Refuse a recipe that contradicts fixed values.

        Args:
            recipe: recipe of the command.
            stages: stages requested by name; empty for all.

        Returns:
            Whether the training continues for more epochs: the recipe has more of them, and the epochs done
            would be the same with it.

        Raises:
            UserError: a fixed value differs; the sentence names the flags and both values of each.
        """
        refused = {name: pair for name, pair in self.changes(recipe).items() if name in self.fixed}
        if not refused:
            return False
        if list(refused) == ["epochs"] and (not stages or _TRAINED in stages):
            before, now = refused["epochs"]
            if now > before and _grows(self.recipe, before):
                return True
            if now > before:
                raise UserError(
                    f"{self.workdir} was trained with --epochs {before}, and its learning rates were planned"
                    f" for that end, so --epochs {now} needs a new training; give it another --workdir."
                )
        hint = ""
        if self.trained and any(name in refused for name in ("dataset", *_SOURCES)):
            hint = " (To test on other images, give only --stage evaluate, with prepare if needed.)"
        raise UserError(
            f"The run in {self.workdir} has its own recipe: {told(refused)}; leave these flags out, or choose"
            f" another --workdir.{hint}"
        )


def tested_data(recipe: Recipe, name: str) -> DataRecipe:
    """Return the data recipe of a test set: the training's, with the evaluation's changes.

    Args:
        recipe: recipe of the command.
        name: name of the test set.
    """
    evaluation = recipe.evaluation
    values = {source: getattr(evaluation, tested) for source, tested in _SOURCES.items()}
    changes = {source: value for source, value in values.items() if value is not None}
    if name != recipe.data.dataset and evaluation.test_pattern is None:
        # The training's pattern is for the training set's names.
        changes["pattern"] = None
    return dataclasses.replace(recipe.data, **changes)


def is_own(recipe: Recipe, name: str) -> bool:
    """Whether a test set is the experiment's own data set, with the training's images."""
    return name == recipe.data.dataset and tested_data(recipe, name) == recipe.data


def with_absolute_places(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, so that it is valid from every folder."""
    for name in (*_PLACES, *(_SOURCES[name] for name in _PLACES if name in _SOURCES)):
        value = _value(recipe, name)
        if value is not None and not (name == "weights" and value in NAMED_WEIGHTS):
            recipe = with_value(recipe, name, os.path.abspath(os.path.expanduser(value)))
    return recipe


def differences(before: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the values that changed since a stage was run.

    Args:
        before: `fields` of the stage's marker.
        fields: new parts of a recipe, or single values by `part.name`.

    Returns:
        The former and the new value by name.
    """
    former, found = with_current_names(_flat(before)), {}
    for name, now in _flat(json.loads(json.dumps(fields, default=dataclasses.asdict))).items():
        bare = name.rpartition(".")[2]
        # Older versions without a value behaved like its default.
        value = former[name] if name in former else _value(Recipe(), bare) if bare in owners() else None
        if not _same(bare, value, now):
            found[name] = (value, now)
    return found


def told(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Describe the first three of some changed values: `--epochs was 6 and is now 12`."""
    parts = [
        f"--{name.rpartition('.')[2]} was {_told(before)} and is now {_told(now)}"
        for name, (before, now) in changes.items()
    ]
    return ", ".join(parts[:3]) + (f", and {len(parts) - 3} more" if len(parts) > 3 else "")


def fingerprint(recipe: Recipe) -> int:
    """CRC-32 of all values that decide a training, except paths, which differ between machines."""
    values = {
        name: _value(recipe, name)
        for name, part in owners().items()
        if part != "evaluation" and name not in _PLACES
    }
    return zlib.crc32(json.dumps(values).encode())


def _grows(recipe: Recipe, epochs: int) -> bool:
    """Whether a longer training of a recipe begins with exactly the steps of the shorter one."""
    training = recipe.training
    measured_alike = not training.validate_every or epochs % training.validate_every == 0
    # A cosine schedule depends on the number of epochs; the others do not.
    return training.schedule != "cosine" and measured_alike


def _values_used(folder: Path) -> dict[str, Any]:
    """Read the recipe values that stages were made with from their markers, by name."""
    markers = {path.stem: path for path in sorted((folder / STAGES).glob("*.json"))}
    markers.pop("prepare", None)
    order = [name for name in _FIRST if name in markers]
    used: dict[str, Any] = {}
    for stage in [*order, *(name for name in markers if name not in order)]:
        path = markers[stage]
        try:
            marker = json.loads(path.read_bytes())
            fields, done = marker["fields"], marker["done"]
            flat = _flat(fields)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} cannot be read ({error}); delete it to run the stage again.") from error
        if not done and not (folder / CHECKPOINTS / stage).exists():
            # Started, but stopped before it saved anything.
            continue
        for name, value in with_current_names(flat).items():
            part, _, name = name.rpartition(".")
            if owners().get(name) == part and part != "evaluation":
                used.setdefault(name, value)
    return used


def _environment(folder: Path) -> dict[str, Any]:
    """Read `experiment` and `data_dir` from `environment.json`, or from the results of older runs."""
    found: dict[str, Any] = {}
    for name in ("results.json", ENVIRONMENT):
        try:
            values = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(values, dict):
            found |= {
                key: values[key] for key in ("experiment", "data_dir") if isinstance(values.get(key), str)
            }
    return found


def _value(recipe: Recipe, name: str) -> Any:
    part = owners()[name]
    return getattr(getattr(recipe, part) if part else recipe, name)


def _same(name: str, before: Any, now: Any) -> bool:
    before, now = (list(value) if isinstance(value, tuple) else value for value in (before, now))
    if before == now:
        return True
    is_place = name in _PLACES or name.removeprefix("test_") in _PLACES
    if not is_place or not (isinstance(before, str) and isinstance(now, str)):
        return False
    return os.path.realpath(before) == os.path.realpath(now)


def _told(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else shown(value)


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten `{"model": {"head": "plain"}}` to `{"model.head": "plain"}`."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
