"""Functions that build networks and remember with what: so that a network can be saved as a preset."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec

import keras

P = ParamSpec("P")


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


class EncoderBuilder(Builder[P]):
    """`Builder` of encoders, with `from_preset` beside it."""

    def from_preset(
        self,
        preset: str,
        num_classes: int | None = None,
        *,
        load_weights: bool = True,
        seed: int | None = None,
        **overrides: Any,
    ) -> keras.Model:
        """See `san_tf.models.from_preset.encoder_from_preset`."""
        # It builds with this builder.
        from san_tf.models.from_preset import encoder_from_preset

        return encoder_from_preset(preset, num_classes, load_weights=load_weights, seed=seed, **overrides)


def arguments_of(model: keras.Model) -> Mapping[str, Any] | None:
    """With what a `Builder` built `model`; None for a model made otherwise, or read from a file."""
    arguments: Mapping[str, Any] | None = getattr(model, "_built_with", None)
    return arguments
