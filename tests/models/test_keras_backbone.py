"""Networks of keras.applications and KerasHub as backbones give what they give by themselves."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from legacy_h5 import save_weights_to_hdf5_group

from san_tf.errors import UserError
from san_tf.models import SAN, build_decoder, build_encoder
from san_tf.models.keras_backbone import build_application
from san_tf.normalization import normalize
from san_tf.training.precision import precision_scope

SHAPE = (64, 32, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.float32)
L = keras.layers


@pytest.fixture(autouse=True)
def _same_weights_each_time():
    keras.utils.set_random_seed(0)


def tiny(mean=(100.0, 110.0, 120.0), last=None, shape=SHAPE):
    """A network of four stages that scales its input itself, with every way of halving a map."""
    x = image = keras.Input(shape)
    x = L.Rescaling(2.0, offset=1.0)(x)
    x = L.Normalization(mean=mean, variance=(900.0, 1600.0, 2500.0))(x)
    x = L.Conv2D(4, 3, 2, "same", activation="relu", name="half")(x)
    x = L.MaxPooling2D(2, name="stage1")(x)
    x = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L.DepthwiseConv2D(3, 2)(x)
    x = L.BatchNormalization(name="stage2")(x)
    x = keras.Sequential([L.LayerNormalization(), L.Conv2D(8, 2, 2)], name="patches")(x)
    y = L.Conv2D(8, 3, 1, "same")(x)
    x = L.Add(name="stage3")([x, y])
    wide = L.Conv2D(16, 1, 1, activation="relu", name="wide")(x)
    x = (last or L.Conv2D(6, 1, 2, name="last"))(wide)
    return keras.Model(image, L.ReLU(name="stage4")(x), name="tiny")


def outputs(model, names, pixels=PIXELS):
    return keras.Model(model.input, [model.get_layer(name).output for name in names])(pixels)


def fix(model, seed=0):
    """Weights, biases and statistics that are not what they start with, none of them vanishing."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [rng.uniform(0.7, 1.3, shape) for _ in range(2)]
                + [0.1 * rng.normal(size=shape)]
                + [rng.uniform(0.7, 1.3, shape)]
            )
        elif not isinstance(layer, L.Normalization):
            layer.set_weights([w + 0.02 * rng.normal(size=w.shape) for w in layer.get_weights()])
    return model


def test_stages_are_the_last_maps_of_each_size_that_nothing_bypasses():
    model = fix(tiny())
    encoder = build_encoder(model, SHAPE, 5, last_stride=2)
    # `wide` is the last at 1/16, behind the sum; inside the residual, nothing is.
    for stage, expected in zip(encoder.output["stages"], ("stage1", "stage2", "wide", "stage4"), strict=True):
        assert stage.shape[1:] == model.get_layer(expected).output.shape[1:]
    ours = encoder(normalize(PIXELS))["stages"]
    for map_, expected in zip(ours, outputs(model, ("stage1", "stage2", "wide", "stage4")), strict=True):
        np.testing.assert_allclose(map_, expected, atol=1e-5 * np.abs(expected).max())


def test_the_own_scaling_of_a_model_is_applied_once_and_is_part_of_its_weights(tmp_path):
    encoder = build_encoder(tiny(), SHAPE, 5, last_stride=2)
    adapter = encoder.get_layer("input_adapter")
    # 2 (255 (std y + mean)) + 1, less 100, by 30: the red channel by hand.
    assert float(adapter.matrix[0, 0]) == pytest.approx(2 * 255 * 0.229 / 30, rel=1e-5)
    assert float(adapter.offset[0]) == pytest.approx((2 * 255 * 0.485 + 1 - 100) / 30, rel=1e-5)

    encoder.save_weights(tmp_path / "x.weights.h5")
    other = build_encoder(tiny(mean=(0.0, 0.0, 0.0)), SHAPE, 5, "plain", 2, tmp_path / "x.weights.h5")
    for a, b in zip(encoder.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "last",
    [
        lambda: L.Conv2D(6, 1, 2),
        lambda: L.MaxPooling2D(1, 2),
        lambda: L.Conv2D(6, 2, 2),
        lambda: keras.Sequential([L.LayerNormalization(), L.Conv2D(6, 2, 2)]),
    ],
)
def test_last_stride_1_computes_the_places_between_as_well(last):
    model = fix(tiny(last=last()))
    strided, dense = (build_encoder(model, SHAPE, 5, last_stride=stride) for stride in (2, 1))
    image = normalize(PIXELS)
    assert dense.output["stages"][3].shape[1:3] == dense.output["stages"][2].shape[1:3] == (4, 2)
    # Where a kernel reaches no further than its stride, every second place is what it was.
    np.testing.assert_allclose(dense(image)["stages"][3][:, ::2, ::2], strided(image)["stages"][3], atol=1e-5)


def test_a_pad_for_stride_2_becomes_one_for_stride_1():
    model = tiny(last=lambda x: L.DepthwiseConv2D(5, 2)(L.ZeroPadding2D(((1, 2), (1, 2)))(x)))
    encoder = build_encoder(model, SHAPE, 5, last_stride=1)
    assert encoder.output["stages"][3].shape[1:] == (4, 2, 16)


