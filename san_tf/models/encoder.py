"""SA-Enc: a backbone with four stage outputs, the re-ID feature and the identity classifier."""

from __future__ import annotations

import os
from typing import Literal

import keras

from san_tf.errors import UserError
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.pretrained import load_weights
from san_tf.models.resnet import DEPTHS, StridePosition, resnet_stages
from san_tf.models.thin_resnet import thin_resnet_stages

BACKBONES = (*DEPTHS, "thin_resnet")
HEADS = ("plain", "fc512")


def build_encoder(
    backbone: str = "resnet50",
    input_shape: tuple[int, int, int] = (256, 128, 3),
    num_classes: int = 751,
    head: Literal["plain", "fc512"] = "plain",
    last_stride: int = 1,
    weights: str | os.PathLike[str] | None = "imagenet",
    seed: int | None = None,
    stride_on: StridePosition = "1x1",
    batch_norm_momentum: float = 0.9,
) -> keras.Model:
    """Build the encoder as a functional model.

    Images are RGB, normalised with `san_tf.normalization.normalize`, whatever weights are loaded. Under a
    mixed precision policy `embedding` and `logits` stay float32.

    Args:
        backbone: "resnet50", "resnet101", or "thin_resnet" (0.9 M parameters, learns in minutes on a CPU).
        input_shape: `(height, width, 3)`, both multiples of 16 (of 32 at last_stride 2).
        num_classes: training identities.
        head: "plain": the embedding f is the pooled stage 4. "fc512", as the public code: f is
            ReLU(BN(Linear 512)) of it.
        last_stride: of stage 4. 1 keeps the map at 1/16 of the image.
        weights: "imagenet" (ResNets; downloaded by Keras once), a local file (one saved by
            `encoder.save_weights("x.weights.h5")`, or a ResNet's ImageNet file of keras.applications),
            or None.
        seed: of the initial weights; None draws new ones.
        stride_on: ResNets only. "1x1" as keras.applications, "3x3" as torchvision and the public SAN code.
        batch_norm_momentum: share of the old moving statistics kept each step.

    Returns:
        Model from `(batch, height, width, 3)` float32 to a dict: `embedding` `(batch, dimensions)` float32,
        `logits` `(batch, num_classes)` float32, `stages`, a list of four maps.

    Raises:
        UserError: an unknown or impossible value, or weights that cannot be had.

    Example:
        >>> encoder = build_encoder("thin_resnet", (128, 64, 3), num_classes=100, weights=None)
        >>> {name: value.shape for name, value in encoder.output.items() if name != "stages"}
        {'embedding': (None, 192), 'logits': (None, 100)}
    """
    _check(backbone, input_shape, num_classes, head, last_stride, weights, stride_on)
    factory = LayerFactory(seed, batch_norm_momentum)

    # --- stages ---
    image = keras.Input(input_shape, name="image")
    stages: list[Tensor]
    if backbone in DEPTHS:
        stages = resnet_stages(image, DEPTHS[backbone], last_stride, stride_on, factory)
    else:
        stages = thin_resnet_stages(image, last_stride, factory)

    # --- head ---
    embedding = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(stages[-1])
    if head == "fc512":
        embedding = factory.dense(embedding, 512, name="fc")
        embedding = factory.batch_norm(embedding, name="fc_bn", dtype="float32")
        embedding = keras.layers.ReLU(name="fc_relu", dtype="float32")(embedding)
    logits = factory.dense(embedding, num_classes, name="classifier")

    outputs = {"embedding": embedding, "logits": logits, "stages": stages}
    encoder = keras.Model(image, outputs, name=f"encoder_{backbone}")
    if weights is not None:
        load_weights(encoder, backbone, weights)
    return encoder


def _check(
    backbone: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    head: str,
    last_stride: int,
    weights: str | os.PathLike[str] | None,
    stride_on: str,
) -> None:
    if backbone not in BACKBONES:
        raise UserError(f"Unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}.")
    if head not in HEADS:
        raise UserError(f"Unknown head {head!r}; choose one of {', '.join(HEADS)}.")
    if last_stride not in (1, 2):
        raise UserError(f"last_stride must be 1 or 2, not {last_stride!r}.")
    if stride_on not in ("1x1", "3x3"):
        raise UserError(f"stride_on must be '1x1' or '3x3', not {stride_on!r}.")
    if num_classes < 1:
        raise UserError(
            f"num_classes must be at least 1, not {num_classes!r}: it counts training identities."
        )
    multiple = 16 * last_stride
    if (
        len(input_shape) != 3
        or input_shape[2] != 3
        or any(side < 1 or side % multiple for side in input_shape[:2])
    ):
        raise UserError(
            f"input_shape must be (height, width, 3), both sides multiples of {multiple}, not {input_shape}."
        )
    if weights == "imagenet" and backbone not in DEPTHS:
        raise UserError(f"There are no ImageNet weights for {backbone}; use weights=None or a local file.")
