"""Registers your own losses and backbones by name, for recipes, `SAN` and `build_encoder`.

It imports nothing heavy, so that a recipe can be checked before TensorFlow starts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from san_tf.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class OwnBackbone(NamedTuple):
    """A registered backbone: the function that builds its stages, and its default decoder."""

    stages: Callable[..., Any]
    decoder: Literal["paper", "light"]


LOSSES: dict[str, Callable[..., Any]] = {}
BACKBONES: dict[str, OwnBackbone] = {}


def register_loss(name: str) -> Callable[[Function], Function]:
    """Register a loss on the embedding, to use by name instead of the triplet loss.

    The function takes `label` `(B,)` int32 (-1: a row without identity), `embedding` `(B, D)` float32 and the
    `margin`. It returns a float32 scalar, 0 for a batch without usable rows. `SAN(triplet=name)` and
    `--triplet name` use it with the weight of the triplet loss.

    Args:
        name: letters, digits, `_`, `-` and `.`; registering a name again replaces its function.

    Raises:
        UserError: the name is invalid or already used by this package.

    Example:
        >>> @register_loss("centre")
        ... def centre(label, embedding, margin):
        ...     return tf.reduce_mean(tf.square(embedding))
        >>> san = SAN(encoder, decoder, triplet="centre")
    """
    own = ("batch-hard", "soft-margin", "circle")
    return _registrar(name, "loss", own, LOSSES, lambda function: function)


def register_backbone(
    name: str, decoder: Literal["paper", "light"] = "light"
) -> Callable[[Function], Function]:
    """Register a backbone under a name for `build_encoder(backbone=name)` and `--backbone name`.

    The function takes the image tensor `(B, H, W, 3)`, normalised as by `san_tf.normalization.normalize`, and
    the last stride, 1 or 2. It returns four feature maps at 1/4, 1/8, 1/16 and 1/16 or 1/32 (by the last
    stride) of the image size.

    Args:
        name: letters, digits, `_`, `-` and `.`; registering a name again replaces its function.
        decoder: decoder to use if a recipe names none.

    Raises:
        UserError: the name is invalid or already used by this package.

    Example:
        >>> @register_backbone("tiny")
        ... def tiny(image, last_stride):
        ...     maps, x = [], keras.layers.Conv2D(8, 3, 2, "same")(image)
        ...     for width, stride in ((8, 2), (16, 2), (32, 2), (64, last_stride)):
        ...         maps.append(x := keras.layers.Conv2D(width, 3, stride, "same", activation="relu")(x))
        ...     return maps
        >>> encoder = build_encoder("tiny", (128, 64, 3), num_classes=10, weights=None)
    """
    return _registrar(name, "backbone", (), BACKBONES, lambda function: OwnBackbone(function, decoder))


def _registrar(
    name: str, what: str, taken: Sequence[str], registry: dict[str, Any], entry: Callable[[Any], Any]
) -> Callable[[Function], Function]:
    if not _NAME.fullmatch(name) or name in taken or name.startswith(("tfa.", "keras.")):
        raise UserError(
            f"A {what} cannot be registered as {name!r}: names have letters, digits, '_', '-' and '.', and "
            "are not those of this package, of TensorFlow Addons (tfa.) or of Keras; choose another."
        )

    def register(function: Function) -> Function:
        registry[name] = entry(function)
        return function

    return register


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register losses and backbones.

    Args:
        names: module names, such as `my_losses` for `my_losses.py` in the current folder.

    Raises:
        UserError: a module cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"The module {name!r} cannot be imported ({type(error).__name__}: {error}); give its name as "
                "in an import statement, and run the command where Python finds it."
            ) from error
