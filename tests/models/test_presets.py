import pytest
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models.presets import PRESETS, build_preset, card_of


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_paint_textures_as_high_as_the_image(name):
    arguments = {} if name == "san_light" else {"input_shape": (64, 32, 3)}
    encoder, decoder = build_preset(name, 7, weights=None, seed=1, **arguments)
    height = encoder.input_shape[1]
    assert encoder.output["logits"].shape == (None, 7)
    assert decoder.output["texture"].shape == (None, height, height, 3)
    card = card_of(name)
    assert card.description.endswith(".") and card.licence in ("mit", "apache-2.0")
    # None of them is trained for its task, and each says so.
    assert "untrained" in card.weights or "None:" in card.weights
    assert not card.scores and card.measured.startswith("Not measured")


def test_the_baseline_of_a_preset_starts_with_the_same_encoder():
    baseline, none = build_preset("san_light", 7, decoder=False, seed=1)
    encoder, decoder = build_preset("san_light", 7, seed=1)
    assert none is None and decoder is not None
    for a, b in zip(baseline.weights, encoder.weights, strict=True):
        tf.debugging.assert_equal(tf.convert_to_tensor(a), tf.convert_to_tensor(b))


def test_unknown_preset_is_named():
    with pytest.raises(UserError, match="san_huge"):
        build_preset("san_huge", 7)
