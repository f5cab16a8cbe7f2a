"""`texture-generator`: trains SAN-PG on images whose true textures are known."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_file
from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import pit_dataset
from san_tf.data.records import CAST, Records
from san_tf.evaluation.conditions import OCCLUDED, OPPOSITE_SIDES, SAME_SIDE, yaw_difference
from san_tf.evaluation.texture_scores import detail, gmsd, lab_distance, ssim
from san_tf.experiments.data_records import pit_records, pit_specs
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.networks import save_weights, texture_generator_of
from san_tf.experiments.painting import paint, texel_differences, texture_l1, true_textures, weights_path
from san_tf.experiments.panels import Panels
from san_tf.experiments.rate_sweep import find_learning_rate
from san_tf.experiments.ready_generator import ready_generator
from san_tf.keras_distribution import synchronize_batch_norms
from san_tf.progress import with_bar
from san_tf.synthesis.crop_plans import CropSpec
from san_tf.synthesis.seen_garments import seen_garments
from san_tf.synthesis.texels import texel_map
from san_tf.training.loop import train
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import set_precision
from san_tf.training.schedules import WarmupCosine

# Cosines of the angle between surface and camera: above the first it is seen, below the second hidden.
_TOWARDS, _AWAY = 0.3, -0.3


def views(yaw: np.ndarray, visibility: np.ndarray) -> dict[str, np.ndarray]:
    """Return a mask of the images for each view.

    Every image shows front, side or back, and may be occluded, too.

    Args:
        yaw: `(N,)` degrees; a person at 0 faces the camera.
        visibility: `(N,)` visible share of the person, 0 to 1.

    Returns:
        `(N,)` bool by the view's name.
    """
    turned = yaw_difference(yaw, np.array(0.0))
    return {
        "all": np.ones(len(yaw), bool),
        "front": turned <= SAME_SIDE,
        "side": (turned > SAME_SIDE) & (turned < OPPOSITE_SIDES),
        "back": turned >= OPPOSITE_SIDES,
        "occluded": np.asarray(visibility) < OCCLUDED,
    }


def texture_scores(
    painted: np.ndarray, true: np.ndarray, extras: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Score textures by view.

    Args:
        painted: `(N, T, T, 3)` uint8.
        true: `(N, T, T, 3)` uint8.
        extras: `yaw` and `visibility`, `(N,)` each.

    Returns:
        By view: `pairs`, their number; `l1`, mean absolute difference as a share of the range; `l1_seen` and
        `l1_hidden`, the same on the surface that faces the camera (of an upright person) or faces away;
        `ssim`, `gmsd` and `detail` of `san_tf.evaluation.texture_scores`. A view without pairs is left out.
    """
    texels = texel_map(painted.shape[1])
    inside = texels.inside
    angle = np.deg2rad(np.asarray(extras["yaw"], np.float64))
    facing = np.stack([np.sin(angle), np.zeros(len(angle)), np.cos(angle)]).T @ texels.normal[inside].T
    difference = texel_differences(painted, true)
    columns = {
        "l1": difference.mean(1, dtype=np.float64),
        **{
            name: (difference * part).sum(1) / np.maximum(part.sum(1), 1)
            for name, part in (("l1_seen", facing > _TOWARDS), ("l1_hidden", facing < _AWAY))
        },
        "ssim": ssim(painted, true, inside),
        "gmsd": gmsd(painted, true, inside),
        "detail": detail(painted, true, inside),
    }
    return {
        view: {
            "pairs": int(chosen.sum()),
            **{name: _mean(column[chosen]) for name, column in columns.items()},
        }
        for view, chosen in views(extras["yaw"], extras["visibility"]).items()
        if chosen.any()
    }


