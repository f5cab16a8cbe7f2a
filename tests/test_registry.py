"""Losses and backbones of the user's own, by name: in `SAN`, `build_encoder`, recipes and saved models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import san_tf
from san_tf import registry
from san_tf.errors import UserError

SHAPE = (64, 32, 3)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "LOSSES", {})
    monkeypatch.setattr(registry, "BACKBONES", {})


def tiny(image: keras.KerasTensor, last_stride: int) -> list[keras.KerasTensor]:
    maps, x = [], keras.layers.Conv2D(4, 3, 2, "same")(image)
    for width, stride in ((4, 2), (6, 2), (8, 2), (12, last_stride)):
        maps.append(x := keras.layers.Conv2D(width, 3, stride, "same", activation="relu")(x))
    return maps


def batch() -> tf.data.Dataset:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *SHAPE)).astype(np.float32)
    label = np.repeat(np.arange(4), 2).astype(np.int32)
    return tf.data.Dataset.from_tensors({"image": images, "label": label})


def test_a_registered_loss_is_the_triplet_term_with_label_embedding_and_margin():
    @san_tf.register_loss("mean-square")
    def mean_square(label, embedding, margin):
        return tf.reduce_mean(tf.square(embedding)) + margin

    encoder = san_tf.build_encoder("thin_resnet", SHAPE, num_classes=4, weights=None, seed=0)
    weights = san_tf.LossWeights(identity=0.0, triplet=2.0)
    san = san_tf.SAN(encoder, None, weights, triplet="mean-square", margin=0.25)
    san.compile(keras.optimizers.SGD(0.0))
    told = san.evaluate(batch(), return_dict=True, verbose=0)
    (images,) = [one["image"] for one in batch()]
    embedding = encoder(images, training=False)["embedding"].numpy()
    by_hand = np.mean(embedding.astype(np.float64) ** 2) + 0.25
    assert told["triplet_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert told["loss"] == pytest.approx(2 * by_hand, rel=1e-5)
    assert np.isfinite(san.fit(batch(), verbose=0).history["loss"][0])


@pytest.mark.parametrize("last_stride", [1, 2])
def test_a_registered_backbone_is_built_saved_and_read_again(last_stride: int, tmp_path: Path):
    san_tf.register_backbone("tiny")(tiny)
    encoder = san_tf.build_encoder("tiny", SHAPE, num_classes=4, last_stride=last_stride, weights=None)
    assert [tuple(stage.shape[1:]) for stage in encoder.output["stages"]] == [
        (16, 8, 4), (8, 4, 6), (4, 2, 8), (4 // last_stride, 2 // last_stride, 12)
    ]  # fmt: skip
    san = san_tf.SAN(encoder, None)
    san.compile("sgd")
    san.fit(batch(), verbose=0)
    san.save_to_preset(tmp_path / "preset")
    again = san_tf.SAN.from_preset(str(tmp_path / "preset"))
    for ours, theirs in zip(encoder.get_weights(), again.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    registry.BACKBONES.clear()
    with pytest.raises(UserError, match="Unknown backbone 'tiny'"):
        san_tf.SAN.from_preset(str(tmp_path / "preset"))


def test_what_cannot_be_a_backbone_or_a_name_is_told():
    san_tf.register_backbone("three")(lambda image, last_stride: tiny(image, last_stride)[:3])
    with pytest.raises(UserError, match=r"three gives maps of .* they must be \[\(16, 8\), \(8, 4\)"):
        san_tf.build_encoder("three", SHAPE, num_classes=4, weights=None)
    with pytest.raises(UserError, match="There are no ImageNet weights for three"):
        san_tf.build_encoder("three", SHAPE, num_classes=4, weights="imagenet")
    for name in ("", "a b", "tfa.X", "keras:X", "batch-hard"):
        with pytest.raises(UserError, match="choose another"):
            san_tf.register_loss(name)
    san_tf.register_backbone("resnet50")(tiny)
    with pytest.raises(UserError, match="resnet50, a name of this package"):
        san_tf.build_encoder("resnet50", SHAPE, num_classes=4, weights=None)


def test_a_recipe_names_what_a_module_registers(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import san_tf\n\n@san_tf.register_loss('mine')\ndef mine(*_):\n    return 0.0\n"
    )
    code = (
        "import sys\nfrom san_tf.experiments.flags import parse\n"
        "from san_tf.experiments.recipe import Recipe\n"
        "options, recipe = parse('x', '', Recipe(), ['train'], sys.argv[1:])\n"
        "print(recipe.losses.triplet, 'tensorflow' in sys.modules)"
    )

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "--workdir", "run", "--triplet", "mine", *flags]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert run("--imports", "mine").stdout.split() == ["mine", "False"]
    assert "There is no triplet 'mine'" in run().stderr
    assert "The module 'absent' cannot be imported (ModuleNotFoundError" in run("--imports", "absent").stderr
