"""Writes an export for other runtimes: LiteRT, ONNX and OpenVINO files with equal embeddings."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.serving.encoder_export import read_metadata
from san_tf.serving.fingerprint import DIGESTS, runtime_digests, verify_export
from san_tf.serving.folding import FrozenGraph, fold, needed, node_of
from san_tf.serving.runtime_sessions import (
    FORMS,
    INPUT_KEY,
    NOTES_FILE,
    NOTES_KEY,
    SUFFIXES,
    WEIGHTS,
    checked_images,
    open_session,
    package,
    resized,
)


class Source(NamedTuple):
    """An export to write for other runtimes.

    Attributes:
        loaded: the SavedModel; keeps its variables alive.
        graph: graph of its signature `serving_default`, from `(N, h, w, 3)` uint8 to `embedding`.
        metadata: see `serving.read_metadata`.
    """

    loaded: Any
    graph: FrozenGraph
    metadata: dict[str, Any]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        height, width = self.metadata["image_size"]
        return height, width

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of the SavedModel itself."""
        served = self.loaded.signatures["serving_default"]
        answer: np.ndarray = served(images=tf.constant(images))["embedding"].numpy()
        return answer

    def function(self, form: str = "images") -> Any:
        """The graph as a `tf.function` of `images` in one of the `FORMS`.

        Raises:
            UserError: the form has a fixed size, and the graph does not resize images as exports do.
        """
        scale = FORMS[form]
        graph = self.graph if scale is None else _behind_resizing(self.graph)

        def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
            if scale is not None:
                # Back to pixels, because the graph normalises them itself, whichever version exported it.
                pixels = tf.transpose(images, (0, 2, 3, 1))
                images = pixels * (255.0 * np.asarray(scale.std, np.float32)) + 255.0 * np.asarray(
                    scale.mean, np.float32
                )
            return graph.part(images)

        return tf.function(embed, input_signature=[self.spec(form)], autograph=False)

    def spec(self, form: str) -> tf.TensorSpec:
        """The input of `function`."""
        if FORMS[form] is None:
            return tf.TensorSpec((None, None, None, 3), tf.uint8, "images")
        return tf.TensorSpec((None, 3, *self.image_size), tf.float32, "images")

    def given(self, image: np.ndarray, form: str) -> np.ndarray:
        """Return an image `(H, W, 3)` uint8 as a batch of one, in a form."""
        scale = FORMS[form]
        return image[None] if scale is None else scale.prepared(resized(image, self.image_size)[None])


