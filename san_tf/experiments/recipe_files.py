"""Recipe files: YAML that names some values of a recipe, and the recipe with these values.

Those in the folder `recipes` are shipped with the package, and are taken by name: `--config bot`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from san_tf.command_line import nearest
from san_tf.errors import UserError
from san_tf.experiments.recipe import Recipe

# Recipes by name, as `--config` takes them.
# Far above any file that a person writes: the bundled ones have less than 1 kB, 40 values and a depth of 3.
_SHIPPED = Path(__file__).parent / "recipes"
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 200_000, 20


def read_recipe_file(name: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with the values of a file.

    Args:
        name: of a shipped recipe, such as `bot`, or the path of a file. A file in this folder that has the
            name of a shipped recipe is given as `./bot`.
        recipe: the recipe to start from.

    Raises:
        UserError: there is neither, the file cannot be read, is not YAML, or see `updated`.
    """
    path = _recipe_path(name)
    values = read_yaml(path, "recipe file")
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold named values, such as `epochs: 30`.")
    return updated(recipe, values, path)


def _recipe_path(name: str) -> str:
    shipped = {path.stem: path for path in _SHIPPED.glob("*.yaml")}
    if name in shipped:
        if Path(name).is_file():
            raise UserError(
                f"{name} is a recipe of this package and a file in this folder; give the file as ./{name}, or"
                " call the command in another folder."
            )
        return str(shipped[name])
    path = Path(name)
    # A word alone, or with the ending that shipped recipes have: not the path of a file that should be there.
    if not path.exists() and path.name == name and path.suffix in ("", ".yaml", ".yml"):
        near = nearest(path.stem, shipped)
        names = ", ".join(sorted(shipped))
        hint = f"did you mean {near[0]}?" if near else f"those of this package are {names}."
        raise UserError(f"There is no recipe file {name}, and no recipe of that name in this package; {hint}")
    return name


def shipped_recipes() -> dict[str, str]:
    """What each recipe of this package is, by its name: the first sentence of its file."""
    files = sorted(_SHIPPED.glob("*.yaml"))
    return {file.stem: file.read_text().partition("\n")[0].removeprefix("# ") for file in files}


def read_yaml(path: str | os.PathLike[str], kind: str) -> Any:
    """Read a small YAML (or JSON) file that somebody wrote.

    Args:
        path: of the file.
        kind: what it should be, for the errors: "recipe file".

    Raises:
        UserError: it cannot be read, is not UTF-8 text, is not YAML, names a value twice, or is larger,
            deeper or (with its aliases written out) longer than any file of its kind.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The {kind} {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    if len(content) > _MOST_BYTES:
        raise UserError(f"{path} is larger than {_MOST_BYTES // 1_000_000} MB, so it is not a {kind}.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    try:
        _check_nesting(text, path, kind)
        return yaml.load(text, _Loader)
    except UserError:
        raise
    # Numbers of thousands of digits and dates such as 2001-13-01 are ValueErrors of Python, not of YAML.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {_first_line(error)}.") from error


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice in one mapping, of which YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.constructor.ConstructorError(
                        f"it names {shown(key.value)} twice (line {key.start_mark.line + 1})"
                    )
                names.add(key.value)
                # Names are text: YAML 1.1 reads the plain word `on`, which is a name of ours, as `true`.
                key.tag = "tag:yaml.org,2002:str"
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


def _check_nesting(text: str, path: Any, kind: str) -> None:
    """Refuse what would take long or run out of stack, before anything is built of it."""
    # How many values each anchor stands for, with what its own aliases stand for.
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise UserError(f"{path} is not YAML: the alias *{shown(event.anchor)} has no value yet.")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            total += 1
            open_nodes.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before + 1
        if len(open_nodes) > _DEEPEST or total > _MOST_VALUES:
            raise UserError(
                f"{path} is nested deeper than {_DEEPEST} or holds more than {_MOST_VALUES:,} values with its"
                f" aliases written out, so it is not a {kind}."
            )


def _first_line(error: BaseException) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")


def shown(value: Any) -> str:
    """A value as an error names it: at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def updated(recipe: Recipe, values: Mapping[Any, Any], source: str) -> Recipe:
    """Return `recipe` with the values of a recipe file.

    Args:
        recipe: the recipe to start from.
        values: nested as the dataclasses are (`{"training": {"epochs": 3}}`) or flat (`{"epochs": 3}`).
        source: the file's name, for error messages.

    Raises:
        UserError: a key that no part of the recipe has, one that is named twice, or a value of another type.

    Example:
        >>> updated(Recipe(), {"epochs": 3}, "recipe.yaml").training.epochs
        3
    """
    owner = owners() | dict.fromkeys(_FORMER, "training")
    parts = set(owner.values()) - {""}
    flat: dict[str, Any] = {}

    def take(name: Any, value: Any) -> None:
        if name in flat:
            raise UserError(f"{source} names {name} twice; leave one out.")
        if name in _FORMER and not isinstance(value, bool):
            raise UserError(f"{source}: {name} must be true or false, but it is {shown(value)}.")
        flat[name] = value if name in _FORMER else typed(name, value, source)

    for key, value in values.items():
        # Keys may be anything that YAML knows: numbers, dates, lists as tuples.
        if isinstance(key, str) and key in parts:
            if not isinstance(value, Mapping):
                raise UserError(f"{source}: {key} must hold named values, but it is {shown(value)}.")
            for name, entry in value.items():
                if not isinstance(name, str) or owner.get(name) != key:
                    near = nearest(str(name), [known for known in owner if owner[known] == key])
                    raise UserError(f"{source}: {key} has no value named {shown(name)}; {_meant(near)}")
                take(name, entry)
        elif isinstance(key, str) and key in owner:
            take(key, value)
        else:
            near = nearest(str(key), [*owners(), *parts])
            raise UserError(f"{source}: a recipe has no value named {shown(key)}; {_meant(near)}")
    if _FORMER & flat.keys() and "method" in flat:
        raise UserError(f"{source} names method and baseline, its name of older versions; leave one out.")
    for name, value in with_current_names(flat).items():
        recipe = with_value(recipe, name, value)
    return recipe


