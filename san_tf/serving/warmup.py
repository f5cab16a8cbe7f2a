"""Warm-up requests that a model server runs on a version before users get it.

The first requests take many times as long as later ones, because TensorFlow plans, allocates and compiles.
So TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of `PredictionLog`
messages, when it loads a version. The message classes are part of `tensorflow-serving-api`. To export without
it, this module describes the needed part of their wire format by field number and type
(tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"

_Field = descriptor_pb2.FieldDescriptorProto
_STRING, _BYTES, _MESSAGE = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_MESSAGE
# Message: {field: (number, type, message or None, repeated)}. A map is a repeated entry of key and value on
# the wire, and a message (here TensorProto, which TensorFlow serialises) the same as bytes.
_FIELDS: dict[str, dict[str, tuple[int, Any, str | None, bool]]] = {
    "ModelSpec": {"name": (1, _STRING, None, False), "signature_name": (3, _STRING, None, False)},
    "TensorEntry": {"key": (1, _STRING, None, False), "value": (2, _BYTES, None, False)},
    "PredictRequest": {
        "model_spec": (1, _MESSAGE, "ModelSpec", False),
        "inputs": (2, _MESSAGE, "TensorEntry", True),
    },
    "PredictResponse": {
        "outputs": (1, _MESSAGE, "TensorEntry", True),
        "model_spec": (2, _MESSAGE, "ModelSpec", False),
    },
    "PredictLog": {
        "request": (1, _MESSAGE, "PredictRequest", False),
        "response": (2, _MESSAGE, "PredictResponse", False),
    },
    "PredictionLog": {"predict_log": (6, _MESSAGE, "PredictLog", False)},
}


class WarmupRequest(NamedTuple):
    """One request to a signature: TensorProtos by name, and those of the answer if known."""

    signature: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def serialize(self, model: str) -> bytes:
        """Return the request to `model` as a serialised `PredictionLog`."""
        spec = _message("ModelSpec")(name=model, signature_name=self.signature)
        log = _message("PredictLog")(
            request=_message("PredictRequest")(model_spec=spec, inputs=_entries(self.inputs))
        )
        if self.outputs:
            log.response.CopyFrom(
                _message("PredictResponse")(model_spec=spec, outputs=_entries(self.outputs))
            )
        return bytes(_message("PredictionLog")(predict_log=log).SerializeToString())


def encoder_requests(
    image_size: tuple[int, int],
    batch_sizes: Iterable[int],
    functions: Mapping[str, Callable[[tf.Tensor], Mapping[str, tf.Tensor]]],
) -> list[WarmupRequest]:
    """Return one request for each signature of an export and each batch size.

    Requests of one image include the answer, so that a deployment can be compared with the export.

    Args:
        image_size: height and width in pixels.
        batch_sizes: numbers of images.
        functions: the functions by signature: `serving_bytes` takes `(N,)` string, the others
            `(N, H, W, 3)` uint8.

    Returns:
        The requests. Their images are grey, which takes few bytes and the usual time; their files are copies
        of one JPEG of `image_size`.
    """
    height, width = image_size
    ramp = tf.cast(tf.linspace(0, 255, width), tf.uint8)
    photograph = tf.io.encode_jpeg(tf.broadcast_to(ramp[None, :, None], (height, width, 3))).numpy()
    requests = []
    for size in batch_sizes:
        # A TensorProto with fewer values than its shape repeats the last one.
        grey = tf.make_tensor_proto(128, tf.uint8, (size, height, width, 3))
        files = tf.make_tensor_proto([photograph] * size, tf.string)
        for signature, function in functions.items():
            name, tensor = ("image_bytes", files) if signature == "serving_bytes" else ("images", grey)
            answer = function(tf.constant(tf.make_ndarray(tensor))) if size == 1 else {}
            outputs = {key: tf.make_tensor_proto(value) for key, value in answer.items()}
            requests.append(WarmupRequest(signature, {name: tensor}, outputs))
    return requests


def write_warmup(folder: str | os.PathLike[str], model: str, requests: Iterable[WarmupRequest]) -> None:
    """Write the warm-up requests of the version in `folder`.

    Args:
        folder: `<path>/<version>`, a SavedModel.
        model: name of the served model; servers accept the requests under any other name too.
        requests: at most 1000, or TensorFlow Serving refuses the version.
    """
    path = Path(folder) / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            writer.write(request.serialize(model))


def _entries(tensors: Mapping[str, Any]) -> list[Any]:
    entry = _message("TensorEntry")
    return [entry(key=name, value=tensor.SerializeToString()) for name, tensor in tensors.items()]


def _message(name: str) -> type[Any]:
    return _classes()[name]


@functools.cache
def _classes() -> dict[str, type[Any]]:
    """The message classes, in a separate pool, so that they cannot conflict with the real package."""
    file = descriptor_pb2.FileDescriptorProto(name="prediction_log.proto", package="san_tf", syntax="proto3")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for field, (number, kind, of, repeated) in fields.items():
            described.field.add(
                name=field,
                number=number,
                type=kind,
                type_name=of and f".san_tf.{of}",
                label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"san_tf.{name}"))
        for name in _FIELDS
    }
