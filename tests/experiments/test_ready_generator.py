"""A generator of the public code, from a checkpoint as its trainer saves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import tensor, zip_checkpoint

from san_tf.convert.architectures import DECODER, head_names, resnet_names
from san_tf.convert.weight_map import counterparts_of
from san_tf.errors import UserError
from san_tf.experiments.ready_generator import OFFICIAL_SIZE, input_size, network_of, ready_generator
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import updated
from san_tf.models.decoder import build_decoder
from san_tf.models.encoder import build_encoder
from san_tf.models.presets import PRESETS

OFFICIAL = PRESETS["san_resnet50_official"]


def recipe_of(path: Path, **values) -> Recipe:
    other = {"generator_weights": str(path), "texture_layout": "other", "pit_per_batch": 0}
    return updated(Recipe(), other | values, "test")


@pytest.mark.slow
def test_a_checkpoint_of_the_public_code_paints_what_its_networks_paint(tmp_path: Path):
    encoder = build_encoder(
        **{**OFFICIAL["encoder"], "input_shape": (*OFFICIAL_SIZE, 3)}, num_classes=3, weights=None, seed=1
    )
    shapes = [stage.shape for stage in encoder.output["stages"]]
    decoder = build_decoder(shapes, **OFFICIAL["decoder"], seed=2)

    def written(pairs, start: int):
        return {pair.name: tensor(pair.to_torch(), str(start + i)) for i, pair in enumerate(pairs)}

    names = resnet_names("resnet50") | head_names("fc512")
    checkpoint = {
        "state_dict": written(counterparts_of(encoder, names), 0),
        "decoder_state_dict": written(DECODER.counterparts(decoder), 1000),
        "epoch": 7,
    }
    path = tmp_path / "sanpg.pth.tar"
    path.write_bytes(zip_checkpoint(checkpoint))
    generator = ready_generator(recipe_of(path))
    assert input_size(generator) == OFFICIAL_SIZE
    images = np.random.default_rng(0).normal(size=(2, *OFFICIAL_SIZE, 3)).astype(np.float32)
    painted = generator(images, training=False)["texture"].numpy()
    expected = decoder(encoder(images, training=False)["stages"], training=False)["texture"].numpy()
    np.testing.assert_allclose(painted, expected, atol=1e-5)
    assert painted.shape == (2, 128, 128, 3)
    # What the run keeps of it can be read into a network of the same recipe.
    generator.save_weights(tmp_path / "texture_generator.weights.h5")
    kept = network_of(recipe_of(path))
    kept.load_weights(tmp_path / "texture_generator.weights.h5")
    np.testing.assert_allclose(kept(images, training=False)["texture"].numpy(), expected, atol=1e-5)
    # A checkpoint without the decoder paints nothing.
    del checkpoint["decoder_state_dict"]
    path.write_bytes(zip_checkpoint(checkpoint))
    with pytest.raises(UserError, match="decoder_state_dict"):
        ready_generator(recipe_of(path))


def test_what_is_no_generator_is_named(tmp_path: Path):
    path = tmp_path / "sanpg.pth.tar"
    with pytest.raises(UserError, match="do not exist"):
        ready_generator(recipe_of(path))
    path.write_bytes(zip_checkpoint({"state_dict": {"weight": tensor(np.ones(2, np.float32), "0")}}))
    with pytest.raises(UserError, match="not of a known network"):
        ready_generator(recipe_of(path))
    with pytest.raises(UserError, match="--texture_layout other"):
        ready_generator(recipe_of(path, texture_layout="san_tf"))
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"nothing")
    small = {"backbone": "thin_resnet", "image_size": [64, 32], "texture_layout": "san_tf"}
    with pytest.raises(UserError, match=r"damaged\.weights\.h5"):
        ready_generator(recipe_of(damaged, **small))
