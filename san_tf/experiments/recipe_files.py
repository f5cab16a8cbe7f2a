"""Recipe files: YAML that names some values of a recipe, and the recipe with these values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from san_tf.errors import UserError
from san_tf.experiments.recipe import Recipe


def read_recipe_file(path: str, recipe: Recipe) -> Recipe:
    """Return `recipe` with the values of a file.

    Raises:
        UserError: the file cannot be read, is not YAML, or see `updated`.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise UserError(f"The recipe file {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold named values, such as `epochs: 30`.")
    return updated(recipe, values, path)


def updated(recipe: Recipe, values: dict[str, Any], source: str) -> Recipe:
    """Return `recipe` with the values of a recipe file.

    Args:
        recipe: the recipe to start from.
        values: nested as the dataclasses are (`{"training": {"epochs": 3}}`) or flat (`{"epochs": 3}`).
        source: the file's name, for error messages.

    Raises:
        UserError: a key that no part of the recipe has, or a value of another type.

    Example:
        >>> updated(Recipe(), {"epochs": 3}, "recipe.yaml").training.epochs
        3
    """
    parts = {item.name for item in dataclasses.fields(recipe)} - {"seed"}
    owner = {item.name: part for part in parts for item in dataclasses.fields(getattr(recipe, part))}
    for key, value in values.items():
        if key in parts:
            if not isinstance(value, dict):
                raise UserError(f"{source}: {key} must hold named values, but it is {value!r}.")
            unknown = sorted(name for name in value if owner.get(name) != key)
            if unknown:
                raise UserError(f"{source}: {key} has no value named {unknown[0]!r}; --help lists the names.")
            recipe = updated(recipe, value, source)
        elif key in owner:
            part = getattr(recipe, owner[key])
            typed = _typed(key, value, getattr(part, key), source)
            recipe = dataclasses.replace(recipe, **{owner[key]: dataclasses.replace(part, **{key: typed})})
        elif key == "seed":
            recipe = dataclasses.replace(recipe, seed=_typed(key, value, recipe.seed, source))
        else:
            raise UserError(f"{source}: a recipe has no value named {key!r}; --help lists the names.")
    return recipe


def _typed(key: str, value: Any, current: Any, source: str) -> Any:
    """Hold a value from a file to the type of the value it replaces."""
    if isinstance(current, tuple) and key in ("train", "test"):
        names = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"{source}: {key} must be names of data sets, but it is {value!r}.")
        return tuple(names)
    if isinstance(current, tuple) and isinstance(value, (list, tuple)):
        if len(value) != len(current) or not all(isinstance(item, int) for item in value):
            raise UserError(f"{source}: {key} must be {len(current)} whole numbers, but it is {value!r}.")
        return tuple(value)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, float) and isinstance(value, str):
        # YAML reads 8e-4 as text; a person who writes it means a number.
        try:
            return float(value)
        except ValueError:
            pass
    if current is not None and type(value) is not type(current) and value is not None:
        raise UserError(f"{source}: {key} must be of the kind of {current!r}, but it is {value!r}.")
    return value
