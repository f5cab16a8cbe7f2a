"""SA-Dec: the decoder that paints the body's texture from the encoder's feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models.builder import Builder
from san_tf.models.layer_factory import CornerAlignedResizing, LayerFactory, Tensor
from san_tf.models.weights_file import Network
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

_WIDTH = 32


@keras.saving.register_keras_serializable("san_tf")
class PaletteMix(keras.layers.Layer):
    """Mixes a texture from K colours of an image, each the mean under a mask.

    The masks are a_k = softmax over the positions p of the image c. The weights are w_k = softmax over the K
    colours at each texel t. Then texture(t) = sum_k w_k(t) sum_p a_k(p) c(p). So every colour of the texture
    is a mean of the image's colours. The network only learns where a colour is, not which colour it is.

    Call it on a list: `(batch, h, w, K)` scores of the texels; `(batch, i, j, K)` scores of the image's
    positions; `(batch, H, W, 3)` normalised images, which are reduced to i x j by area averaging.

    Returns:
        `(batch, h, w, 3)` float32 in [-1, 1].

    Example:
        >>> texels, places, image = (keras.Input(s) for s in ((64, 32, 8), (32, 16, 8), (128, 64, 3)))
        >>> PaletteMix(dtype="float32")([texels, places, image]).shape
        (None, 64, 32, 3)
    """

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Mix the texture; see the class."""
        texels, places, image = (tf.cast(value, tf.float32) for value in inputs)
        colors = tf.image.resize(image, places.shape[1:3], method="area")
        # From normalised values to the range of textures, [-1, 1].
        colors = colors * (2.0 * IMAGENET_STD) + (2.0 * IMAGENET_MEAN - 1.0)
        height, width, number = places.shape[1:]
        chosen = tf.nn.softmax(tf.reshape(places, (-1, height * width, number)), axis=1)
        palette = tf.einsum("bpk,bpc->bkc", chosen, tf.reshape(colors, (-1, height * width, 3)))
        return tf.einsum("bhwk,bkc->bhwc", tf.nn.softmax(texels, axis=-1), palette)

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """Shape of the texels' scores, with three channels."""
        return *tuple(input_shape[0])[:3], 3

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config()


def palette_masks(stage1: Tensor, stage4: Tensor, colors: int, factory: LayerFactory) -> Tensor:
    """Score the positions of an image for each colour of the palette.

    Stage 1 shows where the edges are, stage 4 what lies between them.

    Args:
        stage1: map of stage 1, `(batch, h1, w1, c1)`.
        stage4: map of stage 4, `(batch, h4, w4, c4)`.
        colors: number of colours.
        factory: makes the layers.

    Returns:
        `(batch, h1, w1, colors)` scores, before the softmax.
    """
    fine = factory.conv_bn(stage1, _WIDTH, 3, name="palette_fine")
    coarse = factory.conv_bn(stage4, _WIDTH, 1, name="palette_coarse")
    coarse = keras.layers.Resizing(*stage1.shape[1:3], interpolation="bilinear", name="palette_enlarge")(
        coarse
    )
    joined = keras.layers.Concatenate(name="palette_join")([fine, coarse])
    joined = factory.conv_bn(joined, _WIDTH, 3, name="palette_joined")
    return factory.conv(joined, colors, 1, name="palette_places", bias=True)


PAPER_WIDTHS = (512, 256, 64, 32, 16)