def read_source(folder: str | os.PathLike[str]) -> Source:
    """Load a version of an export and fold its graph.

    Args:
        folder: `<path>/<version>` as `export_encoder` returned it.

    Raises:
        UserError: the folder is not an export of this package, or cannot be loaded.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    verify_export(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
        graph = fold(loaded.signatures["serving_default"])
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{folder} cannot be loaded ({reason}); export it again.") from error
    return Source(loaded, graph._replace(graph_def=_resizing_floats(graph.graph_def)), metadata)


def _resizing_floats(graph_def: tf.compat.v1.GraphDef) -> tf.compat.v1.GraphDef:
    """The same graph with images cast to float32 before they are resized.

    Exports of earlier versions resize uint8 to float32 in one operation, which LiteRT and ONNX lack.
    """
    result = tf.compat.v1.GraphDef(versions=graph_def.versions)
    floating, small = tf.float32.as_datatype_enum, tf.uint8.as_datatype_enum
    for node in graph_def.node:
        copy = tf.compat.v1.NodeDef()
        copy.CopyFrom(node)
        if node.op == "ResizeBilinear" and node.attr["T"].type == small:
            cast = result.node.add(name=f"{node.name}/cast", op="Cast", input=[node.input[0]])
            cast.attr["SrcT"].type, cast.attr["DstT"].type = small, floating
            copy.input[0], copy.attr["T"].type = cast.name, floating
        result.node.append(copy)
    return result


def _behind_resizing(graph: FrozenGraph) -> FrozenGraph:
    """The part of the graph from the resized images on, `(N, h, w, 3)` float32, 0-255."""
    nodes = {node.name: node for node in graph.graph_def.node}

    def of_images(node: tf.compat.v1.NodeDef) -> bool:
        while node.op in ("Cast", "Identity"):
            node = nodes[node_of(node.input[0])]
        return f"{node.name}:0" == graph.source

    found = [n for n in nodes.values() if n.op == "ResizeBilinear" and of_images(nodes[node_of(n.input[0])])]
    if len(found) != 1:
        raise UserError(
            "This export does not resize its images as exports of this package do, so its files can only "
            'have the form "images"; export it again.'
        )
    (resizing,) = found
    result = tf.compat.v1.GraphDef(versions=graph.graph_def.versions)
    for node in nodes.values():
        if node.name != resizing.name:
            result.node.append(node)
            continue
        start = result.node.add(name=node.name, op="Placeholder")
        start.attr["dtype"].type = tf.float32.as_datatype_enum
    result = needed(result, [node_of(target) for target in graph.targets.values()])
    return graph._replace(graph_def=result, source=f"{resizing.name}:0")


def half_weights(model: Any) -> None:
    """Store kernels as float16, with casts to float32 that ONNX Runtime computes once, on loading.

    Float16 arithmetic would bring nothing: ONNX Runtime has hardly any on CPUs.

    Args:
        model: `onnx.ModelProto`, changed in place.
    """
    onnx = package("onnx")
    casts = []
    for tensor in model.graph.initializer:
        # A factor for each channel is of shape (1, C, 1, 1) here, and small.
        if tensor.data_type == onnx.TensorProto.FLOAT and sum(size > 1 for size in tensor.dims) >= 2:
            name, value = tensor.name, onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), f"{name}/float16"))
            casts.append(
                onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT, name=name)
            )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize(model: Any, path: Path, images: Sequence[np.ndarray]) -> None:
    """Write a model whose network computes in int8; operations before and after it stay float32.

    Kernels have one scale per channel, feature maps one scale each. They are written as quantise-dequantise
    nodes, which ONNX Runtime fuses with the operations between them.

    Args:
        model: `onnx.ModelProto` in float32.
        path: file to write.
        images: batches of the model's input; they determine the ranges of the feature maps.
    """
    onnx, quantization = package("onnx"), package("onnxruntime.quantization")
    inside = _network(model.graph.node)
    outside = [node.name for node in model.graph.node if node.name not in inside]

    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "float32.onnx"
        onnx.save(model, str(given))
        quantization.quantize_static(
            str(given),
            str(path),
            _Images(model.graph.input[0].name, images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=outside,
        )


class _Images:
    """ONNX Runtime's `CalibrationDataReader`: returns one batch after another, then None."""

    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self._name, self._rest = name, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self._rest, None)
        return None if images is None else {self._name: images}


def _network(nodes: Sequence[Any]) -> set[str]:
    """Names of the nodes from the first convolution to the last matrix product with weights."""
    weighted = ("Conv", "MatMul", "Gemm")
    behind: set[str] = set()
    for node in nodes:  # in the order of their inputs
        if node.op_type in weighted or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in weighted or before.intersection(node.output):
            before.update(node.input)
    names = set()
    for node in nodes:
        inner = behind.intersection(node.input) and before.intersection(node.output)
        if node.op_type in weighted or inner:
            names.add(node.name)
    return names


_OPSET = 18
_NOTED = (
    "image_size", "embedding_size", "channel_order", "resize", "exif_orientation", "l2_normalized",
    "flip_averaged", "san_tf",
)  # fmt: skip
Images = Sequence[np.ndarray]


def write_litert(source: Source, path: Path, weights: str, calibration: Images, form: str = "images") -> None:
    """Write a `.tflite` with the signature `serving_default`.

    Args:
        source: the export.
        path: file to write.
        weights: "float32"; "float16": half the size, the same arithmetic; "int8": kernels and feature maps.
        calibration: `(H, W, 3)` uint8 images that determine the ranges of the feature maps; for int8 only.
        form: one of the `FORMS`. LiteRT computes in NHWC, so that the others begin with a transposition.
    """
    module = tf.Module()
    module.embed = source.function(form)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.embed})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        if weights != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if weights == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if weights == "int8":
            converter.representative_dataset = lambda: (
                {"images": source.given(image, form)} for image in calibration
            )
        path.write_bytes(converter.convert())
    # LiteRT calls it an associated file: a zip archive after the model, which the runtime ignores. The fixed
    # date makes the file reproducible.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(NOTES_FILE), _notes(source, form))


def write_onnx(source: Source, path: Path, weights: str, calibration: Images, form: str = "images") -> None:
    """Write an `.onnx` file of opset 18; arguments as for `write_litert`."""
    onnx, tf2onnx = package("onnx"), package("tf2onnx")
    model, _ = tf2onnx.convert.from_function(
        source.function(form), input_signature=[source.spec(form)], opset=_OPSET
    )
    if weights == "float16":
        half_weights(model)
    if weights == "int8":
        quantize(model, path, [source.given(image, form) for image in calibration])
        model = onnx.load(str(path))
    model.metadata_props.add(key=NOTES_KEY, value=_notes(source, form))
    if form != "images":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if form == "unit":  # Ultralytics would otherwise feed the crops of a frame one by one.
        model.metadata_props.add(key="args", value="{'dynamic': True}")
    if form == "normalized":  # Ultralytics expects a number here; it stops with this sentence.
        model.metadata_props.add(
            key="channels",
            value="this file takes normalized pixels; give Ultralytics the file of --form unit",
        )
    onnx.save(model, str(path))


