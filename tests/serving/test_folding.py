"""Folding: the same function, with batch norms gone into kernels and biases wherever they can go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_encoder import SERVED_SIZE, normed_encoder

from san_tf.errors import UserError
from san_tf.models.encoder import build_encoder
from san_tf.serving import export_encoder, inference, read_metadata
from san_tf.serving.folding import FrozenGraph, fold

L = keras.layers
NORMS = {"Mul", "FusedBatchNormV3", "Rsqrt", "Sub"}


def unsettle(model: keras.Model) -> keras.Model:
    """Give batch norms statistics of a kind that training leaves, so that folding has something to do."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.set_weights(
                [rng.uniform(0.2, 2, shape), *rng.normal(0, 1, (2, *shape)), rng.uniform(0.1, 3, shape)]
            )
    return model


def folded(model: keras.Model) -> FrozenGraph:
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "images")

    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": model(images, training=False)}

    return fold(tf.function(call, autograph=False).get_concrete_function(spec))


def operations(graph: FrozenGraph) -> list[str]:
    return [node.op for node in graph.graph_def.node if node.op not in ("Const", "Placeholder", "Identity")]


def test_kernel_and_bias_by_hand() -> None:
    image = keras.Input((4, 4, 1))
    conv = L.Conv2D(2, 1, use_bias=True)
    norm = L.BatchNormalization(epsilon=0.0)
    model = keras.Model(image, norm(conv(image)))
    conv.set_weights([np.reshape([3.0, 5.0], (1, 1, 1, 2)), np.array([1.0, -1.0])])
    norm.set_weights([np.array(v) for v in ([2.0, 1.0], [10.0, 20.0], [4.0, 7.0], [0.25, 16.0])])
    graph = folded(model)
    assert operations(graph) == ["Conv2D", "BiasAdd"]
    values = {
        n.name: tf.make_ndarray(n.attr["value"].tensor) for n in graph.graph_def.node if n.op == "Const"
    }
    kernel, bias = (value for name, value in sorted(values.items(), key=lambda item: "bias" in item[0]))
    # First channel: factor 2 / 0.5 = 4, kernel 4 * 3, bias 4 * (1 - 4) + 10.
    # Second channel: factor 1 / 4, kernel 5 / 4, bias (-1 - 7) / 4 + 20.
    np.testing.assert_allclose(kernel.ravel(), [12.0, 1.25], rtol=1e-6)
    np.testing.assert_allclose(bias, [-2.0, 18.0], rtol=1e-6)


def pre_activation(x: keras.KerasTensor) -> keras.KerasTensor:
    return L.Conv2D(5, 3)(L.ReLU()(L.BatchNormalization()(x)))


def two_users(x: keras.KerasTensor) -> keras.KerasTensor:
    x = L.Conv2D(4, 1)(x)
    return L.Add()([L.BatchNormalization()(x), x])


def residual(x: keras.KerasTensor) -> keras.KerasTensor:
    y = L.BatchNormalization()(L.Conv2D(3, 3, padding="same")(x))
    return L.ReLU()(L.Add()([x, y]))


def two_norms(x: keras.KerasTensor) -> keras.KerasTensor:
    x = L.Conv2D(4, 3, use_bias=False)(x)
    return L.BatchNormalization()(L.BatchNormalization()(x))


def dense(x: keras.KerasTensor) -> keras.KerasTensor:
    return L.ReLU()(L.BatchNormalization()(L.Dense(6)(L.GlobalAveragePooling2D()(x))))


NETWORKS: dict[str, tuple[Callable, bool]] = {
    "convolution": (lambda x: L.BatchNormalization()(L.Conv2D(4, 3, strides=2)(x)), True),
    "without scale": (lambda x: L.BatchNormalization(scale=False)(L.Conv2D(4, 3)(x)), True),
    "depthwise": (lambda x: L.BatchNormalization()(L.DepthwiseConv2D(3, depth_multiplier=2)(x)), True),
    "separable": (lambda x: L.BatchNormalization()(L.SeparableConv2D(4, 3)(x)), True),
    "two norms": (two_norms, True),
    "residual": (residual, True),
    "dense": (dense, True),
    "norm in front": (pre_activation, False),
    "needed before the norm too": (two_users, False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_stays_what_it_is(name: str) -> None:
    build, goes = NETWORKS[name]
    keras.utils.set_random_seed(2)
    image = keras.Input((9, 7, 3))
    model = keras.Model(image, build(image))
    if name == "without scale":
        (norm,) = (layer for layer in model.layers if isinstance(layer, L.BatchNormalization))
        norm.set_weights([np.linspace(-1, 1, 4), np.linspace(2, 3, 4), np.linspace(0.1, 4, 4)])
    else:
        unsettle(model)
    images = np.random.default_rng(0).normal(size=(3, 9, 7, 3)).astype(np.float32)
    wanted = model(images, training=False).numpy()
    graph = folded(model)
    np.testing.assert_allclose(graph(tf.constant(images))["embedding"], wanted, atol=2e-5)
    assert wanted.std() > 0.1
    assert not (set(operations(graph)) & NORMS) or not goes


def test_fused_norms_as_keras_2_writes_them() -> None:
    rng = np.random.default_rng(1)
    kernel = tf.Variable(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))
    gamma, beta, mean, variance = (tf.Variable(rng.uniform(0.5, 2, 4).astype(np.float32)) for _ in range(4))

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 6, 3))], autograph=False)
    def call(images: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.conv2d(images, kernel, 1, "SAME")
        normed, _, _ = tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False
        )
        return {"embedding": tf.nn.relu(normed)}

    graph = fold(call.get_concrete_function())
    assert operations(graph) == ["Conv2D", "BiasAdd", "Relu"]
    images = tf.constant(rng.normal(size=(2, 8, 6, 3)).astype(np.float32))
    np.testing.assert_allclose(graph(images)["embedding"], call(images)["embedding"], atol=1e-5)


@pytest.mark.parametrize("backbone", ["thin_resnet", pytest.param("osnet_x0_25", marks=pytest.mark.slow)])
def test_encoders_of_the_package_keep_no_norm(backbone: str, tmp_path: Path) -> None:
    encoder = unsettle(build_encoder(backbone, (64, 32, 3), 5, head="fc512", weights=None, seed=1))
    folder = export_encoder(encoder, tmp_path, (64, 32), normalize=False, warmup_batches=())
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), dtype=np.uint8)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    plain = export_encoder(encoder, tmp_path, (64, 32), normalize=False, fold_norms=False, version=2)
    unfolded = tf.saved_model.load(str(plain)).signatures["serving_default"]
    wanted = unfolded(images=tf.constant(images))["embedding"].numpy()
    found = served(images=tf.constant(images))["embedding"].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.linalg.norm(wanted, axis=1).max())
    assert read_metadata(folder)["norms_folded"] and not read_metadata(plain)["norms_folded"]
    numbers = []
    for place in (folder, plain):
        reader = tf.train.load_checkpoint(str(place / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        numbers.append(sum(int(np.prod(s)) for n, s in shapes.items() if "VARIABLE_VALUE" in n))
    assert numbers[0] < numbers[1]


def test_what_folding_changes_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "FOLDING_TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"embedding differs by .* export it with fold_norms=False"):
        export_encoder(normed_encoder(), tmp_path, SERVED_SIZE)
    assert not list(tmp_path.iterdir())
    export_encoder(normed_encoder(), tmp_path, SERVED_SIZE, fold_norms=False)