@keras.saving.register_keras_serializable("tests")
class Halving(L.Layer):
    """A layer of somebody's own."""

    def call(self, x):
        return x[:, ::2, ::2]

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2, shape[3])


def test_last_stride_1_is_refused_where_the_halving_is_not_understood():
    with pytest.raises(UserError, match=r"tiny cannot be rebuilt with last_stride 1.*last_stride=2"):
        build_encoder(tiny(last=Halving()), SHAPE, 5, last_stride=1)
    encoder = build_encoder(tiny(last=Halving()), SHAPE, 5, last_stride=2)
    assert encoder.output["stages"][3].shape[1:] == (2, 1, 16)


def test_a_model_may_have_been_built_for_another_size_and_is_left_as_it_is():
    model = fix(tiny(shape=(96, 96, 3)))
    before = model.get_weights()
    encoder = build_encoder(model, SHAPE, 5, last_stride=2, batch_norm_momentum=0.5)
    encoder(normalize(PIXELS), training=True)
    same = tiny()
    same.set_weights(before)
    np.testing.assert_allclose(
        build_encoder(model, SHAPE, 5, last_stride=2)(normalize(PIXELS))["stages"][3],
        outputs(same, ["stage4"]),
        atol=1e-5,
    )
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Fifty layers of random weights enlarge roundings, most in EfficientNetV2-B0; preprocessing done twice or not
# at all would change features by their own size.
@pytest.mark.parametrize(
    ("name", "tolerance"), [("ResNet50", 1e-4), ("EfficientNetV2B0", 1e-3), ("ConvNeXtTiny", 1e-4)]
)
def test_features_equal_those_of_keras_applications(name, tolerance):
    model, preprocessing = build_application(f"keras:{name}", SHAPE, None)
    fix(model)
    expected = np.array(model(preprocessing(PIXELS.copy())))
    encoder = build_encoder(model, SHAPE, 5, last_stride=2, preprocessing=preprocessing)
    ours = encoder(normalize(PIXELS))
    assert expected.std() > 0.1
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(ours["stages"][3], expected, atol=atol)
    np.testing.assert_allclose(ours["embedding"], expected.mean((1, 2)), atol=atol)


def test_a_file_that_keras_downloaded_is_read_by_name(tmp_path):
    model, preprocessing = build_application("keras:MobileNetV3Small", SHAPE, None)
    fix(model)
    path = tmp_path / "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5"
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)
    expected = np.array(model(preprocessing(PIXELS.copy())))
    ours = build_encoder("keras:MobileNetV3Small", SHAPE, 5, last_stride=2, weights=path)(normalize(PIXELS))
    np.testing.assert_allclose(ours["stages"][3], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["ResNet50", "EfficientNetV2B0", "ConvNeXtTiny"])
