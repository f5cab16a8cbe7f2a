"""SA-Dec: paints the whole body surface, a texture in UV layout, from the encoder's feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.models.builder import Builder
from san_tf.models.corner_aligned import CornerAlignedResizing
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.weights_file import Network
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD

_WIDTH = 32


@keras.saving.register_keras_serializable("san_tf")
class PaletteMix(keras.layers.Layer):
    """Takes K colours from an image, each the mean over the part a mask chooses, and mixes a texture of them.

    With masks a_k = softmax over the places of the image, weights w_k = softmax over the K colours at each
    texel t, and image c: texture(t) = sum_k w_k(t) sum_p a_k(p) c(p). Every colour of the texture is one of
    the photograph's, or between them: what has to be learnt is where, not which.

    Call it on a list: `(batch, h, w, K)` scores of the texels; `(batch, i, j, K)` scores of the image's
    places; `(batch, H, W, 3)` normalised images, reduced to i x j by averaging areas.

    Returns:
        `(batch, h, w, 3)` float32 in [-1, 1].

    Example:
        >>> texels, places, image = (keras.Input(s) for s in ((64, 32, 8), (32, 16, 8), (128, 64, 3)))
        >>> PaletteMix(dtype="float32")([texels, places, image]).shape
        (None, 64, 32, 3)
    """

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """See the class."""
        texels, places, image = (tf.cast(value, tf.float32) for value in inputs)
        colors = tf.image.resize(image, places.shape[1:3], method="area")
        # From normalised to the scale of textures.
        colors = colors * (2.0 * IMAGENET_STD) + (2.0 * IMAGENET_MEAN - 1.0)
        height, width, number = places.shape[1:]
        chosen = tf.nn.softmax(tf.reshape(places, (-1, height * width, number)), axis=1)
        palette = tf.einsum("bpk,bpc->bkc", chosen, tf.reshape(colors, (-1, height * width, 3)))
        return tf.einsum("bhwk,bkc->bhwc", tf.nn.softmax(texels, axis=-1), palette)

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        """The texels', with three channels."""
        return *tuple(input_shape[0])[:3], 3

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return super().get_config()


def palette_masks(stage1: Tensor, stage4: Tensor, colors: int, factory: LayerFactory) -> Tensor:
    """Score the places of an image for each colour: `(batch, h1, w1, colors)`, of stage 1's size.

    Stage 1 knows where the edges are, stage 4 what the regions between them are.
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

    A 1x1 convolution reduces stage 4; four residual blocks double its size each; a last convolution and tanh
    give RGB; a bilinear resize makes the texture square. At inference the decoder is left out.

    Args:
        stage_shapes: shapes of the four stage maps, `(h, w, c)` or `(batch, h, w, c)`: for an encoder,
            `[stage.shape for stage in encoder.output["stages"]]`.
        widths: channels after the reduction and after each block.
        skips: False: stage 4 is all the decoder sees (the paper). True: stages 3, 2, 1 join before blocks
            1, 2, 3 (the public code); needs an encoder of last stride 1.
        texture_size: side of the texture; None takes the height of the last map (256 for 256x128 images).
        final_kernel: side of the last convolution's kernel, 7 in the paper.
        sketch: hidden units of a fully connected branch that sees the whole of stage 4 and sketches the
            texture at a quarter of its size, for the convolutions to work out; 0, the paper's, has none. A
            convolution can move a colour from its place in the image to its place in the texture only bit by
            bit; the sketch moves it at once: from random weights it takes less than half the steps.
        palette: how many colours a texture is mixed from, each taken from the photograph, see
            `palette.PaletteMix`; 0, the paper's, lets the decoder make its colours up. With a palette it
            learns where in the photograph a colour is instead of which colour it is: in fewer steps, and
            also for colours it has never seen. It then wants the images too.
        variant: "official": the details of the public code, for its weights: maps are doubled bilinearly,
            borders of the doubled maps and of the last one mirror the map, there is no tanh (a texture may
            leave [-1, 1]), and the last resize keeps the corners.
        seed: of the initial weights; None draws new ones.
        batch_norm_momentum: share of the old moving statistics kept each step.

    Returns:
        Model from the list of four stage maps (with a palette followed by the normalised images, `(batch, H,
        W, 3)`; `decoder_inputs` makes either list) to a dict: `texture` `(batch, size, size, 3)` float32
        in [-1, 1] ("official": about there), `blocks`, a list of the four blocks' maps.

    Raises:
        UserError: widths or shapes that do not fit together.

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
    """What a decoder is called on: the stage maps, and the normalised image if it has a palette."""
    return [*stages, image] if len(decoder.inputs) > len(stages) else list(stages)


def _resizing(size: tuple[int, int], **kwargs: Any) -> keras.layers.Layer:
    return keras.layers.Resizing(*size, interpolation="bilinear", **kwargs)


def _up_block(x: Tensor, filters: int, name: str, factory: LayerFactory, official: bool) -> Tensor:
    """Residual block at the map's size, then twice the size and a convolution: `(batch, 2h, 2w, filters)`."""
    y = factory.conv_bn(x, x.shape[-1], 3, name=f"{name}_1")
    y = factory.conv_bn(y, x.shape[-1], 3, name=f"{name}_2", relu=False)
    x = keras.layers.Add(name=f"{name}_add")([x, y])
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    if not official:
        return factory.up_conv(x, filters, name=f"{name}_conv")
    x = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_double")(x)
    return factory.conv(x, filters, 3, name=f"{name}_conv", bias=True, reflect=True)


def _sketch(stage4: Tensor, painted: Tensor, units: int, factory: LayerFactory) -> Tensor:
    """A smooth picture of `painted`'s shape from all of stage 4 at once; zero at first."""
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
