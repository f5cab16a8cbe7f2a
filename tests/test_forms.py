"""Networks of equal shapes and other outputs: their weights files tell them apart, and nothing else does."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from san_tf.checkpoints import restore, save
from san_tf.errors import UserError
from san_tf.forms import difference, form_of
from san_tf.models import SAN, SANPG, build_decoder, build_encoder
from san_tf.models.layer_factory import LayerFactory
from san_tf.models.resnet import ResNetForm, resnet_stages
from san_tf.models.weights_file import Network
from san_tf.training.precision import precision_scope

SHAPE = (64, 32, 3)
IMAGES = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


def resnet(stride_on="3x3", pool_padding="both", last_stride=1, size=SHAPE, seed=1):
    """The stages of a ResNet of one block a stage."""
    image = keras.Input(size, name="image")
    form = ResNetForm(stride_on, pool_padding)
    stages = resnet_stages(image, (1, 1, 1, 1), last_stride, form, LayerFactory(seed))
    return Network(image, {"stages": stages, "embedding": keras.layers.GlobalAveragePooling2D()(stages[-1])})


def thin(last_stride=1, size=SHAPE, seed=1, **arguments):
    return build_encoder(
        "thin_resnet", size, 4, last_stride=last_stride, weights=None, seed=seed, **arguments
    )


def efficient(last_stride=1, seed=1):
    return build_encoder("efficientnet_lite0", SHAPE, 4, last_stride=last_stride, weights=None, seed=seed)


def application(last_stride=1, seed=1):
    return build_encoder("keras:MobileNet", SHAPE, 4, last_stride=last_stride, weights=None, seed=seed)


def unnamed(activation="relu", dilation=1, seed=1):
    """Somebody's own backbone, whose layers have the names that Keras counts up."""
    x = image = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 255.0)(x)
    for _ in range(4):
        x = keras.layers.Conv2D(4, 3, 2, "same")(x)
        x = keras.layers.Activation(activation)(x)
    x = keras.layers.Conv2D(4, 3, 1, "same", dilation_rate=dilation)(x)
    x = keras.layers.MaxPooling2D(2, 2)(x)
    backbone = keras.Model(image, x, name="own")
    return build_encoder(backbone, SHAPE, 4, last_stride=2, weights=None, seed=seed)


def decoder(seed=1, **arguments):
    shapes = [(8, 4, 8), (4, 2, 8), (2, 2, 8), (2, 2, 8)]
    return build_decoder(shapes, (8, 8, 8, 4, 4), seed=seed, **arguments)


