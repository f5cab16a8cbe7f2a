"""The layout of `.weights.h5` files that Keras 2.15 and Keras 3 share: what one writes, the other reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from san_tf.models import build_decoder, build_encoder

GROUPS = {
    "BatchNormalization": "batch_normalization",
    "Conv2D": "conv2d",
    "Dense": "dense",
    "UpConv2D": "up_conv2d",
}


def encoder() -> keras.Model:
    return build_encoder("thin_resnet", (32, 16, 3), 5, head="fc512", weights=None, seed=1)


def decoder() -> keras.Model:
    shapes = [stage.shape for stage in encoder().output["stages"]]
    return build_decoder(shapes, (8, 8, 6, 4, 4), skips=True, sketch=4, seed=1)


@pytest.mark.parametrize("build", [encoder, decoder])
def test_every_variable_has_the_place_that_both_look_for(build, tmp_path: Path) -> None:
    """`layers/<class>_<number of the layer in its class>/vars/<number of the variable>`, by no name."""
    model = build()
    model.save_weights(tmp_path / "model.weights.h5")
    expected, numbers = {}, Counter()
    for layer in model.layers:
        group = GROUPS.get(type(layer).__name__)
        if group is None:
            assert not layer.get_weights(), layer.name
            continue
        place = group if numbers[group] == 0 else f"{group}_{numbers[group]}"
        numbers[group] += 1
        for index, value in enumerate(layer.get_weights()):
            expected[f"layers/{place}/vars/{index}"] = value
    found = {}

    def collect(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.array(item)

    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(collect)
    assert set(found) == {*expected, "san_tf"}  # the record, beside what Keras writes
    for place, value in expected.items():
        np.testing.assert_array_equal(found[place], value, err_msg=place)


def test_the_layers_stand_in_the_order_they_have_on_both() -> None:
    """The numbers hang on it, so it is part of the format: by depth, and within it as they were made."""
    convolutions = [layer.name for layer in decoder().layers if type(layer).__name__ == "Conv2D"]
    assert [name.removesuffix("_conv") for name in convolutions] == [
        *("reduce", "skip3", "up1_1", "up1_2", "skip2", "up2_1", "up2_2"),
        *("skip1", "up3_1", "up3_2", "up4_1", "sketch_reduce", "up4_2", "final"),
    ]
