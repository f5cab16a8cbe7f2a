"""keras.applications' ResNet-50 with random weights, folded to our normalisation, gives the same features."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from legacy_h5 import save_weights_to_hdf5_group

from san_tf.errors import UserError
from san_tf.models import build_encoder, pretrained
from san_tf.normalization import normalize

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
