"""Files of LiteRT, ONNX and OpenVINO, written by each runtime's own converter.

Keras has exporters to the three, of Keras models. The preprocessing, the mirror image and the length are in
the SavedModel's graph and in no Keras model, and who has a SavedModel often has nothing else: hence the
converters that Keras's exporters call, here called with the SavedModel's folded graph.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.serving.onnx_weights import half_weights, quantize
from san_tf.serving.runtime_sessions import NOTES_FILE, NOTES_KEY, package
from san_tf.serving.runtime_source import Source

_OPSET = 18
_NOTED = (
    "image_size", "embedding_size", "channel_order", "resize", "exif_orientation", "l2_normalized",
    "flip_averaged", "san_tf",
)  # fmt: skip
Images = Sequence[np.ndarray]


def write_litert(source: Source, path: Path, weights: str, calibration: Images) -> None:
    """Write a `.tflite` with the signature `serving_default`.

    Args:
        source: of the graph.
        path: to write to.
        weights: "float32"; "float16": half the room, the same arithmetic; "int8": kernels and maps.
        calibration: `(H, W, 3)` uint8 images that tell the ranges of the maps; for int8 only.
    """
    module = tf.Module()
    module.embed = source.function()
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.embed})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if weights != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if weights == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if weights == "int8":
            converter.representative_dataset = lambda: ({"images": image[None]} for image in calibration)
        path.write_bytes(converter.convert())
    # What LiteRT calls an associated file: an archive behind the model, which the runtime does not look at.
    # It bears a fixed date, so that the same model makes the same file.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(NOTES_FILE), _notes(source))


def write_onnx(source: Source, path: Path, weights: str, calibration: Images) -> None:
    """Write an `.onnx` of opset 18; arguments as of `write_litert`."""
    onnx, tf2onnx = package("onnx"), package("tf2onnx")
    spec = [tf.TensorSpec((None, None, None, 3), tf.uint8, "images")]
    model, _ = tf2onnx.convert.from_function(source.function(), input_signature=spec, opset=_OPSET)
    if weights == "float16":
        half_weights(model)
    if weights == "int8":
        quantize(model, path, calibration)
        model = onnx.load(str(path))
    model.metadata_props.add(key=NOTES_KEY, value=_notes(source))
    onnx.save(model, str(path))


def write_openvino(source: Source, path: Path, weights: str, calibration: Images) -> None:
    """Write an `.xml`, and beside it a `.bin` with the weights; arguments as of `write_litert`."""
    openvino = package("openvino")
    model = openvino.convert_model(source.function().get_concrete_function())
    if weights == "int8":
        nncf = package("nncf")
        data = nncf.Dataset([image[None] for image in calibration])
        model = nncf.quantize(model, data, subset_size=len(calibration))
    model.set_rt_info(_notes(source), [NOTES_KEY])
    openvino.save_model(model, str(path), compress_to_fp16=weights == "float16")


def _notes(source: Source) -> str:
    """What a file must tell wherever it goes: the images it takes, and what its embeddings are."""
    return json.dumps({key: source.metadata[key] for key in _NOTED if key in source.metadata})


WRITERS: Mapping[str, Any] = {"litert": write_litert, "onnx": write_onnx, "openvino": write_openvino}
