"""Losses and backbones of your own, by the names that recipes, `SAN` and `build_encoder` take.

Nothing heavy is imported here, so that a recipe is checked before TensorFlow starts.
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
    """A registered backbone: what makes its stages, and the decoder of its size."""

    stages: Callable[..., Any]
    decoder: Literal["paper", "light"]


LOSSES: dict[str, Callable[..., Any]] = {}
BACKBONES: dict[str, OwnBackbone] = {}


def register_loss(name: str) -> Callable[[Function], Function]:
    """Register a loss on the embedding, to stand in for the triplet loss under a name.

    The function takes `label` `(B,)` int32 (-1: a row without identity), `embedding` `(B, D)` float32 and the
    `margin`, and returns a float32 scalar, 0 where a batch has nothing to judge. `SAN(triplet=name)` and
    `--triplet name` use it with the weight of the triplet loss.

    Args:
        name: letters, digits, `_`, `-` and `.`; registered again, the newer function counts.

    Raises:
        UserError: the name cannot be used.

    Example:
        >>> @register_loss("centre")
        ... def centre(label, embedding, margin):
        ...     return tf.reduce_mean(tf.square(embedding))
        >>> san = SAN(encoder, decoder, triplet="centre")
    """
    return _registrar(name, "loss", ("batch-hard", "soft-margin"), LOSSES, lambda function: function)


def register_backbone(
    name: str, decoder: Literal["paper", "light"] = "light"
) -> Callable[[Function], Function]:
    """Register a backbone under a name for `build_encoder(backbone=name)` and `--backbone name`.

    The function takes the image tensor `(B, H, W, 3)`, normalised as `san_tf.normalization.normalize` does,
    and the last stride, 1 or 2, and returns four maps at 1/4, 1/8, 1/16 and, by the last stride, 1/16 or 1/32
    of the image.

    Args:
        name: letters, digits, `_`, `-` and `.`; registered again, the newer function counts.
        decoder: which decoder is of its size where a recipe names none.

    Raises:
        UserError: the name cannot be used.

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
    """Import the modules that register losses and backbones.

    Args:
        names: such as `my_losses`, for `my_losses.py` in the folder you are in.

    Raises:
        UserError: one cannot be imported.
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
