"""The networks that a recipe asks for."""

import pytest

from san_tf.errors import UserError
from san_tf.experiments.flags import parse
from san_tf.experiments.networks import decoder_of, encoder_of
from san_tf.experiments.recipe import DataRecipe, ModelRecipe, Recipe
from san_tf.models import DECODERS


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
