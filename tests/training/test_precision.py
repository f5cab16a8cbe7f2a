import keras
import pytest

from san_tf.errors import UserError
from san_tf.training.precision import PRECISIONS, get_precision, precision_scope, set_precision


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_built_inside_compute_in_the_precision_and_keep_float32_weights(precision):
    former = get_precision()
    with precision_scope(precision):
        assert get_precision() == precision
        layer = keras.layers.Dense(2)
        layer.build((1, 3))
    assert get_precision() == former
    assert layer.compute_dtype == precision.removeprefix("mixed_")
    assert layer.kernel.dtype == "float32"


def test_the_former_precision_returns_after_an_error():
    with pytest.raises(RuntimeError), precision_scope("mixed_bfloat16"):
        raise RuntimeError
    assert get_precision() == "float32"


def test_unknown_precision_is_named():
    with pytest.raises(UserError, match="float8"):
        set_precision("float8")