@Builder
def build_decoder(
    stage_shapes: Sequence[tuple[int | None, ...]],
    widths: tuple[int, int, int, int, int] = PAPER_WIDTHS,
    skips: bool = False,
    texture_size: int | None = None,
    final_kernel: int = 7,
    sketch: int = 0,
    palette: int = 0,
    variant: Literal["paper", "official"] = "paper",
    seed: int | None = None,
    batch_norm_momentum: float = 0.9,
) -> keras.Model:
    """Build the decoder as a functional model.

    A 1x1 convolution reduces stage 4. Four residual blocks each double its size. A last convolution and tanh
    give RGB, and a bilinear resize makes the texture square. Inference does not need the decoder.

    Args:
        stage_shapes: shapes of the four stage maps, `(h, w, c)` or `(batch, h, w, c)`: for an encoder,
            `[stage.shape for stage in encoder.output["stages"]]`.
        widths: channels after the reduction and after each block.
        skips: False: the decoder only gets stage 4 (the paper). True: stages 3, 2, 1 are added before blocks
            1, 2, 3 (the public code), which needs an encoder with last stride 1.
        texture_size: side of the texture in texels; None takes the height of the last map (256 for 256x128
            images).
        final_kernel: side of the last convolution's kernel, 7 in the paper.
        sketch: hidden units of a fully connected branch, or 0 for none (the paper). The branch sees the whole
            of stage 4 and adds a sketch of the texture, drawn at a quarter of its size. A convolution moves a
            colour from image to texture in many small steps, the branch in one. From random weights, training
            takes less than half the steps with it.
        palette: number of colours, taken from the image, that a texture is mixed from (see `PaletteMix`);
            0, the paper's, predicts colours freely. With a palette the decoder learns where a colour is in
            the image instead of which colour it is. That takes fewer steps and also works for colours never
            seen before. The decoder then takes the images as an input, too.
        variant: "official" follows the details of the public code, for its weights: maps are doubled
            bilinearly, the doubled maps and the last one are padded by reflection, there is no tanh (a
            texture may leave [-1, 1]), and the last resize keeps the corners.
        seed: seed of the initial weights; None draws new ones each time.
        batch_norm_momentum: share of the moving statistics kept at each step, in [0, 1).

    Returns:
        Model from the list of four stage maps to a dict: `texture` `(batch, size, size, 3)` float32 in
        [-1, 1] ("official": approximately), and `blocks`, a list of the four blocks' maps. With a palette
        the list ends with the normalised images, `(batch, H, W, 3)`; `decoder_inputs` makes either list.

    Raises:
        UserError: widths or shapes do not fit together.

    Example:
        >>> shapes = [(32, 16, 64), (16, 8, 128), (8, 4, 256), (8, 4, 512)]
        >>> build_decoder(shapes, widths=(64, 48, 32, 16, 8)).output["texture"].shape
        (None, 128, 128, 3)
    """
    shapes = [tuple(shape)[-3:] for shape in stage_shapes]
    if len(shapes) != 4 or len(widths) != 5:
        raise UserError(f"A decoder takes 4 stage shapes and 5 widths, not {len(shapes)} and {len(widths)}.")
    if skips and shapes[2][:2] != shapes[3][:2]:
        raise UserError(
            "A decoder with skips needs stages 3 and 4 of one size; build the encoder with last_stride 1."
        )
    if variant not in ("paper", "official"):
        raise UserError(f"variant must be 'paper' or 'official', not {variant!r}.")
    official = variant == "official"
    if palette and (official or palette < 2):
        raise UserError(
            f"A palette has at least 2 colours, and none goes with the official decoder; received {palette}."
        )
    factory = LayerFactory(seed, batch_norm_momentum)

    # --- blocks ---
    stages = [keras.Input(shape, name=f"stage{index}") for index, shape in enumerate(shapes, start=1)]
    x = factory.conv_bn(stages[3], widths[0], 1, name="reduce", bias=True)
    blocks = []
    for index in range(1, 5):
        if skips and index <= 3:
            joined = factory.conv_bn(
                stages[3 - index], widths[index - 1], 1, name=f"skip{4 - index}", bias=True
            )
            x = keras.layers.Add(name=f"skip{4 - index}_add")([x, joined])
        x = _up_block(x, widths[index], f"up{index}", factory, official)
        blocks.append(x)

    # --- texture ---
    painted = factory.conv(x, palette or 3, final_kernel, name="final_conv", bias=True, reflect=official)
    if sketch:
        painted = keras.layers.Add(name="sketch_add")([painted, _sketch(stages[3], painted, sketch, factory)])
    inputs = list(stages)
    if palette:
        inputs.append(keras.Input((None, None, 3), name="image"))
        places = palette_masks(stages[0], stages[3], palette, factory)
        texture = PaletteMix(name="palette_mix", dtype="float32")([painted, places, inputs[-1]])
    elif official:
        texture = keras.layers.Activation("linear", name="final_linear", dtype="float32")(painted)
    else:
        texture = keras.layers.Activation("tanh", name="final_tanh", dtype="float32")(painted)
    size = texture_size or texture.shape[1]
    if texture.shape[1:3] != (size, size):
        resize = CornerAlignedResizing if official else _resizing
        texture = resize((size, size), name="texture", dtype="float32")(texture)
    return Network(inputs, {"texture": texture, "blocks": blocks}, name="decoder")


def decoder_inputs(decoder: keras.Model, stages: Sequence[Any], image: Any) -> list[Any]:
    """List the inputs of a decoder.

    Args:
        decoder: from `build_decoder`.
        stages: the four stage maps.
        image: normalised images, `(batch, H, W, 3)`; only used by a decoder with a palette.
    """
    return [*stages, image] if len(decoder.inputs) > len(stages) else list(stages)


def _resizing(size: tuple[int, int], **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Resizing(*size, interpolation="bilinear", **kwargs)


def _up_block(x: Tensor, filters: int, name: str, factory: LayerFactory, official: bool) -> Tensor:
    """Residual block, then doubling and a convolution: `(batch, 2h, 2w, filters)`."""
    y = factory.conv_bn(x, x.shape[-1], 3, name=f"{name}_1")
    y = factory.conv_bn(y, x.shape[-1], 3, name=f"{name}_2", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    if not official:
        return factory.up_conv(x, filters, name=f"{name}_conv")
    x = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_double")(x)
    return factory.conv(x, filters, 3, name=f"{name}_conv", bias=True, reflect=True)


def _sketch(stage4: Tensor, painted: Tensor, units: int, factory: LayerFactory) -> Tensor:
    """Smooth sketch of `painted`'s shape, from all of stage 4 by dense layers; zero at first."""
    height, width = painted.shape[1] // 4, painted.shape[2] // 4
    x = factory.conv_bn(stage4, 16, 1, name="sketch_reduce")
    x = keras.layers.Flatten(name="sketch_flatten")(x)
    seed = factory.seed_of("sketch_hidden")
    x = keras.layers.Dense(
        units, "relu", kernel_initializer=keras.initializers.HeNormal(seed), name="sketch_hidden"
    )(x)
    channels = painted.shape[3]
    x = keras.layers.Dense(height * width * channels, kernel_initializer="zeros", name="sketch_paint")(x)
    x = keras.layers.Reshape((height, width, channels), name="sketch_shape")(x)
    return keras.layers.UpSampling2D(4, interpolation="bilinear", name="sketch_enlarge")(x)