def write_openvino(
    source: Source, path: Path, weights: str, calibration: Images, form: str = "images"
) -> None:
    """Write an `.xml` file, and a `.bin` with the weights; arguments as for `write_litert`."""
    openvino = package("openvino")
    model = openvino.convert_model(source.function(form).get_concrete_function())
    if weights == "int8":
        nncf = package("nncf")
        data = nncf.Dataset([source.given(image, form) for image in calibration])
        model = nncf.quantize(model, data, subset_size=len(calibration))
    model.set_rt_info(_notes(source, form), [NOTES_KEY])
    if form != "images":
        model.get_parameters()[0].set_layout(openvino.Layout("NCHW"))
    openvino.save_model(model, str(path), compress_to_fp16=weights == "float16")


def _notes(source: Source, form: str) -> str:
    """Notes to store inside a file: its input images, and its embeddings."""
    notes = {key: source.metadata[key] for key in _NOTED if key in source.metadata}
    return json.dumps({**notes, **_input_notes(source, form)})


def _input_notes(source: Source, form: str) -> dict[str, Any]:
    """Describe the input of a file for trackers; the input of others is the export's."""
    scale = FORMS[form]
    if scale is None:
        return {}
    described = {
        "form": form, "dtype": "float32", "layout": "NCHW", "size": list(source.image_size),
        "channel_order": "RGB", "scale": "(pixel / 255 - mean) / std", **scale._asdict(),
    }  # fmt: skip
    return {INPUT_KEY: described}


def _write_for_boxmot(source: Source, path: Path, form: str) -> None:
    """Write the file in which BoxMOT (25.0) looks for the size of another file's input.

    It normalises pixels whatever the file takes. A setting that it does not know makes it stop and name it.
    """
    settings: dict[str, Any] = {"img_size": list(source.image_size)}
    if form == "unit":
        settings = {"this file takes pixels from 0 to 1; give BoxMOT the file of --form normalized": True}
    described = {
        "schema_version": 1,
        "model_name": "san_tf",
        "model_kwargs_schema_version": 1,
        "model_kwargs": settings,
    }
    path.with_name(f"{path.name}.metadata.json").write_text(json.dumps(described, indent=2) + "\n")


WRITERS: Mapping[str, Any] = {"litert": write_litert, "onnx": write_onnx, "openvino": write_openvino}


# Largest relative difference from the SavedModel's embedding; int8 is limited by the angle instead.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
INT8_COSINE = 0.9
_PACKAGES = ("ai-edge-litert", "onnx", "onnxruntime", "tf2onnx", "openvino", "nncf", "tensorflow")