def color_scores(specs: Iterable[CropSpec], textures: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compare the colours of garments on textures with their colours in the images.

    Args:
        specs: plans of N rendered images, which are rendered again to find the pixels of each garment.
        textures: `(N, T, T, 3)` uint8 textures of the same images, by name.

    Returns:
        `garments`, the number of garments that are visible enough; and for each name the CIELAB distance
        between a garment's median colour in the image and that of the same place on the texture, averaged
        over the garments. NaN if no garment is visible.
    """
    distances: dict[str, list[float]] = {name: [] for name in textures}
    for number, spec in enumerate(specs):
        for seen in seen_garments(spec):
            for name, those in textures.items():
                distances[name].append(float(lab_distance(seen.color, seen.color_on(those[number]))))
    return {
        "garments": max(map(len, distances.values()), default=0),
        **{name: _mean(np.array(column)) for name, column in distances.items()},
    }


def _mean(values: np.ndarray) -> float:
    """Mean of the finite values; NaN if there are none, such as for the detail of plain textures."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


NO_TEXTURES = "not needed: this recipe has no decoder to learn textures"


def run(experiment: Experiment) -> None:
    """Train the texture generator and score its textures of unseen people, or take a ready generator.

    Raises:
        UserError: the paired data are not prepared, the loss became NaN, or ready weights do not fit.
    """
    recipe = experiment.recipe
    if not recipe.with_generator:
        experiment.say(NO_TEXTURES)
    elif recipe.generator.textures:
        experiment.say(f"not needed: the textures of {recipe.generator.textures} are ready")
    elif recipe.generator.generator_weights:
        if not experiment.distribution.is_chief:
            return
        generator = ready_generator(recipe)
        save_weights(generator, weights_path(experiment))
        experiment.say(f"{recipe.generator.generator_weights} taken as {weights_path(experiment)}")
        if recipe.needs_pairs and recipe.generator.texture_layout == "san_tf":
            # The pairs for the batches are prepared anyway, so they can score the generator.
            _measure(experiment, generator, pit_records(experiment, "train"))
    else:
        _train(experiment)


def _train(experiment: Experiment) -> None:
    recipe, distribution = experiment.recipe, experiment.distribution
    pairs = pit_records(experiment, "train")
    set_precision(recipe.model.precision)
    batch = recipe.generator.generator_batch
    steps = max(1, len(pairs) // batch)
    total = steps * recipe.generator.generator_epochs

    def batches(step: int) -> tf.data.Dataset:
        return pit_dataset(
            pairs,
            batch,
            recipe.data.image_size,
            recipe.texture_size,
            augmentation=Augmentation.for_transfer(),
            seed=recipe.seed,
            start_step=step,
            shard=distribution.shard,
        )

    if experiment.options.find_learning_rate:
        optimizer = functools.partial(build_optimizer, "adam", True, 0.0, "l2")
        model = texture_generator_of(recipe)
        find_learning_rate(experiment, model, batches(0), optimizer, "texture_generator")
        return
    schedule = WarmupCosine(recipe.generator.generator_learning_rate, total, min(50, total // 10))
    with distribution.scope():
        model = texture_generator_of(recipe)
        optimizer = build_optimizer(schedule=schedule, weight_decay=0.0)
        model.compile(optimizer=optimizer, jit_compile=recipe.model.jit_compile)
    if recipe.model.synchronized_batch_norm:
        synchronize_batch_norms(model)
    train(
        model,
        batches,
        recipe.generator.generator_epochs,
        steps,
        experiment.run,
        "texture-generator",
        callbacks=[
            Panels(
                experiment,
                model,
                pit_records(experiment, "test"),
                "texture-generator",
                recipe.generator.generator_epochs,
            )
        ],
        save_every_seconds=experiment.options.save_every,
        filenames=list(pairs.filenames),
        console=experiment.console,
        distribution=distribution,
    )
    if not distribution.is_chief:
        return
    model = distribution.local_copy(model, lambda: texture_generator_of(recipe, weights=False))
    save_weights(model, weights_path(experiment))
    _measure(experiment, model, pairs)


def _measure(experiment: Experiment, model: keras.Model, pairs: Records) -> None:
    """Score painted textures against the true ones, and for reference the training set's mean texture."""
    recipe = experiment.recipe
    unseen = pit_records(experiment, "test")
    true = true_textures(unseen, recipe.texture_size)
    mean = _mean_texture(pairs, recipe.texture_size)[None]
    painted = np.stack(list(paint(model, unseen, recipe.data.image_size)))
    guess = np.broadcast_to(np.rint(mean).astype(np.uint8), true.shape)
    scores: dict[str, Any] = {
        "pairs": len(unseen),
        "l1": float(texture_l1(painted, true).mean()),
        "l1_of_mean_texture": float(texture_l1(mean, true).mean()),
        "painted": texture_scores(painted, true, unseen.extras),
        "mean_texture": texture_scores(guess, true, unseen.extras),
    }
    specs = pit_specs(experiment, "test")
    if specs and recipe.generator.texture_colors == "photographed":
        plain = true_textures(unseen.without(CAST), recipe.texture_size)
        named = {"true": plain, "photographed": true, "painted": painted}
        drawn = (specs[name] for name in with_bar(unseen.filenames, "  colours", len(unseen)))
        scores["garment_colors"] = color_scores(drawn, named)
    with atomic_file(experiment.run.path / "texture_generator.json") as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    experiment.say(
        f"{len(unseen)} textures of unseen people: mean absolute difference {scores['l1']:.3f} of the range"
        f" (of the mean texture: {scores['l1_of_mean_texture']:.3f})"
    )
    if colors := scores.get("garment_colors"):
        experiment.say(
            f"{colors['garments']} garments in their images: painted {colors['painted']:.1f} from the image's"
            f" colour in CIELAB (target textures: {colors['photographed']:.1f}, true colours:"
            f" {colors['true']:.1f})"
        )


def _mean_texture(pairs: Records, size: int) -> np.ndarray:
    """Mean texture of all pairs, (size, size, 3) float64."""
    # Each texture is read once, however many images share it, and only one is in memory as floats: all
    # textures of a large data set take gigabytes.
    _, first, counts = np.unique(pairs.texture_index, return_index=True, return_counts=True)
    total = np.zeros((size, size, 3))
    for texture, count in zip(true_textures(pairs.select(first), size), counts, strict=True):
        total += count * texture.astype(np.float64)
    return total / counts.sum()
