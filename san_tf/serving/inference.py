"""The functions of an export: from raw images to embeddings and textures, preprocessing included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from san_tf.data.images import decode_image, normalize_images, resize_image
from san_tf.errors import UserError
from san_tf.models.decoder import decoder_inputs
from san_tf.serving.folding import FrozenGraph, fold, needed, node_of


class Network:
    """A graph whose weights are variables, shared by all functions that call it.

    Constant weights would be part of the graph. A ResNet-50 would have a graph of 94 MB, which every loader
    must parse and optimise (1.9 s instead of 0.6 s until the first answer); the limit is 2 GB.

    Args:
        graph: graph from normalised images to the outputs.
        half: keep kernels as float16 and cast them to float32 for each use. Biases stay float32, because they
            are small.

    Raises:
        UserError: a kernel has a value beyond float16.

    Example:
        >>> network = Network(fold(function))
        >>> tf.function(lambda images: network(images, "embedding"))(images).shape
        TensorShape([4, 2048])
    """

    def __init__(self, graph: FrozenGraph, half: bool = False) -> None:
        self._graph = graph
        self._variables: dict[str, tf.Variable] = {}
        for node in graph.graph_def.node:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                value = tf.make_ndarray(node.attr["value"].tensor)
                if value.size > 1:
                    self._variables[node.name] = tf.Variable(_kept(value, half), trainable=False)

    def __call__(self, images: tf.Tensor, output: str) -> tf.Tensor:
        """Compute one output of the network, inside a `tf.function`.

        Args:
            images: `(N, H, W, 3)` float32.
            output: name of the output; parts of the graph that it does not need are left out.
        """
        target = self._graph.targets[output]
        body = needed(self._graph.graph_def, [node_of(target)])
        given: Mapping[str, tf.Tensor] = {
            f"{node.name}:0": tf.cast(tf.convert_to_tensor(self._variables[node.name]), tf.float32)
            for node in body.node
            if node.name in self._variables
        }
        part = tf.compat.v1.GraphDef(versions=body.versions)
        part.node.extend(n for n in body.node if n.op != "Placeholder" and f"{n.name}:0" not in given)
        (found,) = tf.import_graph_def(part, {**given, self._graph.source: images}, [target], name="")
        return found


def _kept(value: np.ndarray, half: bool) -> np.ndarray:
    if not half or value.ndim < 2:
        return value
    if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
        raise UserError("A weight of this encoder is beyond float16; export it in float32.")
    return value.astype(np.float16)


# Largest difference of a folded network from the original, for embeddings of length 1 and colours of range 2.
FOLDING_TOLERANCE = 1e-4
Answer = dict[str, tf.Tensor]


class Endpoint(NamedTuple):
    """A function to serve, and its input signature."""

    function: Callable[[tf.Tensor], Answer]
    spec: tf.TensorSpec


def inference_endpoints(
    encoder: keras.Model,
    decoder: keras.Model | None,
    image_size: tuple[int, int],
    normalize: bool = True,
    flip: bool = False,
    half: bool = False,
    fold_norms: bool = True,
) -> dict[str, Endpoint]:
    """Return the endpoints of an export by signature; see `export.export_encoder`.

    Args:
        encoder: functional model with the outputs `embedding` and, for a decoder, `stages`.
        decoder: model from `stages` to `texture`, or None.
        image_size: height and width of the encoder's input.
        normalize: scale embeddings to length 1.
        flip: average the embeddings of image and mirror image.
        half: keep kernels as float16 and cast them to float32 for each use.
        fold_norms: fold batch norms into the convolutions before them, see `folding`.

    Raises:
        UserError: a kernel has a value beyond float16, or folding changes the outputs.

    Example:
        >>> endpoint = inference_endpoints(encoder, None, (256, 128))["serving_default"]
        >>> endpoint.function(tf.zeros((4, 300, 100, 3), tf.uint8))["embedding"].shape
        TensorShape([4, 2048])
    """
    height, width = (int(side) for side in image_size)
    image, outputs = encoder.inputs[0], {"embedding": embedding_of(encoder)}
    if decoder is not None:
        outputs["texture"] = decoder(decoder_inputs(decoder, encoder.output["stages"], image))["texture"]
    # Convert both as one model, so that encoder and decoder keep sharing weights.
    whole = _in_float32(keras.Model(image, outputs, name="inference"))
    network = _network(whole, (height, width), half, fold_norms)

    # A separate function is written once, not once per signature.
    @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)], autograph=False)
    def embed(images: tf.Tensor) -> Answer:
        images = normalize_images(images)
        if flip:
            images = tf.concat([images, tf.reverse(images, [2])], axis=0)
        embedding = network(images, "embedding")
        if flip:
            straight, mirrored = tf.split(embedding, 2, axis=0)
            embedding = (straight + mirrored) / 2.0
        return {"embedding": tf.math.l2_normalize(embedding, axis=-1) if normalize else embedding}

    def from_images(images: tf.Tensor) -> Answer:
        # The cast changes no values, but LiteRT and ONNX cannot resize from uint8 to float32.
        return embed(resize_image(tf.cast(images, tf.float32), (height, width)))

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

    @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)], autograph=False)
    def paint_resized(images: tf.Tensor) -> tf.Tensor:
        texture = network(normalize_images(images), "texture")
        return tf.saturate_cast(tf.round((texture + 1.0) * 127.5), tf.uint8)

    def paint(images: tf.Tensor) -> Answer:
        return {"texture": paint_resized(resize_image(tf.cast(images, tf.float32), (height, width)))}

    return {**endpoints, "texture": Endpoint(paint, images_spec)}


def embedding_of(encoder: keras.Model) -> keras.KerasTensor:
    """Return the encoder's symbolic output `embedding`.

    Raises:
        ValueError: the encoder has no such output.
    """
    output = encoder.output
    if not isinstance(output, Mapping) or "embedding" not in output:
        raise ValueError(f"encoder must return a dict with `embedding`. Received: output={output}")
    return output["embedding"]


def _network(whole: keras.Model, image_size: tuple[int, int], half: bool, fold_norms: bool) -> Network:
    """Convert the model to a graph for inference, and compare it with the model."""
    spec = tf.TensorSpec((None, *image_size, 3), tf.float32, "images")
    function = tf.function(functools.partial(whole, training=False), autograph=False)
    graph = fold(function.get_concrete_function(spec), fold_norms)
    if fold_norms:
        images = np.random.default_rng(0).normal(size=(2, *image_size, 3)).astype(np.float32)
        wanted, found = whole(images, training=False), graph(tf.constant(images))
        lengths = {"embedding": float(tf.norm(wanted["embedding"], axis=-1).numpy().max()), "texture": 2.0}
        for name, value in wanted.items():
            difference = float(tf.reduce_max(tf.abs(found[name] - value))) / max(lengths[name], 1e-6)
            if not difference <= FOLDING_TOLERANCE:
                raise UserError(
                    f"With its batch norms folded this encoder's {name} differs by {difference:.0e} of its "
                    "length; export it with fold_norms=False."
                )
    return Network(graph, half)


def _in_float32(model: keras.Model) -> keras.Model:
    """The same model in float32, which is fast on every server and loses no precision."""
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