def test_last_stride_1_keeps_the_weights_and_the_size_of_stage_3(name):
    model, preprocessing = build_application(f"keras:{name}", SHAPE, None)
    encoder = build_encoder(model, SHAPE, 5, preprocessing=preprocessing)
    stages = encoder.output["stages"]
    assert [stage.shape[1:3] for stage in stages] == [(16, 8), (8, 4), (4, 2), (4, 2)]
    # All weights but those of a Normalization layer (mean, variance, count), which the adapter replaces.
    kept, own = encoder.get_layer("backbone").get_weights(), model.get_weights()
    for a, b in zip(kept, own[len(own) - len(kept) :], strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(own) - len(kept) in (0, 3)


def test_a_san_trains_behind_one():
    encoder = build_encoder(tiny(), SHAPE, 4)
    decoder = build_decoder([stage.shape for stage in encoder.output["stages"]], (8, 8, 4, 4, 4), seed=1)
    assert decoder.output["texture"].shape == (None, 64, 64, 3)
    san = SAN(encoder, decoder)
    san.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    batch = {
        "image": tf.constant(normalize(np.repeat(PIXELS, 2, 0))),
        "label": tf.constant([0, 0, 1, 1]),
        "texture": tf.zeros((4, 64, 64, 3)),
        "texture_weight": tf.ones(4),
    }
    before = encoder.get_layer("input_adapter").get_weights()
    history = san.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    assert all(np.isfinite(value).all() for value in history.values())
    for a, b in zip(before, encoder.get_layer("input_adapter").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    strided = build_encoder(tiny(), SHAPE, 4, last_stride=2)
    shapes = [stage.shape for stage in strided.output["stages"]]
    assert build_decoder(shapes, (8, 8, 4, 4, 4)).output["texture"].shape == (None, 32, 32, 3)


def test_the_smallest_image_is_large_enough():
    # Its last map is a single place, as is that of every squeeze-and-excitation.
    encoder = build_encoder("keras:MobileNetV3Small", (32, 32, 3), 4, weights=None)
    assert [stage.shape[1] for stage in encoder.output["stages"]] == [8, 4, 2, 2]


def test_last_stride_1_is_refused_where_a_sum_then_no_longer_fits():
    def last(x):
        return L.Add()([L.Conv2D(6, 1, 2)(x), L.Reshape((2, 1, 6))(L.Dense(12)(L.Flatten()(x)))])

    with pytest.raises(UserError, match="use last_stride=2"):
        build_encoder(tiny(last=last), SHAPE, 5, last_stride=1)


def test_the_seed_decides_the_weights():
    a, b, other = (
        build_encoder("keras:MobileNetV3Small", SHAPE, 4, weights=None, seed=seed) for seed in (1, 1, 2)
    )
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    kernels = [(x, y) for x, y in zip(a.get_weights(), other.get_weights(), strict=True) if x.ndim == 4]
    assert kernels and not any(np.array_equal(x, y) for x, y in kernels)


def test_encoder_goes_round_through_its_config_and_obeys_precision():
    with precision_scope("mixed_bfloat16"):
        encoder = build_encoder("keras:MobileNet", SHAPE, 4, weights=None, batch_norm_momentum=0.75)
    output = encoder(normalize(PIXELS))
    assert output["stages"][3].dtype == tf.bfloat16 and output["embedding"].dtype == tf.float32
    norms = [x for x in encoder.get_layer("backbone").layers if isinstance(x, L.BatchNormalization)]
    assert norms and {norm.momentum for norm in norms} == {0.75}
    again = keras.Model.from_config(encoder.get_config())
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(normalize(PIXELS))["embedding"], output["embedding"])


def test_keras_hub_says_itself_where_its_stages_are():
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8, 12, 20],
        stackwise_num_blocks=[2, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
    )
    encoder = build_encoder(model, SHAPE, 4, last_stride=2, preprocessing=normalize)
    expected = keras.Model(model.input, [model.pyramid_outputs[f"P{k}"] for k in range(2, 6)])
    image = normalize(PIXELS)
    for ours, theirs in zip(encoder(image)["stages"], expected(image), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    dense = build_encoder(model, SHAPE, 4, last_stride=1, preprocessing=normalize)
    assert [stage.shape[-1] for stage in dense.output["stages"]] == [64, 8, 12, 20]
    assert dense.output["stages"][3].shape[1:3] == (4, 2)


def test_a_scaling_beside_the_raw_image_is_no_preprocessing():
    image = keras.Input(SHAPE)
    x = L.Concatenate()([L.Rescaling(0.01)(image), image])
    for index in range(5):
        x = L.Conv2D(4, 3, 2, "same", name=f"half{index}")(x)
    model = keras.Model(image, x)
    with pytest.raises(UserError, match="has no layers that scale its input"):
        build_encoder(model, SHAPE, 5, last_stride=2)
    encoder = build_encoder(model, SHAPE, 5, last_stride=2, preprocessing=normalize)
    expected = keras.Model(image, x)(normalize(PIXELS))
    np.testing.assert_allclose(encoder(normalize(PIXELS))["stages"][3], expected, atol=1e-5)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def shared_layer():
    image = keras.Input(SHAPE)
    half = L.Conv2D(3, 3, 2, "same")
    return keras.Model(image, half(half(L.Rescaling(1.0)(image))), name="twice")


def flat():
    numbers = keras.Input((8,))
    return keras.Model(numbers, keras.layers.Dense(8)(numbers), name="flat")


@pytest.mark.parametrize(
    ("backbone", "word"),
    [
        ("keras:ResNet5", "no 'ResNet5'; it has ConvNeXtBase"),
        ("keras:resnet", "no 'resnet'"),
        ("keras:preprocess_input", "no 'preprocess_input'"),
        ("keras:InceptionV3", "InceptionV3|inception_v3"),
        (Subclassed(name="own"), "functional"),
        (shared_layer, "used more than once"),
        (flat, "RGB images"),
        (lambda: fix(keras.applications.ResNet50(include_top=False, weights=None)), "preprocessing"),
        (lambda: keras.Sequential([keras.Input(SHAPE), L.Rescaling(1.0), L.Conv2D(4, 3, 2)]), "1/4 and 1/8"),
    ],
)
def test_impossible_backbones_are_named(backbone, word):
    backbone = backbone() if not isinstance(backbone, (str, keras.Model)) else backbone
    with pytest.raises(UserError, match=word):
        build_encoder(backbone, SHAPE, 5, weights=None)


def test_offline_imagenet_names_the_file(monkeypatch):
    def refuse(**_):
        raise Exception(
            "URL fetch failure on https://storage.googleapis.com/x/b0_notop.h5: None -- [Errno -2]"
        )

    refuse.__module__ = keras.applications.EfficientNetV2B0.__module__
    monkeypatch.setattr(keras.applications, "EfficientNetV2B0", refuse)
    with pytest.raises(UserError, match=r"put https://storage.googleapis.com/x/b0_notop.h5 into .*models"):
        build_encoder("keras:EfficientNetV2B0", SHAPE, 4, weights="imagenet")
