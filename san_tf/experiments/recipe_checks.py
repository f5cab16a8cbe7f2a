"""Checks a recipe's values, so that mistakes are reported before anything runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from san_tf import registry
from san_tf.addons import (
    OPTIMIZERS,
    OWN_OPTIMIZERS,
    OWN_TRIPLET_LOSSES,
    TRIPLET_LOSSES,
    check_choice,
)
from san_tf.errors import UserError
from san_tf.experiments.recipe_files import owners, shown, typed

if TYPE_CHECKING:
    from san_tf.experiments.recipe import Recipe


# Largest side of an image in pixels; crops of people have a few hundred.
_LARGEST = 4096
# Lowest and highest value of every number of a recipe. If the method gives no upper bound, this bound is far
# above any sensible value, to catch typing errors.
RANGES: dict[str, tuple[float, float]] = {
    # Random streams use the seed plus a few thousand; TensorFlow's seeds have 31 bits.
    "seed": (0, 2_000_000_000),
    "validation_identities": (0, 10_000_000),
    "identities_per_batch": (2, 100_000),
    "images_per_identity": (2, 100_000),
    "pit_per_batch": (0, 100_000),
    "translation": (0, 1),
    "flip": (0, 1),
    "erasing": (0, 1),
    "jitter": (0, 1),
    "jitter_strength": (0, 3),
    "blur": (0, 1),
    "jpeg": (0, 1),
    "low_resolution": (0, 1),
    "amplitude_mix": (0, 1),
    "mixstyle": (0, 1),
    "grayscale": (0, 1),
    "auto_augment": (0, 1),
    "sketch": (0, 100_000),
    "palette": (0, 4096),
    "lambda_identity": (0, 1e6),
    "lambda_triplet": (0, 1e6),
    "triplet_warmup_epochs": (0, 1_000_000),
    "lambda_reconstruction": (0, 1e6),
    "lambda_texture_triplet": (0, 1e6),
    "classifier_scale": (1, 10_000),
    "classifier_margin": (0, 1),
    "circle_margin": (0, 0.99),
    "circle_scale": (1, 10_000),
    "lambda_centre": (0, 1e5),
    "centre_rate": (0, 1),
    "margin": (0, 1e6),
    "smoothing": (0, 1),
    "epochs": (1, 1_000_000),
    "steps_per_epoch": (0, 100_000_000),
    "warmup_epochs": (0, 1_000_000),
    "milestone_factor": (0, 1),
    "learning_rate": (0, 1e6),
    "weight_decay": (0, 1e6),
    "validate_every": (0, 1_000_000),
    "patience": (0, 1_000_000),
    "accumulation": (1, 100_000),
    "clip_norm": (0, 1e6),
    "freeze_epochs": (0, 1_000_000),
    "ema": (0, 1),
    "generator_epochs": (1, 1_000_000),
    "generator_batch": (1, 100_000),
    "generator_learning_rate": (0, 1e6),
    "repeats": (1, 1_000_000),
    "database_augmentation": (0, 1_000_000),
    "query_expansion": (0, 1_000_000),
    "alpha": (0, 1000),
    "k1": (1, 1_000_000),
    "k2": (1, 1_000_000),
    "lambda_value": (0, 1),
}


def check_recipe(recipe: Recipe) -> None:
    """Raise `UserError` for the first impossible value."""
    _check_values(recipe)
    check_choice("optimizer", recipe.training.optimizer, OWN_OPTIMIZERS, OPTIMIZERS)
    check_choice("triplet", recipe.losses.triplet, (*OWN_TRIPLET_LOSSES, *registry.LOSSES), TRIPLET_LOSSES)
    _check_method(recipe)
    _check_size(recipe)
    _check_validation(recipe)
    _check_freezing(recipe)
    _check_classifier(recipe)
    _check_other_cameras(recipe)
    _check_textures(recipe)
    _check_folders(recipe)
    if recipe.training.ema == 1:
        raise UserError("ema is 1.0, so the average would never change; give less, such as 0.999.")
    if recipe.training.ema and recipe.training.validate_every:
        raise UserError(
            "ema and validate_every exclude each other: ema keeps the average of the last weights,"
            " validate_every the weights with the highest mAP; leave one out."
        )
    averages = recipe.training.accumulation > 1 or recipe.training.ema
    if averages and recipe.training.optimizer not in OWN_OPTIMIZERS:
        raise UserError(
            f"accumulation and ema work only with the optimizers {' and '.join(OWN_OPTIMIZERS)}; leave them"
            f" out with {recipe.training.optimizer}."
        )
    if recipe.evaluation.protocol == "vehicleid" and recipe.evaluation.rerank:
        raise UserError("The protocol vehicleid draws its queries anew each time; leave --rerank out.")


def _check_values(recipe: Recipe) -> None:
    """Check types, choices and ranges of a recipe from flags, a file or a caller."""
    for name, part in owners().items():
        value = getattr(getattr(recipe, part) if part else recipe, name)
        value = typed(name, value, "The recipe")
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{name} holds a NUL character, which names and paths cannot have.")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = RANGES.get(name, (-math.inf, math.inf))
            # Written so that NaN does not pass.
            if not low <= value <= high:
                bounds = f"a number from {low:,} to {high:,}"
                raise UserError(f"{name} is {shown(value)}, but it must be {bounds}.")


def _check_method(recipe: Recipe) -> None:
    training = recipe.training
    if training.method == "san" and not recipe.with_decoder:
        raise UserError(
            "method is san, but both weights of its decoder's losses are 0; give lambda_reconstruction or"
            " lambda_texture_triplet a value above 0, or use --method baseline."
        )
    if training.start == "texture-generator" and recipe.generator.textures:
        raise UserError(
            "--start texture-generator needs a texture generator, but with --textures none is trained; leave"
            " one of the two out."
        )
    rising = list(training.milestones) == sorted(set(training.milestones))
    if not rising or any(epoch < 1 for epoch in training.milestones):
        told = " ".join(map(str, training.milestones))
        raise UserError(f"milestones are {told}, but they must be rising epochs from 1 on, such as 40 70.")


def _check_size(recipe: Recipe) -> None:
    height, width = recipe.data.image_size
    if recipe.with_generator and (height != 2 * width or height % 32):
        raise UserError(
            f"image_size {height} {width} does not fit a decoder: the height must be twice the width and"
            " a multiple of 32, such as 256 128; or leave the decoder out with --method baseline."
        )
    if min(height, width) < 32 or height % 32 or width % 32 or max(height, width) > _LARGEST:
        raise UserError(
            f"image_size {height} {width} does not fit: both must be multiples of 32 up to {_LARGEST}, such"
            " as 256 256."
        )


def _check_validation(recipe: Recipe) -> None:
    if not recipe.data.validation_identities:
        asking = "--on validation" if recipe.evaluation.on == "validation" else "--validate_every"
        if recipe.evaluation.on == "validation" or recipe.training.validate_every:
            raise UserError(f"{asking} needs held-out identities; add --validation_identities, such as 80.")
    if recipe.training.patience and not recipe.training.validate_every:
        raise UserError("--patience needs measurements to wait for; add --validate_every, such as 5.")


def _check_freezing(recipe: Recipe) -> None:
    training, epochs = recipe.training, recipe.training.freeze_epochs
    if not epochs:
        return
    if epochs >= training.epochs:
        raise UserError(
            f"freeze_epochs is {epochs}, but the training has {training.epochs} epochs, so the backbone would"
            " never learn; give fewer."
        )
    if recipe.model.weights is None and training.start != "texture-generator":
        raise UserError(
            f"freeze_epochs is {epochs}, but the backbone starts from random weights, which are not worth"
            " keeping; name trained ones with --weights, add --start texture-generator, or leave it out."
        )
    if training.optimizer not in OWN_OPTIMIZERS:
        raise UserError(
            f"freeze_epochs is of the optimizers {' and '.join(OWN_OPTIMIZERS)}; leave it out with"
            f" {training.optimizer}."
        )


def _check_classifier(recipe: Recipe) -> None:
    for name in ("classifier_scale", "classifier_margin"):
        value = getattr(recipe.model, name)
        if value is not None and recipe.model.classifier == "linear":
            raise UserError(
                f"{name} is {value}, but the linear classifier has none; add --classifier arcface or cosface,"
                " or leave it out."
            )


def _check_other_cameras(recipe: Recipe) -> None:
    data, model = recipe.data, recipe.model
    if data.jitter_strength != 1 and not data.jitter:
        raise UserError(
            f"jitter_strength is {data.jitter_strength}, but no image is jittered; add --jitter 0.5, or "
            "leave it out."
        )
    if model.mixstyle and (model.backbone.startswith("keras:") or model.backbone in registry.BACKBONES):
        raise UserError(
            f"mixstyle needs a backbone of this package, such as thin_resnet_ibn; leave it out with "
            f"{model.backbone}."
        )


def _check_textures(recipe: Recipe) -> None:
    generator = recipe.generator
    if recipe.model.palette and recipe.with_decoder and generator.texture_colors == "true":
        raise UserError(
            f"palette is {recipe.model.palette}, but a palette only has the photograph's colours; add"
            " --texture_colors photographed, or --palette 0."
        )
    if generator.textures and generator.generator_weights:
        raise UserError("With --textures, --generator_weights is never used; give one of the two.")
    if generator.texture_layout == "san_tf" or not recipe.with_decoder:
        return
    if not (generator.textures or generator.generator_weights):
        raise UserError(
            "The generator trained here paints this package's layout; --texture_layout other needs --textures"
            " or --generator_weights."
        )
    if recipe.data.pit_per_batch:
        raise UserError(
            f"pit_per_batch is {recipe.data.pit_per_batch}, but the textures of these pairs have this"
            " package's layout, not texture_layout other; add --pit_per_batch 0."
        )


def _check_folders(recipe: Recipe) -> None:
    for flag, value, names, naming in (
        ("folder", recipe.data.folder, (*recipe.training_sets, *recipe.test_sets), "dataset"),
        ("test_folder", recipe.evaluation.test_folder, recipe.test_sets, "test"),
    ):
        if value is not None and not any(name.partition("/")[0] == "custom" for name in names):
            raise UserError(
                f"--{flag} is only for the data set custom, not for {', '.join(names) or 'no data set'}; add"
                f" --{naming} custom/names, or leave --{flag} out."
            )
