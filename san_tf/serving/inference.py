"""What an export computes: from pictures as they come to embeddings and textures, preprocessing included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from san_tf.data.images import decode_image, normalize_images, resize_image
from san_tf.errors import UserError

Answer = dict[str, tf.Tensor]


class Endpoint(NamedTuple):
    """A function to be served, and what it takes."""

    function: Callable[[tf.Tensor], Answer]
    spec: tf.TensorSpec


def inference_endpoints(
    encoder: keras.Model,
    decoder: keras.Model | None,
    image_size: tuple[int, int],
    normalize: bool = True,
    flip: bool = False,
    half: bool = False,
) -> dict[str, Endpoint]:
    """Return the endpoints of an export by signature; see `export.export_encoder`.

    Args:
        encoder: functional model with the outputs `embedding` and, for a decoder, `stages`.
        decoder: from `stages` to `texture`, or None.
        image_size: height and width of the encoder's input.
        normalize: scale embeddings to length 1.
        flip: average the embeddings of image and mirror image.
        half: keep kernels as float16; they are turned to float32 whenever they are used.

    Example:
        >>> endpoint = inference_endpoints(encoder, None, (256, 128))["serving_default"]
        >>> endpoint.function(tf.zeros((4, 300, 100, 3), tf.uint8))["embedding"].shape
        TensorShape([4, 2048])
    """
    height, width = (int(side) for side in image_size)
    image, outputs = encoder.inputs[0], {"embedding": embedding_of(encoder)}
    if decoder is not None:
        outputs["texture"] = decoder(encoder.output["stages"])["texture"]
    # Turned to float32 as one: encoder and painter go on sharing their weights.
    whole = _in_float32(keras.Model(image, outputs, name="inference"))
    kept = _half_kernels(whole) if half else {}
    embedder = _network(whole, "embedding", kept)

    # A function of its own is written once, not once a signature.
    @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)], autograph=False)
    def embed(images: tf.Tensor) -> Answer:
        images = normalize_images(images)
        if flip:
            images = tf.concat([images, tf.reverse(images, [2])], axis=0)
        embedding = embedder(images)
        if flip:
            straight, mirrored = tf.split(embedding, 2, axis=0)
            embedding = (straight + mirrored) / 2.0
        return {"embedding": tf.math.l2_normalize(embedding, axis=-1) if normalize else embedding}

    def from_images(images: tf.Tensor) -> Answer:
        return embed(resize_image(images, (height, width)))

    def from_bytes(image_bytes: tf.Tensor) -> Answer:
        # One by one, because files differ in size until they are resized.
        images = tf.map_fn(
            lambda contents: resize_image(decode_image(contents), (height, width)),
            image_bytes,
            fn_output_signature=tf.TensorSpec((height, width, 3), tf.float32),
        )
        return embed(images)

    images_spec = tf.TensorSpec((None, None, None, 3), tf.uint8, "images")
    endpoints = {
        "serving_default": Endpoint(from_images, images_spec),
        "serving_bytes": Endpoint(from_bytes, tf.TensorSpec((None,), tf.string, "image_bytes")),
    }
    if decoder is None:
        return endpoints
    painter = _network(whole, "texture", kept)

    def paint(images: tf.Tensor) -> Answer:
        texture = painter(normalize_images(resize_image(images, (height, width))))
        return {"texture": tf.saturate_cast(tf.round((texture + 1.0) * 127.5), tf.uint8)}

    return {**endpoints, "texture": Endpoint(paint, images_spec)}


def embedding_of(encoder: keras.Model) -> keras.KerasTensor:
    """The encoder's symbolic output `embedding`.

    Raises:
        ValueError: it has none.
    """
    output = encoder.output
    if not isinstance(output, Mapping) or "embedding" not in output:
        raise ValueError(f"encoder must return a dict with `embedding`. Received: output={output}")
    return output["embedding"]


def _half_kernels(model: keras.Model) -> dict[int, tf.Variable]:
    """Float16 copies of a model's kernels, by the variable's `id`.

    Norms and biases stay as they are: they weigh next to nothing, and a variance can leave float16's range.

    Raises:
        UserError: a kernel has a value beyond float16.
    """
    kept = {}
    for variable in model.weights:
        if len(variable.shape) >= 2:
            value = variable.numpy()
            if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
                raise UserError("A weight of this encoder is beyond float16; export it in float32.")
            kept[id(variable)] = tf.Variable(value.astype(np.float16), trainable=False)
    return kept


def _network(
    model: keras.Model, output: str, kept: Mapping[int, tf.Variable]
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from normalised images to one output of the model, with its kernels as they are kept."""
    part = keras.Model(model.inputs[0], model.output[output], name=output)
    if not kept:
        return functools.partial(part, training=False)

    def weights(variables: Sequence[Any]) -> list[tf.Tensor]:
        return [
            tf.cast(kept[id(variable)], tf.float32) if id(variable) in kept else variable.value
            for variable in variables
        ]

    def call(images: tf.Tensor) -> tf.Tensor:
        answer, _ = part.stateless_call(
            weights(part.trainable_variables), weights(part.non_trainable_variables), images, training=False
        )
        return answer

    return call


def _in_float32(model: keras.Model) -> keras.Model:
    """The same model computing in float32, which every server is quick at and which loses nothing."""
    if all(layer.compute_dtype == "float32" for layer in model.layers):
        return model
    config = _with_float32_policy(keras.saving.serialize_keras_object(model))
    copy: keras.Model = keras.saving.deserialize_keras_object(config)
    copy.set_weights(model.get_weights())
    return copy


def _with_float32_policy(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _with_float32_policy(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_float32_policy(value) for value in config)
    return "float32" if config in ("mixed_float16", "mixed_bfloat16") else config
