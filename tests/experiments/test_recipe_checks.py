"""Accumulation and averages: what a recipe cannot ask for is told before anything runs."""

import dataclasses

import pytest

from san_tf.errors import UserError
from san_tf.experiments.recipe import GeneratorRecipe, ModelRecipe, Recipe, TrainingRecipe
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
