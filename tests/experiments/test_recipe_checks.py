"""Accumulation and averages: what a recipe cannot ask for is told before anything runs."""

import dataclasses

import pytest

from san_tf.errors import UserError
from san_tf.experiments.recipe import DataRecipe, GeneratorRecipe, ModelRecipe, Recipe, TrainingRecipe
from san_tf.experiments.recipe_checks import check_recipe


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"accumulation": 0}, "accumulation is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"ema": -0.5}, "ema is -0.5, but it must be a number from 0 to 1"),
        ({"ema": 0.9, "optimizer": "tfa.LAMB"}, "with tfa.LAMB"),
        ({"accumulation": 2, "optimizer": "tfa.LAMB"}, "with tfa.LAMB"),
        ({"ema": 0.9, "validate_every": 1}, "leave one out"),
    ],
)
def test_impossible_averages_are_refused(
    monkeypatch: pytest.MonkeyPatch, training: dict, sentence: str
) -> None:
    # Whether TensorFlow Addons is installed is not the question here.
    monkeypatch.setattr("san_tf.experiments.recipe_checks.check_choice", lambda *_: None)
    recipe = Recipe(training=TrainingRecipe(**training))
    data = dataclasses.replace(recipe.data, validation_identities=8)
    with pytest.raises(UserError, match=sentence):
        check_recipe(dataclasses.replace(recipe, data=data))


def test_possible_ones_are_not() -> None:
    check_recipe(Recipe(training=TrainingRecipe(accumulation=4, ema=0.999)))


def test_a_palette_wants_photographed_colours() -> None:
    with pytest.raises(UserError, match="add --texture_colors photographed, or --palette 0"):
        check_recipe(Recipe(model=ModelRecipe(palette=8)))
    photographed = GeneratorRecipe(texture_colors="photographed")
    check_recipe(Recipe(model=ModelRecipe(palette=8), generator=photographed))
    check_recipe(Recipe(generator=photographed))


@pytest.mark.parametrize(
    ("training", "weights", "sentence"),
    [
        ({"clip_norm": -1.0}, None, "clip_norm is -1.0, but it must be a number from 0 to"),
        ({"clip_norm": float("nan")}, None, "clip_norm is nan"),
        ({"freeze_epochs": -1}, "imagenet", "freeze_epochs is -1"),
        ({"freeze_epochs": 30, "epochs": 30}, "imagenet", "would never learn; give fewer"),
        ({"freeze_epochs": 5}, None, "starts from random weights"),
        ({"freeze_epochs": 5, "optimizer": "tfa.LAMB"}, "imagenet", "with tfa.LAMB"),
    ],
)
def test_impossible_clipping_and_freezing_are_refused(
    monkeypatch: pytest.MonkeyPatch, training: dict, weights: str | None, sentence: str
) -> None:
    monkeypatch.setattr("san_tf.experiments.recipe_checks.check_choice", lambda *_: None)
    with pytest.raises(UserError, match=sentence):
        check_recipe(Recipe(training=TrainingRecipe(**training), model=ModelRecipe(weights=weights)))
    check_recipe(Recipe(training=TrainingRecipe(freeze_epochs=5, clip_norm=1.0, start="texture-generator")))


def test_values_against_other_cameras_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="no image is jittered; add --jitter"):
        check_recipe(Recipe(data=DataRecipe(jitter_strength=2.0)))
    with pytest.raises(UserError, match="leave it out with keras:MobileNet"):
        check_recipe(Recipe(model=ModelRecipe(backbone="keras:MobileNet", mixstyle=0.5)))
    for wrong in ({"blur": 1.5}, {"jpeg": -0.1}, {"amplitude_mix": float("nan")}, {"low_resolution": 2.0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is .*from 0 to 1"):
            check_recipe(Recipe(data=DataRecipe(**wrong)))
    data = DataRecipe(jitter=0.5, jitter_strength=2.0, blur=0.2, jpeg=0.3, amplitude_mix=0.3)
    check_recipe(Recipe(data=data, model=ModelRecipe(backbone="thin_resnet_ibn", mixstyle=0.5)))
