"""Loads a trained texture generator, of this package or a PyTorch one of the public SAN code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from san_tf.convert.architectures import DECODER, recognise
from san_tf.convert.weight_map import assign
from san_tf.errors import UserError
from san_tf.experiments.networks import load_weights, texture_generator_of
from san_tf.experiments.recipe import Recipe
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.presets import PRESETS
from san_tf.models.san import SANPG
from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.state_dict import find_state_dict

# Image size of the public code's SAN-PG; its decoder's texture is as high as the image.
OFFICIAL_SIZE = (128, 64)
_ENCODER_KEY, _DECODER_KEY = "state_dict", "decoder_state_dict"


def network_of(recipe: Recipe) -> SANPG:
    """Build the untrained network of the recipe's generator: this package's or the public code's."""
    path = recipe.generator.generator_weights
    if path is None or path.endswith(".weights.h5"):
        return texture_generator_of(recipe, weights=False)
    return SANPG(*_official_parts(PRESETS["san_resnet50_official"]["encoder"], 1))


def ready_generator(recipe: Recipe) -> SANPG:
    """Load the generator of the recipe's `generator_weights`.

    A PyTorch checkpoint must hold the encoder as `state_dict` and the decoder as `decoder_state_dict`, as the
    public code saves them. Code in the checkpoint is never run.

    Raises:
        UserError: the file is missing, damaged or of another network, or the recipe lacks its layout.
    """
    path = Path(str(recipe.generator.generator_weights))
    if not path.is_file():
        raise UserError(f"The generator weights {path} do not exist; check --generator_weights.")
    if path.name.endswith(".weights.h5"):
        generator = network_of(recipe)
        load_weights(generator, path)
        return generator
    if recipe.generator.texture_layout == "san_tf":
        raise UserError(
            f"{path} is not a .weights.h5 file of this package, so it paints another layout; add"
            " --texture_layout other --pit_per_batch 0."
        )
    tree = read_checkpoint(path)
    tensors = find_state_dict(tree, path, _ENCODER_KEY)
    architecture = recognise(tensors, path)
    if architecture.encoder is None or architecture.encoder["backbone"] != "resnet50":
        raise UserError(f"{path} is a {architecture.title}; give a checkpoint of the public code's SAN-PG.")
    encoder, decoder = _official_parts(architecture.encoder, architecture.num_classes)
    assign(architecture.counterparts(encoder), tensors, path)
    assign(DECODER.counterparts(decoder), find_state_dict(tree, path, _DECODER_KEY), path)
    return SANPG(encoder, decoder)


def input_size(generator: keras.Model) -> tuple[int, int]:
    """Height and width of a generator's input images, in pixels."""
    height, width = generator.encoder.input_shape[1:3]
    return int(height), int(width)


def _official_parts(form: dict[str, Any], num_classes: int) -> tuple[keras.Model, keras.Model]:
    arguments = {**form, "last_stride": 1, "input_shape": (*OFFICIAL_SIZE, 3)}
    encoder = build_encoder(**arguments, num_classes=num_classes, weights=None)
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return encoder, build_decoder(shapes, **PRESETS["san_resnet50_official"]["decoder"])