PAIRS = {
    "stride_on": (resnet, {"stride_on": "1x1"}, "stride_on='1x1'", "stride_on='3x3'"),
    "pool_padding": (resnet, {"pool_padding": "end"}, "pool_padding='end'", "pool_padding='both'"),
    "last_stride of a ResNet": (resnet, {"last_stride": 2}, "last_stride=2", "last_stride=1"),
    "last_stride of thin_resnet": (thin, {"last_stride": 2}, "last_stride=2", "last_stride=1"),
    "size of the images": (thin, {"size": (64, 64, 3)}, "[64, 64, 3]", "[64, 32, 3]"),
    "activation of one's own": (unnamed, {"activation": "gelu"}, "'gelu'", "'relu'"),
    "dilation of one's own": (unnamed, {"dilation": 2}, "dilation_rate=[2, 2]", "dilation_rate=[1, 1]"),
    "size of the texture": (decoder, {"texture_size": 64}, "texture_size=64", "texture_size=32"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_weights_of_another_form_are_refused_with_both_values(name, tmp_path) -> None:
    build, change, theirs, ours = PAIRS[name]
    own = build(seed=1)
    other = build(seed=2, **change)
    path = tmp_path / "other.weights.h5"
    # They fit: only the form tells that they are those of another function.
    assert [w.shape for w in own.get_weights()] == [w.shape for w in other.get_weights()]
    other.save_weights(path)
    checkpoint = save(tmp_path / "other.safetensors", other, None, step=0)
    before = own.get_weights()
    for load in (lambda: own.load_weights(path), lambda: restore(checkpoint, own)):
        with pytest.raises(UserError) as caught:
            load()
        assert theirs in str(caught.value) and ours in str(caught.value) and "\n" not in str(caught.value)
    for one, two in zip(before, own.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    # The same form, built a second time in the process, takes them to the bit.
    again = build(seed=3, **change)
    again.load_weights(path)
    for one, two in zip(other.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("build", [efficient, application])
def test_the_larger_backbones_state_their_form_too(build) -> None:
    first, again, other = form_of(build()), form_of(build()), form_of(build(last_stride=2))
    assert difference(first, again) is None
    assert difference(first, other) == ("last_stride", 1, 2)
    # The layers alone tell it as well, should the facts not.
    found = difference(first | {"facts": {}}, other)
    assert found is not None and found[0].endswith((".strides", ".padding"))


def test_the_strides_do_change_the_stages() -> None:
    """What the refusal is for: equal weights, other features, a third of their size apart."""
    first, second = resnet("1x1"), resnet("3x3")
    second.set_weights(first.get_weights())
    one, two = (np.array(model(IMAGES)["embedding"]) for model in (first, second))
    assert np.abs(one - two).max() > 0.1 * np.abs(one).max()


def test_what_only_training_sees_is_no_form(tmp_path) -> None:
    first = thin()
    first.save_weights(tmp_path / "a.weights.h5")
    thin(batch_norm_momentum=0.5, seed=9).load_weights(tmp_path / "a.weights.h5")
    with precision_scope("mixed_float16"):
        mixed = thin(seed=9)
    mixed.load_weights(tmp_path / "a.weights.h5")
    mixed.trainable = False
    assert difference(form_of(first), form_of(mixed)) is None


def test_a_file_is_checked_by_build_encoder_and_after_load_model_too(tmp_path) -> None:
    path = tmp_path / "a.weights.h5"
    thin().save_weights(path)
    with pytest.raises(UserError, match=r"last_stride=1, and encoder_thin_resnet has last_stride=2"):
        build_encoder("thin_resnet", SHAPE, 4, last_stride=2, weights=path)
    thin(last_stride=2).save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    with pytest.raises(UserError, match=r"last_stride=1, .* has last_stride=2"):
        again.load_weights(path)
    with pytest.raises(UserError, match=r"last_stride=2, .* has last_stride=1"):
        thin().load_weights(tmp_path / "a.keras")


def test_models_of_two_parts(tmp_path) -> None:
    def parts(last_stride):
        encoder = thin(last_stride=last_stride)
        shapes = [stage.shape for stage in encoder.output["stages"]]
        return encoder, build_decoder(shapes, (8, 8, 8, 4, 4), texture_size=64, seed=1)

    for kind in (SAN, SANPG):
        path = tmp_path / f"{kind.__name__}.weights.h5"
        kind(*parts(1)).save_weights(path)
        kind(*parts(1)).load_weights(path)
        with pytest.raises(UserError, match=r"last_stride=1, and .* has last_stride=2"):
            kind(*parts(2)).load_weights(path)


def test_files_of_former_versions_load_and_it_is_told_what_is_taken_for_granted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = resnet()
    path = tmp_path / "former.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        del file["san_tf"]
    with caplog.at_level(logging.WARNING):
        resnet(seed=2).load_weights(path)
    assert "former.weights.h5 does not say what form" in caplog.text
    assert "stride_on='3x3', pool_padding='both', last_stride=1" in caplog.text
    # Files that `san_tf.convert` wrote had two attributes.
    with h5py.File(path, "a") as file:
        file.attrs["stride_on"], file.attrs["pool_padding"] = "1x1", "both"
    with pytest.raises(UserError, match=r"stride_on='1x1', and .* has stride_on='3x3'"):
        model.load_weights(path)


def test_damaged_weights_are_never_loaded(tmp_path: Path) -> None:
    model = thin()
    path = tmp_path / "a.weights.h5"
    model.save_weights(path)
    sound = path.read_bytes()
    kernel = np.ascontiguousarray(model.get_layer("stage3_1_conv").get_weights()[0]).tobytes()
    place = sound.index(kernel[:64])
    damages = {
        "one bit": sound[: place + 3] + bytes([sound[place + 3] ^ 64]) + sound[place + 4 :],
        "a block of zeros": sound[:place] + bytes(4096) + sound[place + 4096 :],
        "last half zero": sound[: len(sound) // 2] + bytes(len(sound) - len(sound) // 2),
        "cut short": sound[:-1000],
        "empty": b"",
    }
    fresh = thin(seed=2)
    before = fresh.get_weights()
    for damage, content in damages.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.weights\.h5 is (damaged|not a readable)") as caught:
            fresh.load_weights(path)
        assert "\n" not in str(caught.value), damage
    for one, two in zip(before, fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    # Each bit of the record itself: it is told, or was none of what is read.
    path.write_bytes(sound)
    with h5py.File(path, "a") as file:
        record = np.array(file["san_tf"])
        record[100] ^= 1
        del file["san_tf"]
        file["san_tf"] = record
    with pytest.raises(UserError, match="its record does not match its digest"):
        fresh.load_weights(path)


def test_arrays_of_other_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(4, np.float32)
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
        file.create_virtual_dataset("layers/dense/vars/0", layout)
    with pytest.raises(UserError, match="reads arrays from other files"):
        thin().load_weights(path)
