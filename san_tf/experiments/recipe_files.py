"""Reads recipe files: YAML with some values of a recipe.

The package ships the files in the folder `recipes`; `--config bot` takes one by name.
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

_SHIPPED = Path(__file__).parent / "recipes"
# Limits far above any handwritten file: the shipped ones have less than 1 kB, 40 values and a depth of 3.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 200_000, 20


def read_recipe_file(name: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with the values of a file.

    Args:
        name: name of a shipped recipe, such as `bot`, or path of a file. If the current folder has a file
            with that name, `./bot` is the file.
        recipe: recipe to start from.

    Raises:
        UserError: there is no such recipe or file, the file cannot be read or is not YAML, or see `updated`.
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
                " run the command in another folder."
            )
        return str(shipped[name])
    path = Path(name)
    # A single word, or one with the ending of shipped recipes, is probably a name and not a path.
    if not path.exists() and path.name == name and path.suffix in ("", ".yaml", ".yml"):
        near = nearest(path.stem, shipped)
        names = ", ".join(sorted(shipped))
        hint = f"did you mean {near[0]}?" if near else f"those of this package are {names}."
        raise UserError(f"There is no recipe file {name}, and no recipe of that name in this package; {hint}")
    return name


def shipped_recipes() -> dict[str, str]:
    """Descriptions of the shipped recipes by name, from the first lines of their files."""
    files = sorted(_SHIPPED.glob("*.yaml"))
    return {file.stem: file.read_text().partition("\n")[0].removeprefix("# ") for file in files}


def read_yaml(path: str | os.PathLike[str], kind: str) -> Any:
    """Read a small handwritten YAML (or JSON) file.

    Args:
        path: path of the file.
        kind: kind of the file, for errors: "recipe file".

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, is not YAML, names a value twice, or is too
            large, too deeply nested, or too long with its aliases written out.
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
    # Numbers of thousands of digits and dates such as 2001-13-01 raise Python's ValueError, not YAML's.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {_first_line(error)}.") from error


class _Loader(yaml.SafeLoader):
    """Refuses duplicate names in a mapping, of which YAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.constructor.ConstructorError(
                        f"it names {shown(key.value)} twice (line {key.start_mark.line + 1})"
                    )
                names.add(key.value)
                # Read names as text: YAML 1.1 reads the plain word `on`, one of our names, as `true`.
                key.tag = "tag:yaml.org,2002:str"
        result: dict[Any, Any] = super().construct_mapping(node, deep)
        return result


def _check_nesting(text: str, path: Any, kind: str) -> None:
    """Refuse text that would take too long or overflow the stack, before building anything from it."""
    # Number of values of each anchor, with its own aliases written out.
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
    """Shorten a value to 60 characters for an error."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def updated(recipe: Recipe, values: Mapping[Any, Any], source: str) -> Recipe:
    """Return `recipe` with the values of a recipe file.

    Args:
        recipe: recipe to start from.
        values: nested like the dataclasses (`{"training": {"epochs": 3}}`) or flat (`{"epochs": 3}`).
        source: name of the file, for error messages.

    Raises:
        UserError: a key is unknown or named twice, or a value has a wrong type.

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
        # YAML keys need not be text: they may be numbers, dates, or lists (as tuples).
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


# Names in recipes and markers of older versions, still allowed in recipe files.
_FORMER = frozenset({"baseline"})


def with_current_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Rename values of older versions to their current names.

    `baseline: true` becomes `method: both`, and `false` becomes `san`. If both weights of the decoder's
    losses are 0 in the same values, `false` becomes `baseline`, which older versions trained then.

    Args:
        flat: values by name, `epochs` or `training.epochs`.
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
    """Return the recipe with another value.

    Args:
        recipe: recipe to start from.
        name: name of the value without its part, such as `epochs`.
        value: new value.
    """
    part = owners()[name]
    if not part:
        return dataclasses.replace(recipe, **{name: value})
    return dataclasses.replace(recipe, **{part: dataclasses.replace(getattr(recipe, part), **{name: value})})


@functools.cache
def owners() -> dict[str, str]:
    """Part of each recipe value by the value's name: `{"epochs": "training", "seed": ""}`."""
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
    """Type of each recipe value by name."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(Recipe):
        part = getattr(Recipe(), item.name)
        if dataclasses.is_dataclass(part):
            found.update(get_type_hints(type(part)))
    return {**found, "seed": int}


def typed(name: str, value: Any, source: str) -> Any:
    """Check a value against the type of the recipe value of this name, and return it.

    Whole numbers are accepted as floats, and so is text such as `8e-4`, which YAML does not read as a number.

    Args:
        name: name of the recipe value.
        value: value to check.
        source: where the value comes from, for errors.

    Raises:
        UserError: the value has another type, or is not one of the choices.
    """
    hint = hints()[name]
    fitting, wanted = _fitting(value, hint)
    if fitting is _UNFIT:
        raise UserError(f"{source}: {name} must be {wanted}, but it is {shown(value)}.")
    return fitting


_UNFIT = object()


def _fitting(value: Any, hint: Any) -> tuple[Any, str]:
    """Return the value as the type `hint`, or `_UNFIT`, and the wanted type in words."""
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
