"""Named builders of networks, which record their arguments on each network.

So a preset can store a builder's name and arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec

import keras

P = ParamSpec("P")

# The builders and the class `SAN`, by the names that presets use.
_NAMED: dict[str, Any] = {}


def register(name: str, made_by: Callable[..., keras.Model]) -> None:
    """Register a `Builder` or a model class under a name for presets; a `Builder` registers itself."""
    _NAMED[name] = made_by


def registered(name: str) -> Any:
    """Return what is registered under a name: `build_encoder`, `build_decoder` or `SAN`."""
    return _NAMED[name]


def arguments_taken(name: str) -> Mapping[str, inspect.Parameter]:
    """Parameters of the builder or class registered under a name, without `self`."""
    made_by = _NAMED[name]
    parameters = inspect.signature(getattr(made_by, "function", made_by)).parameters
    return {name: one for name, one in parameters.items() if name != "self"}


class Builder(Generic[P]):
    """A function that builds a Keras model and records its arguments on the model.

    It has the name, signature and docstring of the function.

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
        """Pickle by name like a function; other processes import it."""
        return self.function.__qualname__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> keras.Model:
        """Build the model and record the arguments on it."""
        bound = inspect.signature(self.function).bind(*args, **kwargs)
        bound.apply_defaults()
        model = self.function(*args, **kwargs)
        # The read-only type also keeps Keras from searching it for layers.
        model._built_with = MappingProxyType(dict(bound.arguments))
        return model


def arguments_of(model: keras.Model) -> Mapping[str, Any] | None:
    """Arguments that a `Builder` built `model` with; None for other models."""
    arguments: Mapping[str, Any] | None = getattr(model, "_built_with", None)
    return arguments
