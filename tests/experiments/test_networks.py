"""The networks that a recipe asks for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import four_layers

from san_tf.data.augmentation import Augmentation
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.flags import Options, parse
from san_tf.experiments.networks import decoder_of, encoder_of, encoder_to_start_from, texture_generator_of
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe, TrainingRecipe
from san_tf.experiments.stages import texture_generator
from san_tf.experiments.stages.train import augmentation_of
from san_tf.models import DECODERS
from san_tf.models.backbones import BACKBONES, Backbone
from san_tf.training.run_directory import RunDirectory


def networks(**model):
    recipe = Recipe(data=DataRecipe(image_size=(64, 32)), model=ModelRecipe(**model))
    encoder = encoder_of(recipe, 3)
    return decoder_of(recipe, encoder)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"backbone": "thin_resnet"}, "light"),
        ({"backbone": "efficientnet_lite0"}, "light"),
        ({"backbone": "thin_resnet", "decoder": "paper"}, "paper"),
        ({"backbone": "keras:MobileNet"}, "paper"),
        ({"backbone": "keras:MobileNet", "decoder": "light", "last_stride": 2}, "light"),
    ],
)
def test_the_decoder_is_of_the_backbones_size_unless_the_recipe_names_one(model, size):
    decoder = networks(**model)
    widths = DECODERS[size]["widths"]
    blocks = decoder.output["blocks"]
    assert tuple(block.shape[-1] for block in blocks) == widths[1:]
    # Textures are as high as the image; half as high where the last stage has a stride.
    side = 64 // model.get("last_stride", 1)
    assert decoder.output["texture"].shape == (None, side, side, 3)
    assert decoder.get_layer("final_conv").kernel.shape[0] == DECODERS[size].get("final_kernel", 7)


def test_size_and_backbone_are_flags():
    _, recipe = parse("x", "x", Recipe(), ["train"], ["--decoder=light", "--backbone=keras:ConvNeXtTiny"])
    assert recipe.model.decoder == "light" and recipe.model.backbone == "keras:ConvNeXtTiny"
    _, recipe = parse("x", "x", Recipe(), ["train"], [])
    assert recipe.model.decoder is None
    with pytest.raises(UserError, match="medium"):
        parse("x", "x", Recipe(), ["train"], ["--decoder=medium"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Recipes of a network of four layers."""
    monkeypatch.setitem(BACKBONES, "four_layers", Backbone(four_layers, imagenet=False, decoder="light"))

    def recipe(size=(64, 32), **model):
        return Recipe(data=DataRecipe(image_size=size), model=ModelRecipe(backbone="four_layers", **model))

    return recipe


@pytest.mark.parametrize("head", ["plain", "fc512", "bnneck"])
def test_an_encoder_starts_from_that_of_another_run_but_for_its_classifier(small, tmp_path: Path, head: str):
    path = str(tmp_path / "baseline_encoder.weights.h5")
    source = encoder_of(small(head=head), 8)
    source.set_weights(
        [np.random.default_rng(n).normal(size=w.shape) for n, w in enumerate(source.get_weights())]
    )
    source.save_weights(path)
    # As many identities say nothing of who they are; the size of the images may be another.
    for people, size in ((12, (64, 32)), (8, (64, 32)), (8, (128, 64))):
        recipe = small(head=head, weights=path, size=size)
        assert encoder_to_start_from(recipe) == Path(path)
        encoder, anew = encoder_of(recipe, people), encoder_of(small(head=head, size=size), people)
        for layer in encoder.layers:
            origin = anew if layer.name == "classifier" else source
            for mine, theirs in zip(
                layer.get_weights(), origin.get_layer(layer.name).get_weights(), strict=True
            ):
                np.testing.assert_array_equal(mine, theirs, err_msg=layer.name)
    generator = texture_generator_of(small(head=head, weights=path))
    kernel = "stage4_conv" if any(layer.name == "stage4_conv" for layer in source.layers) else "stage4"
    np.testing.assert_array_equal(
        generator.encoder.get_layer(kernel).get_weights()[0], source.get_layer(kernel).get_weights()[0]
    )


def test_what_an_encoder_cannot_start_from_is_told(small, tmp_path: Path):
    path = tmp_path / "baseline_encoder.weights.h5"
    source = encoder_of(small(), 8)
    source.save_weights(path)
    with pytest.raises(UserError, match=r"does not fit encoder_four_layers.*same backbone and head"):
        encoder_of(small(head="bnneck", weights=str(path)), 8)
    with pytest.raises(UserError, match="does not fit encoder_thin_resnet"):
        encoder_of(
            Recipe(data=DataRecipe(image_size=(64, 32)), model=ModelRecipe("thin_resnet", weights=str(path))),
            8,
        )
    content = bytearray(path.read_bytes())
    content[content.index(source.get_weights()[0].tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: its array"):
        encoder_of(small(weights=str(path)), 8)
    with pytest.raises(UserError, match="does not exist"):
        encoder_of(small(weights=str(tmp_path / "none.weights.h5")), 8)


def test_a_baseline_that_starts_from_the_generator_trains_one(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(texture_generator, "_train", lambda experiment: trained.append(experiment.recipe))
    for start, number in (("weights", 0), ("texture-generator", 1)):
        recipe = Recipe(training=TrainingRecipe(method="baseline", start=start))
        options = Options(workdir=str(tmp_path))
        texture_generator.run(Experiment("market", recipe, options, RunDirectory(tmp_path)))
        assert len(trained) == number


def test_styles_are_mixed_in_the_encoder_but_not_in_the_texture_generator():
    recipe = Recipe(
        data=DataRecipe(image_size=(64, 32)), model=ModelRecipe(backbone="thin_resnet", mixstyle=0.5)
    )
    mixing = [layer for layer in encoder_of(recipe, 3).layers if layer.name.startswith("mix_style")]
    assert [(layer.probability, layer.alpha, layer.salt) for layer in mixing] == [
        (0.5, 0.1, 1),
        (0.5, 0.1, 2),
    ]
    generator = texture_generator_of(recipe).encoder
    assert not any(layer.name.startswith("mix_style") for layer in generator.layers)


def test_a_recipes_augmentation_is_the_default_unless_its_values_say_otherwise():
    same = replace(augmentation_of(DataRecipe()), smallest_scale=Augmentation.smallest_scale)
    assert same == Augmentation()
    data = DataRecipe(
        jitter=1.0, jitter_strength=2.0, blur=0.1, jpeg=0.2, low_resolution=0.3, amplitude_mix=0.4
    )
    found = augmentation_of(data)
    assert (found.blur, found.jpeg, found.low_resolution, found.amplitude_mix) == (0.1, 0.2, 0.3, 0.4)
    assert (found.brightness, found.contrast, found.saturation, found.hue) == (0.5, 0.5, 0.5, 0.06)
