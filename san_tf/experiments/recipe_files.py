"""Recipe files: YAML that names some values of a recipe, and the recipe with these values."""

from __future__ import annotations

import dataclasses
import functools
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from san_tf.errors import UserError
from san_tf.experiments.recipe import Recipe

# Far above any file that a person writes: the bundled ones have less than 1 kB, 40 values and a depth of 3.
_MOST_BYTES, _MOST_VALUES, _DEEPEST = 1_000_000, 200_000, 20


def read_recipe_file(path: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with the values of a file.

    Raises:
        UserError: the file cannot be read, is not YAML, or see `updated`.
    """
    values = read_yaml(path, "recipe file")
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold named values, such as `epochs: 30`.")
    return updated(recipe, values, path)


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
    owner = owners()
    parts = set(owner.values()) - {""}
    flat: dict[str, Any] = {}

    def take(name: Any, value: Any) -> None:
        if name in flat:
            raise UserError(f"{source} names {name} twice; leave one out.")
        flat[name] = typed(name, value, source)

    for key, value in values.items():
        # Keys may be anything that YAML knows: numbers, dates, lists as tuples.
        if isinstance(key, str) and key in parts:
            if not isinstance(value, Mapping):
                raise UserError(f"{source}: {key} must hold named values, but it is {shown(value)}.")
            for name, entry in value.items():
                if not isinstance(name, str) or owner.get(name) != key:
                    raise UserError(
                        f"{source}: {key} has no value named {shown(name)}; --help lists the names."
                    )
                take(name, entry)
        elif isinstance(key, str) and key in owner:
            take(key, value)
        else:
            raise UserError(f"{source}: a recipe has no value named {shown(key)}; --help lists the names.")
    for name, value in flat.items():
        recipe = with_value(recipe, name, value)
    return recipe


def with_value(recipe: Recipe, name: str, value: Any) -> Recipe:
    """The recipe with another value of this name, such as `epochs`; the name of its part is not needed."""
    part = owners()[name]
    if not part:
        return dataclasses.replace(recipe, **{name: value})
    return dataclasses.replace(
        recipe, **{part: dataclasses.replace(getattr(recipe, part), **{name: value})}
    )


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
        fits = all(isinstance(entry, str) for entry in entries)
        return (tuple(entries) if fits else _UNFIT), "names of data sets"
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