def _meant(near: Sequence[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else "--help lists the names."


# Names that older versions wrote into recipes and markers, and that recipe files may still have.
_FORMER = frozenset({"baseline"})


def with_current_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name (`epochs` or `training.epochs`), with those of older versions under the names of today.

    `baseline: true` is `method: both`. `false` is `san`, or, where the same values say that no decoder has
    anything to learn, the baseline, which is what was trained then.
    """
    values = dict(flat)
    for part, losses in (("training.", "losses."), ("", "")):
        if f"{part}baseline" not in values:
            continue
        both = values.pop(f"{part}baseline")
        of_decoder = ("lambda_reconstruction", "lambda_texture_triplet")
        weights = [values.get(losses + name, 1.0) for name in of_decoder]
        values[f"{part}method"] = "both" if both else "san" if any(weights) else "baseline"
    return values


def with_value(recipe: Recipe, name: str, value: Any) -> Recipe:
    """The recipe with another value of this name, such as `epochs`; the name of its part is not needed."""
    part = owners()[name]
    if not part:
        return dataclasses.replace(recipe, **{name: value})
    return dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **{name: value})})


@functools.cache
def owners() -> dict[str, str]:
    """The part that each value of a recipe belongs to, by its name: `{"epochs": "training", "seed": ""}`."""
    found: dict[str, str] = {}
    for item in dataclasses.fields(Recipe):
        part = getattr(Recipe(), item.name)
        if dataclasses.is_dataclass(part):
            found.update({entry.name: item.name for entry in dataclasses.fields(part)})
        else:
            found[item.name] = ""
    return found


@functools.cache
def hints() -> dict[str, Any]:
    """The type of each value of a recipe, by its name."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(Recipe):
        part = getattr(Recipe(), item.name)
        if dataclasses.is_dataclass(part):
            found.update(get_type_hints(type(part)))
    return {**found, "seed": int}


def typed(name: str, value: Any, source: str) -> Any:
    """Hold a value to the type that the recipe's value of this name has.

    Whole numbers pass for floats, and text such as `8e-4`, which YAML does not take for a number.

    Raises:
        UserError: it is of another type, or not one of the choices.
    """
    hint = hints()[name]
    fitting, wanted = _fitting(value, hint)
    if fitting is _UNFIT:
        raise UserError(f"{source}: {name} must be {wanted}, but it is {shown(value)}.")
    return fitting


_UNFIT = object()


def _fitting(value: Any, hint: Any) -> tuple[Any, str]:
    """The value as the type `hint`, or `_UNFIT`; and what is wanted, in words."""
    kinds = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = (kind for kind in kinds if kind is not type(None))
        fitting, wanted = _fitting(value, kind)
        return (None if value is None else fitting), f"{wanted}, or null"
    if get_origin(hint) is Literal:
        # `in` alone would take True for 1.
        fits = any(type(value) is type(choice) and value == choice for choice in kinds)
        return (value if fits else _UNFIT), f"one of {', '.join(map(str, kinds))}"
    if get_origin(hint) is tuple and Ellipsis in kinds:
        entries = value if isinstance(value, (list, tuple)) else [value]
        fits = all(type(entry) is kinds[0] for entry in entries)
        return (tuple(entries) if fits else _UNFIT), (
            "names of data sets" if kinds[0] is str else "whole numbers"
        )
    if get_origin(hint) is tuple:
        fits = isinstance(value, (list, tuple)) and len(value) == len(kinds)
        fits = fits and all(type(entry) is int for entry in value)
        return (tuple(value) if fits else _UNFIT), f"{len(kinds)} whole numbers"
    if hint is float:
        if type(value) in (int, float, str):
            try:
                return float(value), "a number"
            except (ValueError, OverflowError):
                pass
        return _UNFIT, "a number"
    words = {int: "a whole number", bool: "true or false", str: "text"}
    return (value if type(value) is hint else _UNFIT), words[hint]
