"""The public SAN code's numbers: reference arrays where they are at hand, and the same weights anywhere.

Weights are drawn by name (crc32), so the networks are those that the reference arrays were computed with.
"""

from __future__ import annotations

import json
import zlib

import keras
import numpy as np
import pytest

from san_tf.convert.architectures import DECODER, recognise
from san_tf.convert.to_pytorch import to_state_dict
from san_tf.convert.weight_map import assign
from san_tf.models import build_decoder
from san_tf.models.presets import build_preset
from san_tf.torch_files.tensors import PickledArray

TOLERANCE = 1e-4
SMALL = [(8, 8, 6), (4, 4, 8), (2, 2, 10), (2, 2, 12)]


def drawn(name, shape, kind):
    key = zlib.crc32(f"san-official:{name}".encode())
    z = np.random.default_rng(key).standard_normal(shape)
    scaled = {
        "conv": lambda: z * np.sqrt(2 / np.prod(shape[1:])),
        "linear": lambda: z * np.sqrt(1 / shape[1]),
        "bias": lambda: 0.05 * z,
        "gamma": lambda: 0.5 + 0.1 * z,
        "beta": lambda: 0.1 * z,
        "mean": lambda: 0.1 * z,
        "var": lambda: 1 + 0.2 * np.abs(z),
    }
    return scaled[kind]().astype(np.float32)


def kinds(shapes):
    """The kind of every parameter, told by its name: norms are what has a running mean."""
    norms = {name.removesuffix(".running_mean") for name in shapes if name.endswith(".running_mean")}
    of_norm = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
    result = {}
    for name, shape in shapes.items():
        prefix, _, suffix = name.rpartition(".")
        plain = "bias" if suffix == "bias" else "conv" if len(shape) == 4 else "linear"
        result[name] = of_norm[suffix] if prefix in norms else plain
    return result


@pytest.fixture(scope="module")
def networks():
    """Encoder and decoder of the official preset with the drawn weights."""
    encoder, decoder = build_preset("san_resnet50_official", 751, weights=None)
    for model in (encoder, decoder):
        shapes = {name: value.shape for name, value in to_state_dict(model).items()}
        kind = kinds(shapes)
        tensors = {name: PickledArray(drawn(name, shape, kind[name])) for name, shape in shapes.items()}
        architecture = recognise(tensors, "drawn")
        assign(architecture.counterparts(model), tensors, "drawn")
    return encoder, decoder


@pytest.fixture(scope="module")
def reference(shared):
    file = shared / "parity" / "official_forward.npz" if shared else None
    if file is None or not file.is_file():
        pytest.skip("the arrays of the forward pass are too large for the repository; tests/parity/README.md")
    return np.load(file)


@pytest.fixture(scope="module")
def outputs(networks, reference):
    encoded = networks[0](reference["input"], training=False)
    return encoded, networks[1](encoded["stages"], training=False)


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


PARTS = {
    "embedding": lambda e, d: e["embedding"],
    "logits": lambda e, d: e["logits"],
    "layer1_mean": lambda e, d: np.mean(e["stages"][0], (1, 2)),
    "layer2_mean": lambda e, d: np.mean(e["stages"][1], (1, 2)),
    "layer3_mean": lambda e, d: np.mean(e["stages"][2], (1, 2)),
    "layer4": lambda e, d: e["stages"][3][:1],
    "up1": lambda e, d: d["blocks"][0][:1],
    "up2": lambda e, d: d["blocks"][1][:1, ::2, ::2],
    "up3": lambda e, d: d["blocks"][2][:1, ::4, ::4],
    "up4": lambda e, d: d["blocks"][3][:1, ::4, ::4],
    "texture": lambda e, d: d["texture"],
}


@pytest.mark.parametrize("name", PARTS)
def test_every_array_of_the_public_code_is_matched(name, outputs, reference):
    assert relative(PARTS[name](*outputs), reference[name]) < TOLERANCE


def test_no_reference_array_is_left_out(reference):
    assert set(reference.files) == {*PARTS, "input"}


def test_names_shapes_kinds_and_order_are_those_of_the_public_code(networks, parity):
    listed = json.loads((parity / "official_state_dict.json").read_text())
    for model, part in zip(networks, ("encoder", "decoder"), strict=True):
        shapes = {name: list(value.shape) for name, value in to_state_dict(model).items()}
        kind = kinds(shapes)
        ours = [{"name": name, "shape": shape, "kind": kind[name]} for name, shape in shapes.items()]
        assert ours == listed[part]


@pytest.mark.parametrize(("num_classes", "count"), [(751, 24_943_407), (767, 24_951_615)])
def test_parameters_of_the_encoder(num_classes, count, networks):
    # 512 weights and a bias for each identity more: 16 * 513 = 8,208.
    encoder = networks[0]
    with_751 = sum(int(np.prod(v.shape)) for v in encoder.trainable_variables)
    assert with_751 + (num_classes - 751) * 513 == count


def test_parameters_of_the_decoder(networks):
    assert sum(int(np.prod(v.shape)) for v in networks[1].trainable_variables) == 9_071_075
    assert len(DECODER.counterparts(networks[1])) == 74


