"""Builds the networks of a recipe for training, evaluation, painting and export."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.experiments.recipe import NAMED_WEIGHTS, Recipe
from san_tf.models.backbones import decoder_for
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import Head, build_encoder
from san_tf.models.presets import DECODERS
from san_tf.models.pretrained import is_of_applications, load_body
from san_tf.models.san import SANPG
from san_tf.models.weights_file import SUFFIX, read_record


def mirror_map_of(recipe: Recipe) -> np.ndarray | None:
    """Return the map that mirrors textures with their images; None for that of this package's body.

    Left and right of the person are unknown in another layout. Such textures are not mirrored, as in the
    public code. So for a mirrored image the decoder's target is the unmirrored person.

    Returns:
        None, or `(T, T, 2)` int64 that leaves every texel in its place.
    """
    if recipe.generator.texture_layout == "san_tf":
        return None
    return np.moveaxis(np.indices((recipe.texture_size, recipe.texture_size)), 0, -1)


# Offsets of seeds: the decoders of SAN-PG and SAN start differently, and independently of the encoder.
_GENERATOR_STREAM, _DECODER_STREAM = 1000, 2000


def encoder_of(recipe: Recipe, num_classes: int, weights: bool = True) -> keras.Model:
    """Build the recipe's encoder with its initial weights, which SAN and its baseline share.

    Weights of another run's encoder are loaded without the classifier, since its identities differ.

    Args:
        recipe: recipe of the experiment.
        num_classes: number of training identities.
        weights: whether to load the pretrained weights that the recipe names; not needed if trained weights
            are loaded later.

    Raises:
        UserError: a value is impossible for an encoder, or the weights are not available.
    """
    mixstyle = recipe.model.mixstyle
    return _encoder(recipe, num_classes, recipe.model.head, recipe.seed, weights, mixstyle)


def _encoder(
    recipe: Recipe, num_classes: int, head: Head, seed: int, weights: bool, mixstyle: float = 0.0
) -> keras.Model:
    start = encoder_to_start_from(recipe) if weights else None
    encoder = build_encoder(
        recipe.model.backbone,
        (*recipe.data.image_size, 3),
        num_classes,
        head=head,
        pooling=recipe.model.pooling,
        classifier=recipe.model.classifier,
        classifier_scale=_or(recipe.model.classifier_scale, 64.0),
        classifier_margin=_or(
            recipe.model.classifier_margin, 0.35 if recipe.model.classifier == "cosface" else 0.5
        ),
        last_stride=recipe.model.last_stride,
        stride_on=recipe.model.stride_on,
        pool_padding=recipe.model.pool_padding,
        weights=recipe.model.weights if weights and start is None else None,
        seed=seed,
        mixstyle=mixstyle,
    )
    if start is not None:
        load_body(encoder, start)
    return encoder


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def encoder_to_start_from(recipe: Recipe) -> Path | None:
    """Return the encoder file of another run if the recipe's `weights` names one, else None.

    Raises:
        UserError: the file is missing or damaged.
    """
    named = recipe.model.weights
    if named is None or named in NAMED_WEIGHTS or is_of_applications(named) or not named.endswith(SUFFIX):
        return None
    return None if read_record(named).trunk else Path(named)


def decoder_of(recipe: Recipe, encoder: keras.Model) -> keras.Model:
    """Build the decoder for an encoder of the recipe; the backbone gives the default size."""
    preset = DECODERS[recipe.model.decoder or decoder_for(recipe.model.backbone)]
    shapes = [stage.shape for stage in encoder.output["stages"]]
    size, seed = recipe.texture_size, recipe.seed + _DECODER_STREAM
    branches = {"skips": recipe.model.skips, "sketch": recipe.model.sketch, "palette": recipe.model.palette}
    return build_decoder(shapes, **preset | branches | {"texture_size": size, "seed": seed})


def texture_generator_of(recipe: Recipe, weights: bool = True) -> SANPG:
    """Build SAN-PG: encoder and decoder of the recipe, trained by reconstruction only."""
    # It classifies no identities, but an encoder needs at least one class. Its styles are not mixed, because
    # it has to paint the colours of each image.
    encoder = _encoder(recipe, 1, "plain", recipe.seed + _GENERATOR_STREAM, weights)
    return SANPG(encoder, decoder_of(recipe, encoder))


def start_from_generator(
    encoder: keras.Model, decoder: keras.Model | None, recipe: Recipe, path: Path
) -> None:
    """Load the weights of a texture generator of the recipe into an encoder and its decoder.

    The encoder's head is not changed, because a generator has none.

    Args:
        encoder: encoder of the recipe.
        decoder: decoder of the recipe, or None.
        recipe: recipe of the experiment.
        path: `.weights.h5` file of the generator.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    # The generator shares the encoder's layers, so the weights are loaded into the encoder.
    load_weights(SANPG(encoder, decoder or decoder_of(recipe, encoder)), path)


def save_weights(model: keras.Model, path: Path) -> None:
    """Write a model's weights as a Keras `.weights.h5` file, whole or not at all."""
    with atomic_file(path) as temporary:
        model.save_weights(temporary)


def load_weights(model: keras.Model, path: Path) -> None:
    """Load weights that `save_weights` wrote.

    Raises:
        UserError: the file is missing, damaged, or of another architecture.
    """
    try:
        model.load_weights(path)
    except FileNotFoundError as error:
        raise UserError(f"The weights {path} do not exist; run the stage that trains them first.") from error
    except UserError as error:
        raise UserError(
            f"The weights {path} do not fit this recipe's {model.name}, or are damaged: {error} Use the"
            " recipe they were trained with, or another --workdir."
        ) from error
