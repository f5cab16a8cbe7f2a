import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_tf.errors import UserError
from san_tf.models.input_adapter import InputAdapter, affine_of, from_normalized
from san_tf.normalization import normalize
from san_tf.training.precision import precision_scope

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "preprocessing",
    [
        keras.applications.resnet.preprocess_input,  # BGR, means taken off
        keras.applications.mobilenet_v2.preprocess_input,  # [-1, 1]
        keras.applications.densenet.preprocess_input,  # [0, 1], ImageNet mean and deviation
        keras.applications.efficientnet.preprocess_input,  # nothing
        normalize,
    ],
)
def test_normalised_images_become_what_the_preprocessing_gives(preprocessing):
    expected = np.asarray(preprocessing(PIXELS.astype(np.float32)))
    adapter = InputAdapter(*from_normalized(affine_of(preprocessing)))
    np.testing.assert_allclose(adapter(normalize(PIXELS)), expected, atol=1e-4, rtol=1e-5)


def test_our_own_normalisation_needs_no_change():
    affine = from_normalized(affine_of(normalize))
    np.testing.assert_allclose(affine.matrix, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(affine.offset, 0, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-4, 4), min_size=9, max_size=9), st.lists(st.floats(-300, 300), min_size=3, max_size=3)
)
def test_any_affine_map_is_found(matrix, offset):
    matrix = np.array(matrix).reshape(3, 3)
    found = affine_of(lambda pixels: pixels.astype(np.float64) @ matrix.T + offset)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-6)
    np.testing.assert_allclose(found.offset, offset, atol=1e-6)


@pytest.mark.parametrize(
    ("preprocessing", "word"),
    [
        (lambda pixels: pixels**2, "fixed scale and offset"),
        (lambda pixels: pixels - pixels.mean(), "fixed scale and offset"),
        (lambda pixels: pixels[..., 0], "same shape"),
        (lambda pixels: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_not_affine_is_refused(preprocessing, word):
    with pytest.raises(UserError, match=word):
        affine_of(preprocessing)


def test_values_are_untrained_weights_and_float32_in_any_precision():
    with precision_scope("mixed_float16"):
        adapter = InputAdapter(127.5 * np.eye(3), [1.0, 2.0, 3.0], name="adapter")
        image = keras.Input((4, 4, 3))
        model = keras.Model(image, adapter(image))
    assert not model.trainable_variables and len(model.get_weights()) == 2
    assert model(normalize(PIXELS[:, :4])).dtype == "float32"
    again = keras.Model.from_config(model.get_config())
    np.testing.assert_array_equal(again(normalize(PIXELS[:, :4])), model(normalize(PIXELS[:, :4])))
