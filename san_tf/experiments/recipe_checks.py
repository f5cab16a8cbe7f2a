"""What a recipe's values have to be, so that a mistake is told before anything runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from san_tf.addons import OPTIMIZERS, TRIPLET_LOSSES, check_choice
from san_tf.errors import UserError

if TYPE_CHECKING:
    from san_tf.experiments.recipe import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError` at the first value that cannot work."""
    check_choice("optimizer", recipe.training.optimizer, "adam", OPTIMIZERS)
    if recipe.losses.triplet != "soft-margin":
        check_choice("triplet", recipe.losses.triplet, "batch-hard", TRIPLET_LOSSES)
    _check_size(recipe)
    _check_validation(recipe)
    _check_textures(recipe)
    for name, value in (
        ("identities_per_batch", recipe.data.identities_per_batch),
        ("images_per_identity", recipe.data.images_per_identity),
    ):
        if value < 2:
            raise UserError(f"{name} is {value}, but a triplet needs at least 2; raise it.")
    for part in (recipe.data, recipe.losses, recipe.training, recipe.generator, recipe.evaluation):
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            if isinstance(value, (int, float)) and value < 0:
                raise UserError(f"{item.name} is {value}, but it cannot be negative.")
    for name in ("translation", "flip", "erasing", "jitter"):
        if getattr(recipe.data, name) > 1:
            raise UserError(f"{name} is {getattr(recipe.data, name)}, but a probability is at most 1.")
    for name, value in (
        ("epochs", recipe.training.epochs),
        ("generator_epochs", recipe.generator.generator_epochs),
        ("generator_batch", recipe.generator.generator_batch),
        ("repeats", recipe.evaluation.repeats),
        ("k1", recipe.evaluation.k1),
        ("k2", recipe.evaluation.k2),
    ):
        if value < 1:
            raise UserError(f"{name} is {value}, but it must be at least 1.")
    if recipe.training.accumulation < 1 or recipe.training.ema >= 1:
        raise UserError(
            f"accumulation is {recipe.training.accumulation} and ema {recipe.training.ema}, but the one is"
            " at least 1 and the other below 1."
        )
    if recipe.training.ema and recipe.training.validate_every:
        raise UserError(
            "ema and validate_every exclude each other: the one keeps the average of the last weights, the"
            " other the weights with the highest mAP; leave one out."
        )
    if recipe.training.optimizer != "adam" and (recipe.training.accumulation > 1 or recipe.training.ema):
        raise UserError(
            "accumulation and ema are of the optimizer adam; leave them out with"
            f" {recipe.training.optimizer}."
        )
    if recipe.evaluation.protocol == "vehicleid" and recipe.evaluation.rerank:
        raise UserError("The protocol vehicleid draws its queries anew each time; leave --rerank out.")
    if recipe.evaluation.lambda_value > 1:
        raise UserError(f"lambda_value is {recipe.evaluation.lambda_value}, but a weight is at most 1.")


def _check_size(recipe: Recipe) -> None:
    height, width = recipe.data.image_size
    if recipe.with_decoder and (height != 2 * width or height % 32):
        raise UserError(
            f"image_size {height} {width} does not fit a decoder: the height must be twice the width and"
            " a multiple of 32, such as 256 128; or leave the decoder out with --lambda_reconstruction 0"
            " --lambda_texture_triplet 0."
        )
    if min(height, width) < 32 or height % 32 or width % 32:
        raise UserError(
            f"image_size {height} {width} does not fit: both must be multiples of 32, such as 256 256."
        )


def _check_validation(recipe: Recipe) -> None:
    if not recipe.data.validation_identities:
        asking = "--on validation" if recipe.evaluation.on == "validation" else "--validate_every"
        if recipe.evaluation.on == "validation" or recipe.training.validate_every:
            raise UserError(f"{asking} wants identities held out; add --validation_identities, such as 80.")
    if recipe.training.patience and not recipe.training.validate_every:
        raise UserError("--patience wants something to wait for; add --validate_every, such as 5.")


def _check_textures(recipe: Recipe) -> None:
    generator = recipe.generator
    if recipe.model.palette and recipe.with_decoder and generator.texture_colors == "true":
        raise UserError(
            f"palette is {recipe.model.palette}, but a palette's colours are those of the photograph; add"
            " --texture_colors photographed, or --palette 0."
        )
    if generator.textures and generator.generator_weights:
        raise UserError("--textures leaves --generator_weights nothing to paint; give one of the two.")
    if generator.texture_layout == "san_tf" or not recipe.with_decoder:
        return
    if not (generator.textures or generator.generator_weights):
        raise UserError(
            "The generator trained here paints this package's layout; --texture_layout other goes with"
            " --textures or --generator_weights."
        )
    if recipe.data.pit_per_batch:
        raise UserError(
            f"pit_per_batch is {recipe.data.pit_per_batch}, but the textures of these pairs lie otherwise"
            " than those of texture_layout other; add --pit_per_batch 0."
        )
