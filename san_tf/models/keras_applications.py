"""Networks of `keras.applications` by name (`keras:EfficientNetV2B0`), with their preprocessing."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import keras

from san_tf.errors import UserError
from san_tf.models.input_adapter import Preprocessing

PREFIX = "keras:"


def application_names() -> list[str]:
    """List the networks of the installed version of Keras."""
    members = inspect.getmembers(keras.applications, inspect.isfunction)
    return [name for name, _ in members if name[0].isupper()]


def is_application(backbone: object) -> bool:
    """Whether a backbone is the name of a network of `keras.applications`, with the prefix `keras:`."""
    return isinstance(backbone, str) and backbone.startswith(PREFIX)


def check_application(backbone: str) -> str:
    """Check that the network exists and return its name without the prefix.

    Raises:
        UserError: there is no such network.
    """
    name, names = backbone.removeprefix(PREFIX), application_names()
    if name not in names:
        raise UserError(f"keras.applications has no {name!r}; it has {', '.join(names)}.")
    return name


def build_application(
    backbone: str, input_shape: tuple[int, int, int], weights: str | os.PathLike[str] | None
) -> tuple[keras.Model, Preprocessing]:
    """Build a network of `keras.applications` without its classifier.

    Args:
        backbone: `keras:` and a name of `application_names`.
        input_shape: `(height, width, 3)`.
        weights: "imagenet", downloaded by Keras once, a file that Keras downloaded ("..._notop.h5"), or None.

    Returns:
        The network, and its preprocessing function from RGB pixels of 0-255 to its input.

    Raises:
        UserError: there is no such network, its weights are not available, or it cannot take this size.

    Example:
        >>> model, preprocessing = build_application("keras:ResNet50", (256, 128, 3), None)
    """
    name = check_application(backbone)
    build = getattr(keras.applications, name)
    weights = None if weights is None else str(weights)
    try:
        model = build(include_top=False, weights=weights, input_shape=input_shape)
    except Exception as error:  # Keras raises bare Exception when an address cannot be reached
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        address = re.search(r"https?://\S+?\.h5", str(error))
        if weights == "imagenet" and address is not None:
            raise UserError(
                f"The ImageNet weights of {name} could not be downloaded; put {address[0]} into "
                f"{Path(os.environ.get('KERAS_HOME', '~/.keras')).expanduser() / 'models'}, or pass the "
                "file's path as weights, or train from scratch with weights=None."
            ) from error
        raise UserError(f"{name} of keras.applications cannot be built: {reason}") from error
    return model, sys.modules[build.__module__].preprocess_input
