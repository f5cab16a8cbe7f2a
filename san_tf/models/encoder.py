"""SA-Enc: the encoder, a backbone with a re-ID embedding and an identity classifier."""

from __future__ import annotations

import os
from typing import Any, Literal

import keras

from san_tf import registry
from san_tf.errors import UserError
from san_tf.models.backbones import BACKBONES, Backbone, backbone_named
from san_tf.models.builder import Builder, P
from san_tf.models.input_adapter import Preprocessing
from san_tf.models.keras_backbone import (
    PREFIX,
    build_application,
    check_application,
    is_application,
    keras_stages,
)
from san_tf.models.layer_factory import GeneralizedMeanPooling2D, LayerFactory, Tensor
from san_tf.models.preset_folder import encoder_from_preset
from san_tf.models.pretrained import (
    PAINTING,
    check_shipped,
    is_of_applications,
    load_weights,
    painting_file,
)
from san_tf.models.resnet import PoolPadding, ResNetForm, StridePosition
from san_tf.models.weights_file import Network
from san_tf.trusted import shipped_preset

Head = Literal["plain", "fc512", "bnneck"]
HEADS = ("plain", "fc512", "bnneck")
Pooling = Literal["avg", "gem"]
POOLINGS = ("avg", "gem")
Classifier = Literal["linear", "arcface", "cosface"]
CLASSIFIERS = ("linear", "arcface", "cosface")


class EncoderBuilder(Builder[P]):
    """`Builder` of encoders that also has `from_preset`."""

    def from_preset(
        self,
        preset: str,
        num_classes: int | None = None,
        *,
        load_weights: bool = True,
        seed: int | None = None,
        **overrides: Any,
    ) -> keras.Model:
        """Build a preset's encoder; see `san_tf.models.preset_folder.encoder_from_preset`."""
        return encoder_from_preset(preset, num_classes, load_weights=load_weights, seed=seed, **overrides)


@EncoderBuilder
def build_encoder(
    backbone: str | keras.Model = "resnet50",
    input_shape: tuple[int, int, int] = (256, 128, 3),
    num_classes: int = 751,
    head: Head = "plain",
    last_stride: int = 1,
    weights: str | os.PathLike[str] | None = "imagenet",
    seed: int | None = None,
    stride_on: StridePosition = "1x1",
    batch_norm_momentum: float = 0.9,
    preprocessing: Preprocessing | None = None,
    pool_padding: PoolPadding = "both",
    pooling: Pooling = "avg",
    classifier: Classifier = "linear",
    classifier_scale: float = 64.0,
    classifier_margin: float = 0.5,
    mixstyle: float = 0.0,
) -> keras.Model:
    """Build the encoder as a functional model.

    The model takes RGB images normalised by `san_tf.normalization.normalize`, for all weights. Under a mixed
    precision policy `embedding` and `logits` stay float32.

    Args:
        backbone: "resnet50", "resnet101", "thin_resnet" (0.9 M parameters, learns in minutes on a CPU),
            "efficientnet_lite0" (3.4 M), "osnet_x1_0" (2.2 M) and its variants (see `san_tf.models.osnet`);
            "keras:" and the name of a network of `keras.applications`, such as "keras:EfficientNetV2B0"; or a
            functional Keras model without classifier, which is copied with its weights. `keras_stages` finds
            the four stages of the last two.
        input_shape: `(height, width, 3)`, both multiples of 16 (of 32 at last_stride 2).
        num_classes: number of training identities.
        head: "plain": the embedding is the pooled stage 4. "fc512", as in the public code: it is
            ReLU(BN(Linear 512)) of the pooled stage 4. "bnneck" (Luo et al., "Bag of Tricks", CVPRW 2019): it
            is BN of the pooled stage 4, and the classifier has no bias. The triplet loss then acts on the
            pooled stage 4 before the BN, an additional output named `feature`.
        last_stride: stride of stage 4, 1 or 2. 1 keeps its map at 1/16 of the image.
        weights: "painting", for thin_resnet the backbone of a texture generator trained on rendered people,
            which comes along; "people" (efficientnet_lite0) and "people_scratch" (thin_resnet), the trained
            encoders that come along, without their classifiers, with head "bnneck" or "plain"; "imagenet"
            (downloaded by Keras once; efficientnet_lite0 has them in the extra `san-tf[efficientnet]`,
            thin_resnet has none), a local file (one saved by `encoder.save_weights("x.weights.h5")`, or an
            ImageNet file of keras.applications), or None. A model given as an object keeps its own weights,
            unless a file replaces them.
        seed: seed of the initial weights; None draws new ones each time.
        stride_on: ResNets only. "1x1" as in keras.applications, "3x3" as in torchvision and the public SAN
            code.
        batch_norm_momentum: share of the moving statistics kept at each step, in [0, 1).
        preprocessing: function from RGB pixels of 0-255 to the input of a model given as an object; needed
            where the model does not scale its input itself.
        pool_padding: ResNets only. Pads the first pooling on "both" sides or, as fast-reid, at the "end".
        pooling: of stage 4. "avg": the mean of each channel; "gem": `GeneralizedMeanPooling2D`, whose
            exponent starts at 3 and learns.
        classifier: "linear", or "arcface" or "cosface": `logits` are `classifier_scale` times cosines, and
            the identity loss has a margin, see `san_tf.losses.with_margin`.
        classifier_scale: of the last two.
        classifier_margin: of the last two; the paper of CosFace has 0.35.
        mixstyle: probability that a training batch's styles are mixed behind stages 1 and 2, so that the
            network meets cameras that do not exist; the paper has 0.5. See
            `san_tf.models.layer_factory.MixStyle`. Only for backbones of this package.

    Returns:
        Model from `(batch, height, width, 3)` float32 to a dict: `embedding` `(batch, dimensions)` float32,
        `logits` `(batch, num_classes)` float32, and `stages`, a list of four maps.

    Raises:
        UserError: a value is unknown or impossible, or the weights are not available.

    Example:
        >>> encoder = build_encoder("thin_resnet", (128, 64, 3), num_classes=100, weights=None)
        >>> {name: value.shape for name, value in encoder.output.items() if name != "stages"}
        {'embedding': (None, 192), 'logits': (None, 100)}
    """
    name = backbone.name if isinstance(backbone, keras.Model) else str(backbone)
    _check(backbone, input_shape, num_classes, head, last_stride, weights, stride_on, pool_padding, pooling)
    _check_classifier(classifier, classifier_scale, classifier_margin)
    form = ResNetForm(stride_on, pool_padding)
    _check_mixing(backbone, mixstyle)
    factory = LayerFactory(seed, batch_norm_momentum, mixing=mixstyle)

    # --- stages ---
    image = keras.Input(input_shape, name="image")
    stages: list[Tensor]
    loaded = isinstance(backbone, keras.Model) and weights == "imagenet"
    if is_application(backbone):
        # These are built with their weights; a file of the whole encoder is loaded at the end.
        own = weights if weights is None or weights == "imagenet" or is_of_applications(weights) else None
        model, preprocessing = build_application(name, input_shape, own)
        loaded = own is not None
        stages = keras_stages(image, model, last_stride, preprocessing, factory, keep_weights=loaded)
    elif isinstance(backbone, keras.Model):
        stages = keras_stages(image, backbone, last_stride, preprocessing, factory)
    else:
        stages = _named(name).stages(image, last_stride, form, factory)

    # --- head ---
    pool = GeneralizedMeanPooling2D if pooling == "gem" else keras.layers.GlobalAveragePooling2D
    embedding = pool(name="pool", dtype="float32")(stages[-1])
    if head == "fc512":
        embedding = factory.dense(embedding, 512, name="fc")
        embedding = factory.batch_norm(embedding, name="fc_bn", dtype="float32")
        embedding = keras.layers.ReLU(name="fc_relu", dtype="float32")(embedding)
    feature = embedding
    if head == "bnneck":
        embedding = factory.batch_norm(feature, name="neck_bn", dtype="float32")
    if classifier == "linear":
        logits = factory.dense(embedding, num_classes, name="classifier", bias=head != "bnneck")
    else:
        logits = factory.cosine_classifier(
            embedding, num_classes, classifier, classifier_scale, classifier_margin, name="classifier"
        )

    outputs = {"embedding": embedding, "logits": logits, "stages": stages}
    if head == "bnneck":
        outputs["feature"] = feature
    encoder = Network(image, outputs, name=f"encoder_{name.removeprefix(PREFIX)}")
    if weights is not None and not loaded:
        load_weights(encoder, name, weights)
    return encoder


