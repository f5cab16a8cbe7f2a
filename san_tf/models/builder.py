"""Functions that build networks, known by name, which note on each network what it was built with.

A preset can then name a builder and its arguments without knowing the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec

import keras

P = ParamSpec("P")

# What presets are made of, by name: the builders, and the class `SAN`.
_NAMED: dict[str, Any] = {}


def register(name: str, made_by: Callable[..., keras.Model]) -> None:
    """Let presets name what makes a network: a `Builder`, which registers itself, or a class of models."""
    _NAMED[name] = made_by


def registered(name: str) -> Any:
    """What was registered under a name: `build_encoder`, `build_decoder` and `SAN`, by `san_tf.models`."""
    return _NAMED[name]


def arguments_taken(name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of what was registered under a name."""
    made_by = _NAMED[name]
    parameters = inspect.signature(getattr(made_by, "function", made_by)).parameters
    return {name: one for name, one in parameters.items() if name != "self"}


class Builder(Generic[P]):
    """A function that builds a Keras model and notes its arguments on it.

    It is called like the function and has its name, signature and docstring.

    Example:
        >>> @Builder
        ... def build_dense(units: int = 8) -> keras.Model:
        ...     return keras.Sequential([keras.layers.Dense(units)])
        >>> arguments_of(build_dense(4))
        {'units': 4}
    """

    def __init__(self, function: Callable[P, keras.Model]) -> None:
        self.function = function
        functools.update_wrapper(self, function)
        register(function.__name__, self)

    def __reduce__(self) -> str:
        """Pickle by name, as functions are; other processes import it."""
        return self.function.__qualname__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> keras.Model:
        """Call the function."""
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        bound.apply_defaults()
        model = self.function(*args, **kwargs)
        # Read-only, which also keeps Keras from looking for layers in it.
        model._built_with = MappingProxyType(dict(bound.arguments))
        return model


def arguments_of(model: keras.Model) -> Mapping[str, Any] | None:
    """With what a `Builder` built `model`; None for a model made otherwise, or read from a file."""
    arguments: Mapping[str, Any] | None = getattr(model, "_built_with", None)
    return arguments
