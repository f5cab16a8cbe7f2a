"""keras.applications' ResNet-50 with random weights, folded to our normalisation, gives the same features."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from legacy_h5 import save_weights_to_hdf5_group

from san_tf.adaptation import trainable_encoder
from san_tf.errors import UserError
from san_tf.experiments.recipe import NAMED_WEIGHTS
from san_tf.models import SAN, build_encoder, pretrained
from san_tf.normalization import normalize
from san_tf.trusted import shipped_presets

SHAPE = (96, 96, 3)


@pytest.fixture(scope="module")
def application():
    """With biases and moving statistics that are not zero, so that folding them matters."""
    model = keras.applications.ResNet50(include_top=False, weights=None, input_shape=SHAPE)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name.endswith("_conv"):
            scale = (
                1 / 60 if layer.name == "conv1_conv" else 1.0
            )  # its input is 60 times larger than the others'
            layer.set_weights([weights[0] * scale, rng.normal(0, 0.2, weights[1].shape)])
        elif layer.name.endswith("_bn"):
            shape = weights[0].shape
            gain = 0.3 if layer.name.endswith("_3_bn") else 1.0
            layer.set_weights(
                [
                    gain * rng.uniform(0.8, 1.2, shape),
                    rng.normal(0, 0.1, shape),
                    rng.normal(0, 0.1, shape),
                    rng.uniform(0.8, 1.2, shape),
                ]
            )
    return model


@pytest.fixture(scope="module")
def weights_file(application, tmp_path_factory):
    """Named and laid out as the files keras.applications downloads."""
    path = tmp_path_factory.mktemp("weights") / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, application)
    return path


@pytest.fixture(scope="module")
def photo():
    """Smooth colours and noise, uint8 RGB."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:96, 0:96]
    image = np.stack([2 * x, 2 * y, 255 - x - y], axis=-1) * 0.9 + rng.normal(0, 12, (96, 96, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def encoder(weights_file):
    return build_encoder("resnet50", SHAPE, 5, weights=weights_file, last_stride=2)


def test_first_convolution_is_exact_inside_the_image(application, encoder, photo):
    caffe = keras.applications.resnet.preprocess_input(photo[None].astype(np.float32))
    theirs = keras.Model(application.input, application.get_layer("conv1_bn").output)(caffe)
    ours = keras.Model(encoder.input, encoder.get_layer("conv1_bn").output)(normalize(photo)[None])
    difference = np.abs(theirs - ours)[0]
    assert difference[2:-2, 2:-2].max() < 2e-4
    # At the border zeros stand for caffe's mean there, for ours here: less than half a grey level apart.
    assert 0 < difference.max() < 0.05


def test_features_equal_keras_applications(application, encoder, photo):
    caffe = keras.applications.resnet.preprocess_input(photo[None].astype(np.float32))
    theirs = np.array(application(caffe))
    ours = np.array(encoder(normalize(photo)[None])["stages"][3])
    assert theirs.shape == ours.shape and theirs.std() > 0.05
    # The border of conv1 differs slightly and reaches everywhere within fifty layers.
    assert np.abs(theirs - ours).max() < 0.01 * np.abs(theirs).max()


def test_everything_behind_the_border_is_exact(application, encoder, photo, monkeypatch):
    """With a constant image of caffe's mean as padding the border is exact too, and so is all the rest."""
    caffe = keras.applications.resnet.preprocess_input(photo[None].astype(np.float32))
    mean = (pretrained.CAFFE_MEAN_BGR[::-1] / 255 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    padded = np.tile(mean.astype(np.float32), (1, 102, 102, 1))
    padded[:, 3:-3, 3:-3] = normalize(photo)
    kernel = encoder.get_layer("conv1_conv").get_weights()[0]
    rest = keras.Model(encoder.get_layer("conv1_bn").input, encoder.output["stages"][3])
    ours = np.array(rest(tf.nn.conv2d(padded, kernel, 2, "VALID")))
    theirs = np.array(application(caffe))
    np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max())


def test_own_weights_file_goes_round(tmp_path):
    encoder = build_encoder("thin_resnet", (32, 16, 3), 4, weights=None, seed=1)
    path = tmp_path / "light.weights.h5"
    encoder.save_weights(path)
    again = build_encoder("thin_resnet", (32, 16, 3), 4, weights=path, seed=2)
    for a, b in zip(encoder.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=r"light.weights.h5 does not fit"):
        build_encoder("thin_resnet", (32, 16, 3), 7, weights=path)


def test_missing_damaged_and_misnamed_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.weights.h5 does not exist"):
        build_encoder("thin_resnet", (32, 16, 3), 4, weights=tmp_path / "nowhere.weights.h5")
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"not hdf5")
    misnamed = tmp_path / "misnamed.h5"
    with h5py.File(misnamed, "w"):
        pass
    with pytest.raises(UserError, match=r"misnamed.h5 must be named"):
        build_encoder("thin_resnet", (32, 16, 3), 4, weights=misnamed)
    with pytest.raises(UserError, match=r"damaged.weights.h5 is not a readable"):
        build_encoder("thin_resnet", (32, 16, 3), 4, weights=damaged)


def test_imagenet_file_of_another_network_is_refused(weights_file):
    with pytest.raises(UserError, match="no thin_resnet"):
        build_encoder("thin_resnet", (32, 16, 3), 4, weights=weights_file)


def test_offline_imagenet_says_which_file_to_put_where(monkeypatch):
    def refuse(**_):
        raise Exception("URL fetch failure on https://...: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.applications, "ResNet50", refuse)
    with pytest.raises(UserError, match=r"resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 .*models"):
        build_encoder("resnet50", (64, 32, 3), 4, weights="imagenet")


def test_the_weights_that_come_along_start_a_backbone_that_tells_colours_apart():
    arguments = {"input_shape": (128, 64, 3), "num_classes": 3, "head": "bnneck", "seed": 0}
    random = build_encoder("thin_resnet", weights=None, **arguments)
    started = build_encoder("thin_resnet", weights="painting", **arguments)
    for layer in random.layers:
        if layer.name in ("classifier", "neck_bn"):
            for first, second in zip(
                layer.get_weights(), started.get_layer(layer.name).get_weights(), strict=True
            ):
                np.testing.assert_array_equal(first, second)
    # Kernels are kept as float16 and used as float32.
    assert {
        variable.dtype if isinstance(variable.dtype, str) else variable.dtype.name
        for variable in started.weights
    } == {"float32"}
    assert all(np.isfinite(value).all() for value in started.get_weights())
    # A generator reads colours: shirts of two colours are further apart than two shades of one, for all it
    # has seen. Random weights know lightness as well as hue.
    shirts = np.full((3, 128, 64, 3), 128, np.uint8)
    for picture, color in zip(shirts, ((200, 30, 30), (170, 25, 25), (30, 30, 200)), strict=True):
        picture[30:70, 16:48] = color
    features = started(normalize(shirts.astype(np.float32)), training=False)["feature"].numpy()
    shades, colors = (float(np.linalg.norm(features[0] - features[n])) for n in (1, 2))
    assert shades < 0.6 * colors


@pytest.mark.parametrize("backbone", ["resnet50", "osnet_x0_25", "keras:MobileNetV2"])
def test_a_backbone_without_weights_that_come_along_says_which_has_them(backbone):
    with pytest.raises(UserError, match="are of thin_resnet, not of"):
        build_encoder(backbone, (64, 32, 3), 2, weights="painting")


def test_the_weights_that_come_along_are_not_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "painting").write_text("not weights")
    build_encoder("thin_resnet", (64, 32, 3), 2, weights="painting")


COMES_ALONG = {"people": "efficientnet_lite0", "people_scratch": "thin_resnet"}


def test_the_trained_encoders_that_come_along_are_named_where_they_can_be_chosen():
    assert shipped_presets() == sorted(COMES_ALONG)
    assert {"imagenet", "painting", *COMES_ALONG} == set(NAMED_WEIGHTS)


@pytest.mark.parametrize(("name", "backbone"), COMES_ALONG.items())
def test_an_encoder_that_comes_along_continues_with_other_identities(name, backbone):
    arguments = {"num_classes": 3, "head": "bnneck", "seed": 0}
    trained = trainable_encoder(name)
    started = build_encoder(backbone, (128, 64, 3), weights=name, **arguments)
    random = build_encoder(backbone, (128, 64, 3), weights=None, **arguments)
    images = np.random.default_rng(0).normal(size=(2, 128, 64, 3)).astype(np.float32)
    wanted, found = (network(images, training=False) for network in (trained, started))
    np.testing.assert_array_equal(found["embedding"], wanted["embedding"])
    # Its own identities: the classifier is the one of a new network.
    assert found["logits"].shape == (2, 3)
    for one, other in zip(
        started.get_layer("classifier").get_weights(),
        random.get_layer("classifier").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_encoder_that_comes_along_fits_other_sizes_and_the_plain_head():
    trained = trainable_encoder("people_scratch")
    small = build_encoder("thin_resnet", (64, 32, 3), 5, head="plain", weights="people_scratch")
    np.testing.assert_array_equal(
        small.get_layer("stem_conv").get_weights()[0], trained.get_layer("stem_conv").get_weights()[0]
    )


def test_the_encoder_that_comes_along_refuses_other_networks():
    with pytest.raises(UserError, match="are of thin_resnet, not of resnet50"):
        build_encoder("resnet50", (64, 32, 3), 2, weights="people_scratch")
    with pytest.raises(UserError, match="are of efficientnet_lite0, not of thin_resnet"):
        build_encoder("thin_resnet", (64, 32, 3), 2, weights="people")
    with pytest.raises(UserError, match=r"no weights for the layer fc: .* head 'bnneck'"):
        build_encoder("thin_resnet", (64, 32, 3), 2, head="fc512", weights="people_scratch")
    with pytest.raises(UserError, match="pooling 'avg'"):
        build_encoder("thin_resnet", (64, 32, 3), 2, head="bnneck", pooling="gem", weights="people_scratch")


@pytest.mark.parametrize("name", COMES_ALONG)
def test_an_encoder_that_comes_along_is_a_preset(name):
    trained = trainable_encoder(name)
    images = np.random.default_rng(0).normal(size=(2, 128, 64, 3)).astype(np.float32)
    wanted = trained(images, training=False)["embedding"]
    encoder = build_encoder.from_preset(name)
    np.testing.assert_array_equal(encoder(images, training=False)["embedding"], wanted)
    san = SAN.from_preset(name, num_classes=7)
    np.testing.assert_array_equal(san.encoder(images, training=False)["embedding"], wanted)
    assert san.encoder(images, training=False)["logits"].shape == (2, 7) and san.decoder is None