# --- against plain NumPy, which anyone has ---
def convolve(x, kernel, stride=1, padding=0, mode="constant", bias=0.0):
    """x (h, w, c) and a PyTorch kernel (out, in, h, w): every output pixel by itself."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), mode=mode).astype(np.float64)
    size = kernel.shape[2]
    rows, columns = ((length - size) // stride + 1 for length in x.shape[:2])
    y = np.empty((rows, columns, kernel.shape[0]))
    for i in range(rows):
        for j in range(columns):
            patch = x[i * stride : i * stride + size, j * stride : j * stride + size]
            y[i, j] = np.einsum("hwc,ochw->o", patch, kernel.astype(np.float64)) + bias
    return y


def norm(x, weights, name):
    gamma, beta, mean, var = (
        weights[f"{name}.{s}"] for s in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def doubled(x):
    """Bilinear, centres of pixels aligned: output pixel i lies at i / 2 - 1 / 4 of the input, kept inside."""
    for axis in (0, 1):
        n = x.shape[axis]
        place = np.clip((np.arange(2 * n) + 0.5) / 2 - 0.5, 0, n - 1)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, n - 1)
        share = (place - below).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = np.take(x, below, axis) * (1 - share) + np.take(x, above, axis) * share
    return x


def relu(x):
    return np.maximum(x, 0)


def test_a_strided_block_of_the_encoder_equals_plain_numpy(networks):
    encoder = networks[0]
    weights = to_state_dict(encoder)
    rng = np.random.default_rng(5)
    x = relu(rng.normal(size=(6, 4, 256)))
    # The block by itself, its layers in order, on a map of its own.
    inputs = keras.Input((6, 4, 256))
    y = inputs
    for index in (1, 2, 3):
        for part in ("conv", "bn") if index == 3 else ("conv", "bn", "relu"):
            if index == 2 and part == "conv":
                y = encoder.get_layer("conv3_block1_2_conv_pad")(y)
            y = encoder.get_layer(f"conv3_block1_{index}_{part}")(y)
    shortcut = encoder.get_layer("conv3_block1_0_bn")(encoder.get_layer("conv3_block1_0_conv")(inputs))
    ours = keras.Model(inputs, keras.layers.ReLU()(y + shortcut))(x[None].astype(np.float32))[0]

    y = relu(norm(convolve(x, weights["layer2.0.conv1.weight"]), weights, "layer2.0.bn1"))
    y = relu(norm(convolve(y, weights["layer2.0.conv2.weight"], 2, 1), weights, "layer2.0.bn2"))
    y = norm(convolve(y, weights["layer2.0.conv3.weight"]), weights, "layer2.0.bn3")
    z = convolve(x, weights["layer2.0.downsample.0.weight"], 2)
    theirs = relu(y + norm(z, weights, "layer2.0.downsample.1"))
    assert relative(ours, theirs) < 1e-5


def test_a_small_official_decoder_equals_plain_numpy():
    decoder = build_decoder(SMALL, (8, 8, 6, 4, 4), skips=True, variant="official", texture_size=40)
    counterparts = DECODER.counterparts(decoder)
    kind = kinds({pair.name: pair.torch_shape for pair in counterparts})
    weights = {pair.name: drawn(pair.name, pair.torch_shape, kind[pair.name]) for pair in counterparts}
    assign(counterparts, {name: PickledArray(value) for name, value in weights.items()}, "drawn")
    rng = np.random.default_rng(6)
    stages = [rng.uniform(0, 1, shape) for shape in SMALL]
    ours = decoder([stage[None].astype(np.float32) for stage in stages], training=False)

    def embed(x, name):
        x = convolve(x, weights[f"{name}.0.weight"], bias=weights[f"{name}.0.bias"])
        return relu(norm(x, weights, f"{name}.1"))

    x = embed(stages[3], "reduce_dim")
    for index in range(1, 5):
        if index <= 3:
            x = x + embed(stages[3 - index], f"embed_layer{4 - index}")
        name = f"up{index}.res.res"
        y = relu(norm(convolve(x, weights[f"{name}.0.weight"], 1, 1), weights, f"{name}.1"))
        y = norm(convolve(y, weights[f"{name}.3.weight"], 1, 1), weights, f"{name}.4")
        kernel, bias = (weights[f"up{index}.conv.2.{part}"] for part in ("weight", "bias"))
        x = convolve(doubled(relu(x + y)), kernel, 1, 1, "reflect", bias)
        assert relative(ours["blocks"][index - 1][0], x) < 1e-5
    x = convolve(x, weights["final_layer.1.weight"], 1, 3, "reflect", weights["final_layer.1.bias"])
    for axis in (0, 1):  # corners stay: output i lies at i (n - 1) / 39 of the input
        place = np.arange(40) * (x.shape[axis] - 1) / 39
        below = np.minimum(np.floor(place).astype(int), x.shape[axis] - 2)
        share = (place - below).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        x = np.take(x, below, axis) * (1 - share) + np.take(x, below + 1, axis) * share
    assert relative(ours["texture"][0], x) < 1e-5


def test_the_small_decoder_on_one_image_differs_from_the_papers():
    official, paper = (
        build_decoder(SMALL, (8, 8, 6, 4, 4), skips=True, variant=variant, seed=1)
        for variant in ("official", "paper")
    )
    for a, b in zip(official.get_weights(), paper.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    stages = [np.random.default_rng(7).normal(size=(1, *shape)).astype(np.float32) for shape in SMALL]
    assert relative(official(stages)["texture"], np.asarray(paper(stages)["texture"])) > 0.01