def export_runtimes(
    saved_model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    runtimes: str | Sequence[str] = tuple(SUFFIXES),
    weights: str | Sequence[str] = ("float32",),
    calibration: Sequence[np.ndarray] = (),
    *,
    form: str | Sequence[str] = ("images",),
    overwrite: bool = False,
) -> Path:
    """Write an export for other runtimes, all files or none, and compare each with the SavedModel.

    The files are `encoder.tflite`, `encoder.onnx`, `encoder.xml` with `encoder.bin`; for other weights
    `encoder.float16.onnx`, `encoder.int8.onnx` and so on; and `san_tf.json`, the export's metadata with the
    measured differences. Like the SavedModel's signature `serving_default`, they compute `embedding`,
    `(N, D)` float32, from `images`, `(N, h, w, 3)` uint8 RGB of any number and size. Resizing, normalisation,
    mirror image and scaling to length 1 are included.

    Trackers of other packages feed `(N, 3, h, w)` float32 RGB of the network's size instead. Files in these
    forms are `encoder.normalized.onnx`, `encoder.unit.float16.onnx` and so on; the entry `input` of the notes
    inside each says what it takes. `open_session` and `FrameEncoder` take the same images for all of them.

    Args:
        saved_model: `<path>/<version>` as `export_encoder` returned it.
        out: the folder to write.
        runtimes: some of "litert", "onnx", "openvino".
        weights: some of "float32", "float16" (half the size, arithmetic stays float32) and "int8" (a quarter
            of the size, integer arithmetic).
        calibration: for int8, some hundred `(H, W, 3)` uint8 images like those to come; take training images,
            never test images.
        form: some of "images" (uint8 of any size), "normalized" (pixels from 0 to 1 less ImageNet's mean,
            divided by its standard deviation, as BoxMOT feeds them) and "unit" (0 to 1, as Ultralytics does).
        overwrite: replace the folder if it exists.

    Returns:
        `out`.

    Raises:
        UserError: `saved_model` is not an export, a choice is unknown, a runtime is not installed, a file
            disagrees with the SavedModel (float32 by more than 1e-4, float16 by 1e-2, int8 by a cosine below
            0.9), int8 has no images, an image is invalid, or the folder cannot be written.

    Example:
        >>> folder = export_runtimes("saved_models/market/1", "runtimes/market", ["onnx"])
        >>> open_session(folder / "encoder.onnx")(images).shape
        (4, 2048)
    """
    out = Path(out)
    runtimes = _chosen(runtimes, tuple(SUFFIXES), "runtime")
    weights = _chosen(weights, WEIGHTS, "kind of weights")
    forms = _chosen(form, tuple(FORMS), "form")
    if "int8" in weights and not len(calibration):
        raise UserError(
            "int8 needs images to determine its value ranges; name some of the training images with "
            "--calibration."
        )
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; name another folder, or add --overwrite.")
    calibration = [checked_images(np.asarray(image)[None])[0] for image in calibration]
    source = read_source(saved_model)
    batches = _batches(source.image_size, calibration)
    notes: dict[str, Any] = {}
    with atomic_folder(out) as temporary:
        for runtime, shape, kind in itertools.product(runtimes, forms, weights):
            parts = ("" if shape == "images" else f".{shape}", "" if kind == "float32" else f".{kind}")
            path = temporary / f"encoder{''.join(parts)}{SUFFIXES[runtime]}"
            with _quiet():
                WRITERS[runtime](source, path, kind, calibration, shape)
            if shape != "images":
                _write_for_boxmot(source, path, shape)
            notes[path.name] = {
                "runtime": runtime,
                "weights": kind,
                "form": shape,
                **_input_notes(source, shape),
                **_compared(source, path, kind, batches),
            }
        versions = {name: _version(name) for name in _PACKAGES}
        runtime_notes = {"files": notes, "packages": versions}
        whole = {**source.metadata, DIGESTS: runtime_digests(temporary), "runtimes": runtime_notes}
        (temporary / NOTES_FILE).write_text(json.dumps(whole, indent=2) + "\n")
    return out


def _chosen(given: str | Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    """Return what was chosen, each once; a single name may stand for itself."""
    names = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is not a valid {what}; choose from {', '.join(known)}.")
    if not names:
        raise UserError(f"There is nothing to write without a {what}; choose from {', '.join(known)}.")
    return names


def _compared(source: Source, path: Path, weights: str, batches: Sequence[np.ndarray]) -> dict[str, float]:
    """Measure the difference of a file's embeddings from the SavedModel's."""
    session = open_session(path)
    wanted = np.concatenate([source.embed(images) for images in batches]).astype(np.float64)
    found = np.concatenate([session(images) for images in batches]).astype(np.float64)
    if found.shape != wanted.shape:
        raise UserError(f"{path.name} gives {found.shape} where the SavedModel gives {wanted.shape}.")
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    difference = float(np.abs((found - wanted) / lengths).max())
    cosine = float((np.sum(found * wanted, 1) / (np.linalg.norm(found, axis=1) * lengths[:, 0])).min())
    allowed = TOLERANCES.get(weights)
    good = difference <= allowed if allowed else cosine >= INT8_COSINE  # NaN is not good
    if not good:
        limit = (
            f"{allowed:.0e} is allowed" if allowed else f"a cosine of {cosine:.3f}, {INT8_COSINE} is allowed"
        )
        raise UserError(
            f"{path.name} disagrees with the SavedModel (by {difference:.1e}; {limit}), so nothing was "
            "written; leave it out, or give other calibration images for int8."
        )
    return {"difference": difference, "cosine": cosine}


def _batches(image_size: tuple[int, int], calibration: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images for the comparison: smooth ones in batches of several sizes, and some of the user's."""
    rng = np.random.default_rng(0)
    height, width = image_size
    batches = []
    for number, size in (
        (1, (height, width)),
        (3, (height * 3 // 2, width)),
        (2, (height // 2 + 1, width // 3 + 1)),
    ):
        coarse = rng.uniform(0, 255, (number, 6, 4, 3)).astype(np.float32)
        batches.append(tf.cast(tf.image.resize(coarse, size), tf.uint8).numpy())
    return batches + [image[None] for image in calibration[:16]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the converters' progress and deprecation warnings, which need no action here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _version(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None