def _named(name: str) -> Backbone:
    found = backbone_named(name)
    if found is None:
        known = ", ".join([*BACKBONES, *registry.BACKBONES])
        raise UserError(
            f"Unknown backbone {name!r}; choose one of {known}, name a "
            f"network of keras.applications, such as {PREFIX}EfficientNetV2B0, or register your own."
        )
    return found


def _check_mixing(backbone: str | keras.Model, mixstyle: float) -> None:
    # Written so that NaN does not pass.
    if not 0 <= mixstyle <= 1:
        raise UserError(f"mixstyle is a probability from 0 to 1; received {mixstyle!r}.")
    if mixstyle and (isinstance(backbone, keras.Model) or backbone not in BACKBONES):
        known = ", ".join(BACKBONES)
        raise UserError(f"mixstyle needs a backbone of this package ({known}), whose stages it knows.")


def _check_classifier(classifier: str, scale: float, margin: float) -> None:
    if classifier not in CLASSIFIERS:
        raise UserError(f"Unknown classifier {classifier!r}; choose one of {', '.join(CLASSIFIERS)}.")
    # Written so that NaN does not pass.
    if not 0 < scale < 1e6 or not 0 <= margin <= 1:
        raise UserError(
            f"classifier_scale must be positive and classifier_margin from 0 to 1; received {scale!r} and"
            f" {margin!r}."
        )


def _check(
    backbone: str | keras.Model,
    input_shape: tuple[int, int, int],
    num_classes: int,
    head: str,
    last_stride: int,
    weights: str | os.PathLike[str] | None,
    stride_on: str,
    pool_padding: str,
    pooling: str,
) -> None:
    if is_application(backbone):
        check_application(str(backbone))
    elif not isinstance(backbone, keras.Model):
        _named(str(backbone))
    if head not in HEADS:
        raise UserError(f"Unknown head {head!r}; choose one of {', '.join(HEADS)}.")
    if pooling not in POOLINGS:
        raise UserError(f"Unknown pooling {pooling!r}; choose one of {', '.join(POOLINGS)}.")
    if last_stride not in (1, 2):
        raise UserError(f"last_stride must be 1 or 2, not {last_stride!r}.")
    if pool_padding not in ("both", "end"):
        raise UserError(f"pool_padding must be 'both' or 'end', not {pool_padding!r}.")
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
    given = isinstance(backbone, keras.Model) or is_application(backbone)
    name = backbone.name if isinstance(backbone, keras.Model) else str(backbone)
    if weights == PAINTING:
        painting_file(name)
    if shipped := shipped_preset(weights or ""):
        check_shipped(shipped, name)
    if weights == "imagenet" and not given and not _named(str(backbone)).imagenet:
        raise UserError(f"There are no ImageNet weights for {backbone}; use weights=None or a local file.")
