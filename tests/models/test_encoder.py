import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models import build_encoder
from san_tf.training.precision import precision_scope


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.fixture(scope="module")
def light():
    return build_encoder("thin_resnet", (128, 64, 3), num_classes=10, weights=None, seed=3)


def test_outputs_have_the_shapes_the_paper_gives():
    encoder = build_encoder("resnet50", (256, 128, 3), 751, weights=None)
    output = encoder.output
    assert output["embedding"].shape == (None, 2048) and output["logits"].shape == (None, 751)
    assert [s.shape[1:] for s in output["stages"]] == [
        (64, 32, 256),
        (32, 16, 512),
        (16, 8, 1024),
        (16, 8, 2048),
    ]
    strided = build_encoder("resnet50", (256, 128, 3), 751, weights=None, last_stride=2)
    assert strided.output["stages"][3].shape[1:] == (8, 4, 2048)


@pytest.mark.parametrize(("num_classes", "count"), [(751, 24_943_407), (767, 24_951_615)])
def test_fc512_has_as_many_parameters_as_the_public_code(num_classes, count):
    assert trainable(build_encoder("resnet50", (256, 128, 3), num_classes, "fc512", weights=None)) == count


def test_resnet101_has_as_many_parameters_as_torchvision_without_its_classifier():
    encoder = build_encoder("resnet101", (64, 32, 3), 1, weights=None)
    assert trainable(encoder) == 42_500_160 + 2048 + 1


def test_light_backbone_is_small_and_its_embedding_is_the_pooled_stage(light):
    assert (light.count_params() - 193 * 10) * 4 < 4e6
    image = np.random.default_rng(0).normal(size=(3, 128, 64, 3)).astype(np.float32)
    output = light(image, training=False)
    np.testing.assert_allclose(output["embedding"], np.mean(output["stages"][3], axis=(1, 2)), atol=1e-5)
    assert output["embedding"].shape == (3, 192) and output["stages"][3].shape == (3, 8, 4, 192)


def test_the_seed_decides_the_weights_of_each_layer(light):
    same = build_encoder("thin_resnet", (128, 64, 3), num_classes=10, weights=None, seed=3)
    other = build_encoder("thin_resnet", (128, 64, 3), num_classes=10, weights=None, seed=4)
    for a, b in zip(light.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = "stage2_2_conv"
    assert not np.array_equal(
        light.get_layer(kernel).get_weights()[0], other.get_layer(kernel).get_weights()[0]
    )
    first = light.get_layer("stage4_2_conv").get_weights()[0]
    assert first.std() == pytest.approx(np.sqrt(2 / (9 * 192)), rel=0.02)  # He, fan out


def test_moving_statistics_follow_the_momentum_asked_for():
    encoder = build_encoder("thin_resnet", (32, 32, 3), 4, weights=None, batch_norm_momentum=0.75)
    image = tf.random.stateless_normal((4, 32, 32, 3), [1, 1])
    stem = keras.Model(encoder.input, encoder.get_layer("stem_conv").output)
    encoder(image, training=True)
    mean = np.mean(stem(image), axis=(0, 1, 2))
    np.testing.assert_allclose(encoder.get_layer("stem_bn").moving_mean, 0.25 * mean, atol=1e-6)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_heads_stay_float32_under_mixed_precision(precision):
    with precision_scope(precision):
        encoder = build_encoder("thin_resnet", (32, 16, 3), 5, head="fc512", weights=None)
    output = encoder(tf.ones((2, 32, 16, 3)))
    assert output["embedding"].dtype == output["logits"].dtype == tf.float32
    assert output["stages"][0].dtype == precision.removeprefix("mixed_")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"backbone": "vgg"}, "vgg"),
        ({"head": "fc7"}, "fc7"),
        ({"last_stride": 3}, "last_stride"),
        ({"stride_on": "2x2"}, "2x2"),
        ({"num_classes": 0}, "num_classes"),
        ({"input_shape": (250, 128, 3)}, "input_shape"),
        ({"input_shape": (256, 128, 1)}, "input_shape"),
        ({"input_shape": (48, 48, 3), "last_stride": 2}, "multiples of 32"),
        ({"backbone": "thin_resnet", "weights": "imagenet"}, "no ImageNet weights"),
    ],
)
def test_impossible_values_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        build_encoder(**({"weights": None} | arguments))
