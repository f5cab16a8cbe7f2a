"""Textures mixed from the photograph's own colours."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_san import tiny_encoder

from san_tf.errors import UserError
from san_tf.models import SAN, SANPG, build_decoder, build_encoder
from san_tf.models.decoder import PaletteMix, decoder_inputs
from san_tf.normalization import normalize, texture_to_uint8
from san_tf.training.optimizers import build_optimizer
from san_tf.training.precision import precision_scope

SIZE = (32, 16, 3)
WIDTHS = (8, 8, 6, 4, 4)


def picture(seed=0, batch=2):
    return np.random.default_rng(seed).integers(0, 256, (batch, *SIZE), dtype=np.uint8)


def networks(seed=1, **arguments):
    encoder = build_encoder("thin_resnet", SIZE, 5, weights=None, seed=seed)
    shapes = [stage.shape for stage in encoder.output["stages"]]
    return encoder, build_decoder(shapes, WIDTHS, palette=4, seed=seed, **arguments)


def test_sharp_masks_copy_pixels():
    image = picture()
    # Two colours, of the places (1, 2) and (3, 0) of 4 x 4; texels take the first, but for one.
    places = np.full((2, 4, 4, 2), -100.0, np.float32)
    places[:, 1, 2, 0] = places[:, 3, 0, 1] = 100.0
    texels = np.zeros((2, 3, 3, 2), np.float32)
    texels[..., 0] = 200.0
    texels[:, 2, 1, 1] = 400.0
    texture = texture_to_uint8(PaletteMix()([texels, places, normalize(image)]).numpy()).astype(int)
    # A place is 8 x 4 pixels of the picture.
    first, second = image[:, 8:16, 8:12].mean((1, 2)), image[:, 24:32, 0:4].mean((1, 2))
    np.testing.assert_allclose(texture[:, 0, 0], first, atol=0.51)
    np.testing.assert_allclose(texture[:, 2, 1], second, atol=0.51)
    np.testing.assert_array_equal(texture[:, 2, 2], texture[:, 0, 0])


def test_even_masks_give_the_mean_colour():
    image = picture(1)
    texture = PaletteMix()([np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3)), normalize(image)]).numpy()
    wanted = image.mean((1, 2)) / 127.5 - 1
    np.testing.assert_allclose(texture, np.broadcast_to(wanted[:, None, None], texture.shape), atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_textures_have_no_colour_that_the_picture_has_not(precision):
    with precision_scope(precision):
        encoder, decoder = networks(sketch=8, texture_size=20)
    model = SANPG(encoder, decoder)
    for color in ([250, 10, 10], [10, 200, 30]):
        image = np.broadcast_to(np.uint8(color), (2, *SIZE))
        output = model(tf.constant(normalize(image)))
        assert output["texture"].dtype == tf.float32 and output["texture"].shape == (2, 20, 20, 3)
        np.testing.assert_allclose(texture_to_uint8(output["texture"].numpy()), color_of(color), atol=1)


def color_of(color):
    return np.broadcast_to(np.array(color), (2, 20, 20, 3))


@pytest.mark.parametrize("size", [(32, 32, 3), (64, 32, 3), (96, 64, 3)])
def test_any_image_size_is_painted(size):
    encoder = build_encoder("thin_resnet", size, 5, weights=None, last_stride=2, seed=1)
    stages = encoder.output["stages"]
    decoder = build_decoder([stage.shape for stage in stages], WIDTHS, palette=4, texture_size=32)
    texture = SANPG(encoder, decoder)(tf.zeros((1, *size)))["texture"]
    assert texture.shape == (1, 32, 32, 3)


def two_coloured(rows):
    """Four figures of two colours, one above the other, `(4, rows, 1, 3)` uint8."""
    above = np.uint8([[230, 30, 30], [30, 200, 40], [40, 60, 220], [220, 210, 40]])[:, None, None]
    return np.concatenate([np.repeat(color, rows // 2, axis=1) for color in (above, 255 - above)], axis=1)


@pytest.mark.parametrize("kind", [SANPG, SAN])
def test_both_models_learn_to_paint_and_every_weight_moves(kind):
    encoder = tiny_encoder()
    decoder = build_decoder(
        [stage.shape for stage in encoder.output["stages"]], WIDTHS, palette=4, sketch=8, texture_size=16
    )
    model = SANPG(encoder, decoder) if kind is SANPG else SAN(encoder, decoder, pairs=1)
    image = np.repeat(two_coloured(SIZE[0]), SIZE[1], axis=2)
    texture = np.repeat(two_coloured(16), 16, axis=2).astype(np.float32) / 127.5 - 1
    batch = {"image": normalize(image), "label": np.int32([0, 0, 1, 1])}
    batch |= {"texture": texture, "texture_weight": np.ones(4, np.float32)}
    before = [value.numpy() for value in decoder.trainable_variables]
    model.compile(optimizer=build_optimizer(schedule=1e-2), jit_compile=False)
    data = tf.data.Dataset.from_tensors(batch).repeat()
    # The colours to paint are in the picture, so the loss falls towards 0: no rounding decides this.
    losses = model.fit(data, epochs=4, steps_per_epoch=15, verbose=0).history["rec_loss"]
    assert losses[-1] < 0.6 * losses[0]
    # The sketch starts at 0, and with it the gradient of what feeds it: one step later that moves too.
    moved = [np.any(a != b.numpy()) for a, b in zip(before, decoder.trainable_variables, strict=True)]
    assert all(moved)


def test_a_decoder_with_a_palette_is_saved_and_read(tmp_path):
    encoder, decoder = networks()
    decoder.save(tmp_path / "decoder.keras")
    again = keras.models.load_model(tmp_path / "decoder.keras")
    image = tf.constant(normalize(picture()))
    inputs = decoder_inputs(decoder, encoder(image)["stages"], image)
    assert len(inputs) == 5
    np.testing.assert_array_equal(again(inputs)["texture"], decoder(inputs)["texture"])


def test_a_decoder_without_palette_does_not_get_the_image():
    stages = [1, 2, 3, 4]
    plain = build_decoder([(8, 4, 8), (4, 2, 8), (2, 1, 12), (2, 1, 16)], WIDTHS)
    assert decoder_inputs(plain, stages, "image") == stages


@pytest.mark.parametrize(
    "arguments", [{"palette": 1}, {"palette": -3}, {"palette": 8, "variant": "official"}]
)
def test_palettes_that_cannot_be_are_named(arguments):
    with pytest.raises(UserError, match="palette has at least 2 colours"):
        build_decoder([(8, 4, 8), (4, 2, 8), (2, 1, 12), (2, 1, 16)], WIDTHS, **arguments)
