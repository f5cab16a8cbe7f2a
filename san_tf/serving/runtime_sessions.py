"""Opens exported encoders in LiteRT, ONNX Runtime, OpenVINO or TensorFlow, and computes embeddings.

Only the session of a SavedModel imports TensorFlow.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np

from san_tf.errors import UserError
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD
from san_tf.serving.fingerprint import verify_export, verify_runtime_file

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
WEIGHTS = ("float32", "float16", "int8")


class PixelScale(NamedTuple):
    """How a file for trackers takes the pixels of a colour: `(pixel / 255 - mean) / std`, RGB each."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """Return images `(N, h, w, 3)` from 0 to 255 as `(N, 3, h, w)` float32 of this scale."""
        values = (images.astype(np.float32) / 255 - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


# The forms of a file's input. "images" is `(N, H, W, 3)` uint8 of any size. The others are `(N, 3, h, w)`
# float32 RGB of the network's size, as other packages' trackers feed them.
#
# "normalized" is for BoxMOT, read in version 25.0. `reid/core/crops.py` resizes uint8 crops with OpenCV. An
# ONNX file's input says to which height and width. For `.tflite` and `.xml`, `reid/core/artifacts.py` reads
# them from a file beside, `<file>.metadata.json`; without it they are 256x128. The crops of a frame are one
# batch, fed to the input by its place, but by OpenCV's ONNX reader to `images`. For Core ML the axis named
# `batch` is fixed. A `.tflite` must be NCHW, because NHWC is transposed twice. The first output is scaled to
# length 1.
#
# "unit" is for Ultralytics, read in version 8.4.190. `trackers/utils/reid.py` widens boxes by 2% and 10
# pixels, and resizes float32 crops with PyTorch (bilinear, no antialiasing) to the height and width of an
# ONNX file's input. Files for LiteRT and OpenVINO get 224x224, whatever they take. `nn/autobackend.py`
# feeds the crops of a frame one by one, unless `args` in the metadata says that the file is dynamic.
FORMS: Mapping[str, PixelScale | None] = {
    "images": None,
    "normalized": PixelScale(
        tuple(round(float(value), 6) for value in IMAGENET_MEAN),
        tuple(round(float(value), 6) for value in IMAGENET_STD),
    ),
    "unit": PixelScale((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
# Entry of the notes inside a file for trackers that describes its input.
INPUT_KEY = "input"
# Name of an export's notes: a file in the folder of `export_runtimes`, and an entry inside each file.
NOTES_FILE = "san_tf.json"
NOTES_KEY = "san_tf"
_NEEDS = {
    "ai_edge_litert.interpreter": "LiteRT",
    "ai_edge_litert.schema_py_generated": "LiteRT",
    "onnx": "onnx",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime.quantization": "ONNX Runtime",
    "tf2onnx": "tf2onnx",
    "openvino": "OpenVINO",
    "nncf": "NNCF",
}
# Most images and pixels in one run; more images are run in parts, to limit the memory.
_IMAGES, _PIXELS = 128, 2**24
# Numbers of the types in the files' own schemas.
_LITERT_UINT8, _LITERT_FLOAT32 = 3, 0
_ONNX_UINT8, _ONNX_FLOAT32 = 2, 1
# Number of image sizes whose kernels OpenVINO keeps; its default of 5,000 takes gigabytes.
_OPENVINO_SIZES = "32"


class _Runtime(NamedTuple):
    """What a runtime provides for a session.

    Attributes:
        embed: from images `(N, H, W, 3)` to embeddings. A SavedModel takes uint8; the others take float32
            from 0 to 255, because a crop that is resized already has no whole numbers.
        dimensions: length of an embedding.
        notes: notes of the export.
        parallel: whether several threads may call it at once.
        embed_files: a SavedModel's function from image files, which it resizes one by one.
        resizes: whether it takes images of any size; a file for trackers only takes those of its own size.
    """

    embed: Callable[[np.ndarray], np.ndarray]
    dimensions: int
    notes: Mapping[str, Any]
    parallel: bool
    embed_files: Callable[[Sequence[bytes]], np.ndarray] | None = None
    resizes: bool = True


class Session:
    """An encoder opened by `open_session`; call it with images to get their embeddings.

    Several threads may use it; LiteRT and OpenVINO then serve them one after the other.

    Attributes:
        dimensions: length of an embedding, D.
    """

    def __init__(self, path: Path, runtime: _Runtime) -> None:
        self._path, self._runtime = path, runtime
        self._lock = threading.Lock()
        self.dimensions = runtime.dimensions

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels; images of this size are not resized.

        Raises:
            UserError: the size is unknown, because an earlier version wrote the file and its notes are gone.
        """
        size = self._runtime.notes.get("image_size")
        if not isinstance(size, list) or len(size) != 2:
            raise UserError(
                f"{self._path} does not give the size of its images; put {NOTES_FILE} of its export beside "
                "it, or write it again with san-tf export-runtime."
            )
        return int(size[0]), int(size[1])

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Embed images.

        Args:
            images: `(N, H, W, 3)` uint8 RGB, any N, H and W, or a list of images of one size. Many images are
                run in parts.

        Returns:
            `(N, dimensions)` float32, `(0, dimensions)` for no images.

        Raises:
            UserError: the images have the wrong type or shape (see `checked_images`), or the runtime fails.
        """
        images = checked_images(images)
        count, height, width, _ = images.shape
        answer = np.empty((count, self.dimensions), np.float32)
        step = max(1, min(_IMAGES, _PIXELS // max(height * width, 1)))
        for start in range(0, count, step):
            part = images[start : start + step]
            if not self._runtime.resizes:
                part = np.stack([resized(image, self.image_size) for image in part])
            elif self._runtime.embed_files is None:
                part = part.astype(np.float32)
            size = f"{len(part)} images of {height}x{width} pixels"
            answer[start : start + step] = self._run(self._runtime.embed, part, size)
        return answer

    def embed_crops(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Embed images of different sizes in one batch.

        Each is resized once, as if it were embedded alone, so the embeddings agree with those of a call for
        each image. (An int8 file of LiteRT resizes in whole numbers itself; its embeddings may then differ by
        one step, 1/128.) Many images are run in parts.

        Args:
            crops: `(H, W, 3)` uint8 RGB each, of any H and W.

        Returns:
            `(N, dimensions)` float32, `(0, dimensions)` for no images.

        Raises:
            UserError: an image has the wrong type or shape, the runtime fails, or the file does not give the
                size of its images.

        Example:
            >>> session.embed_crops([frame[0:300, 40:140], frame[20:180, 300:360]]).shape
            (2, 2048)
        """
        answer = np.empty((len(crops), self.dimensions), np.float32)
        for start in range(0, len(crops), _IMAGES):
            part = [checked_images(crop[None])[0] for crop in crops[start : start + _IMAGES]]
            size = f"{len(part)} crops"
            if self._runtime.embed_files is None:
                given = np.stack([resized(crop, self.image_size) for crop in part])
                found = self._run(self._runtime.embed, given, size)
            else:
                found = self._run(self._runtime.embed_files, [png_file(crop) for crop in part], size)
            answer[start : start + _IMAGES] = found
        return answer

    def _run(self, embed: Callable[[Any], np.ndarray], images: Any, size: str) -> np.ndarray:
        """Embed one batch, and check the answer."""
        try:
            if self._runtime.parallel:
                embeddings = embed(images)
            else:
                with self._lock:
                    embeddings = embed(images)
        except Exception as error:  # each runtime has errors of its own
            raise UserError(
                f"{self._path} failed on {size} ({_reason(error)}); check that there is enough memory, or "
                "write the file again."
            ) from error
        wanted = (len(images), self.dimensions)
        if embeddings.shape != wanted or embeddings.dtype != np.float32:
            raise UserError(
                f"{self._path} gave {embeddings.dtype} {embeddings.shape} for {size} instead of float32 "
                f"{wanted}; write it again."
            )
        if not np.isfinite(embeddings).all():
            raise UserError(f"{self._path} gave NaN or infinity for {size}; write it again.")
        return embeddings


def png_file(image: np.ndarray) -> bytes:
    """Return an image `(H, W, 3)` uint8 RGB as a PNG file, written quickly rather than small."""
    stored = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1]
    return stored.tobytes()


def resized(crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a crop to height and width `size`, float32, as `san_tf.data.images.resize_image` does."""
    # OpenCV's bilinear resize of floats has the same half-pixel centres, and no antialiasing either.
    return cv2.resize(crop.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)


def checked_images(images: Any) -> np.ndarray:
    """Return images as a contiguous array for a session, without ambiguous conversions.

    Args:
        images: `(N, H, W, 3)` uint8, in any memory layout; or a list of `(H, W, 3)` uint8 of one size.

    Returns:
        `(N, H, W, 3)` uint8, contiguous.

    Raises:
        UserError: the dtype or the number of axes or channels is wrong, height or width is 0, or sizes
            differ. The message says what to do.

    Example:
        >>> checked_images(np.zeros((2, 128, 64), np.uint8))
        Traceback (most recent call last):
        ...
        san_tf.errors.UserError: Images must be uint8 of (N, H, W, 3); received uint8 (2, 128, 64): repeat the
        grey channel, np.repeat(images[..., None], 3, axis=-1).
    """
    if isinstance(images, (list, tuple)):
        images = _stacked(images)
    if isinstance(images, np.ma.MaskedArray):
        raise UserError("Images must be uint8 of (N, H, W, 3) without a mask; give images.filled(0).")
    try:
        array = np.asarray(images)
    except Exception as error:  # converting an arbitrary object may raise anything
        raise UserError(
            f"Images must be uint8 of (N, H, W, 3); received {type(images).__name__} ({_reason(error)})."
        ) from error
    advice = _advice(array)
    if advice:
        given = type(images).__name__ if array.dtype == object else f"{array.dtype} {array.shape}"
        raise UserError(f"Images must be uint8 of (N, H, W, 3); received {given}: {advice}.")
    return np.ascontiguousarray(array)


def _stacked(images: list[Any] | tuple[Any, ...]) -> np.ndarray:
    if not images:
        return np.empty((0, 1, 1, 3), np.uint8)
    arrays = [np.asarray(image) for image in images]
    for number, array in enumerate(arrays):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            raise UserError(
                f"Images of one call must be alike; image 0 is {arrays[0].dtype} {arrays[0].shape}, image "
                f"{number} is {array.dtype} {array.shape}: resize them to one size, or embed them one by one."
            )
    return np.stack(arrays)


def _advice(array: np.ndarray) -> str | None:
    """What to do with an array that cannot be embedded; None if it can."""
    if array.dtype == object or array.dtype.kind not in "buif":
        return "read the images into arrays first"
    if array.dtype != np.uint8:
        if array.dtype.kind == "f":
            return (
                "if they are 0 to 1, give (images * 255).round().astype(np.uint8); if 0 to 255, "
                "images.round().astype(np.uint8)"
            )
        return "if they are 0 to 255, give images.astype(np.uint8)"
    shape = array.shape
    if array.ndim == 3:
        if shape[-1] in (3, 4):
            return f"give a single image as image[None{'' if shape[-1] == 3 else ', ..., :3'}]"
        return "repeat the grey channel, np.repeat(images[..., None], 3, axis=-1)"
    if array.ndim != 4:
        return "stack the images along a first axis"
    if shape[-1] != 3:
        if shape[1] == 3:
            return "put the channels last, images.transpose(0, 2, 3, 1)"
        if shape[-1] == 4:
            return "leave the transparency out, images[..., :3]"
        if shape[-1] == 1:
            return "repeat the grey channel, np.repeat(images, 3, axis=-1)"
        return "give three channels, RGB"
    if shape[0] and not (shape[1] and shape[2]):
        return "leave out images without height or width"
    return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def open_session(path: str | os.PathLike[str], threads: int = 0) -> Session:
    """Open an exported encoder; runtimes other than TensorFlow compute on the CPU.

    Args:
        path: an `encoder*.tflite`, `.onnx` or `.xml` of `export_runtimes`, in any form, or the folder of an
            export: `saved_models/market/1`, or `saved_models/market` for its newest version. A SavedModel can
            read and write files: open only those of people you trust.
        threads: number of threads; 0 is the runtime's default. TensorFlow's is a setting of the process.

    Returns:
        The session: `(N, H, W, 3)` uint8 RGB to `(N, D)` float32, with `image_size` and `dimensions`.

    Raises:
        UserError: the file is missing, damaged or of an unknown kind, it takes float32 and does not say how
            pixels are scaled, its runtime is not installed, or `threads` is invalid.

    Example:
        >>> embed = open_session("runtimes/market/encoder.onnx", threads=2)
        >>> embed.image_size, embed.dimensions
        ((256, 128), 2048)
        >>> embed(np.zeros((4, 300, 100, 3), np.uint8)).shape
        (4, 2048)
    """
    path = Path(path)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 0:
        raise UserError(f"threads must be 0 or a number of threads; received {threads!r}.")
    openers = {".tflite": _litert, ".onnx": _onnx, ".xml": _openvino}
    if path.is_dir():
        return Session(path, _saved_model(path, threads))
    if path.suffix not in openers:
        raise UserError(
            f"{path} is for no runtime known here; name a .tflite, .onnx or .xml file, or an export's folder."
        )
    if not path.is_file():
        raise UserError(f"{path} does not exist; write it with san-tf export-runtime.")
    verify_runtime_file(path)
    try:
        return Session(path, openers[path.suffix](path, threads))
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        raise UserError(f"{path} cannot be opened ({_reason(error)}); write it again.") from error


def package(name: str) -> ModuleType:
    """Import a package of the extra `runtimes`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f'{_NEEDS[name]} is not installed; pip install "san-tf[runtimes]" brings it.'
        ) from error


# Files of the form "images" take uint8 and cast it to float32 first. Sessions declare the input to be
# float32, in memory, so that the cast does nothing and the same network also takes crops that are resized
# already. Files for trackers take float32, and say of which scale.


def _for_trackers(path: Path, runtime: _Runtime, shape: Sequence[Any]) -> _Runtime:
    """Return the runtime of a file whose input is float32, with a function that scales its images.

    Args:
        path: the file.
        runtime: its runtime; its notes are those inside the file.
        shape: shape of its input.

    Raises:
        UserError: the file does not say how pixels are scaled, or has another input than it says.
    """
    given: Any = runtime.notes.get(INPUT_KEY)
    try:
        height, width = (int(side) for side in given["size"])
        scale = PixelScale(*(tuple(float(value) for value in given[name]) for name in PixelScale._fields))
        known = (given["dtype"], given["layout"], given["channel_order"]) == ("float32", "NCHW", "RGB")
        known = known and all(len(values) == 3 for values in scale) and all(scale.std)
        known = known and list(shape[1:]) == [3, height, width] == [3, *runtime.notes["image_size"]]
    except (TypeError, KeyError, ValueError):
        known = False
    if not known:
        raise UserError(
            f"{path} takes float32 of {tuple(shape)}, and its notes do not say how pixels are scaled; open "
            f"encoder{path.suffix} of its export, or write the file again with san-tf export-runtime."
        )
    embed = runtime.embed
    return runtime._replace(embed=lambda images: embed(scale.prepared(images)), resizes=False)


def _litert(path: Path, threads: int) -> _Runtime:
    content = path.read_bytes()
    floats = _litert_of_floats(content)
    interpreter = package("ai_edge_litert.interpreter").Interpreter(
        model_content=floats or content, num_threads=threads or None
    )
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: tuple[int, ...] = ()

    def embed(images: np.ndarray) -> np.ndarray:
        nonlocal shape
        if images.shape != shape:  # plan again only for a new shape
            shape = ()  # if planning fails, the next call must not rely on the old plan
            interpreter.resize_tensor_input(source["index"], images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        answer: np.ndarray = interpreter.get_tensor(target["index"])
        return answer

    notes = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            notes = archive.read(NOTES_FILE) if NOTES_FILE in archive.namelist() else None
    runtime = _Runtime(embed, int(target["shape_signature"][-1]), _notes(path, notes), parallel=False)
    axes = [int(size) for size in source["shape_signature"]]
    return runtime if floats else _for_trackers(path, runtime, axes)


def _litert_of_floats(content: bytes) -> bytes | None:
    """Return a LiteRT file whose input is float32 instead of uint8; None if it is float32 already."""
    model = bytearray(content)
    graph = package("ai_edge_litert.schema_py_generated").Model.GetRootAs(model, 0).Subgraphs(0)
    source = graph.Tensors(graph.Inputs(0))
    if source.Type() == _LITERT_FLOAT32:
        return None
    if source.Type() != _LITERT_UINT8:
        raise ValueError("its input is neither uint8 nor float32")
    # The table's field `type`, a byte.
    model[source._tab.Pos + source._tab.Offset(6)] = _LITERT_FLOAT32
    return bytes(model)


def _onnx(path: Path, threads: int) -> _Runtime:
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The runtime would keep a memory plan for each image size, without limit.
    options.enable_mem_pattern = False
    content = path.read_bytes()
    floats = _onnx_of_floats(content)
    session = onnxruntime.InferenceSession(floats or content, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    source = given.name

    def embed(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {source: images})[0]
        return answer

    notes = session.get_modelmeta().custom_metadata_map.get(NOTES_KEY)
    runtime = _Runtime(embed, int(session.get_outputs()[0].shape[-1]), _notes(path, notes), parallel=True)
    return runtime if floats else _for_trackers(path, runtime, given.shape)


def _onnx_of_floats(content: bytes) -> bytes | None:
    """Return an ONNX file whose input is float32 instead of uint8; None if it is float32 already.

    ONNX Runtime cannot change a file, and the package `onnx`, which can, would be needed for this one byte.
    """
    model = bytearray(content)
    place = (0, len(model))
    # ModelProto.graph, GraphProto.input, ValueInfoProto.type, TypeProto.tensor_type, Tensor.elem_type
    for field in (7, 11, 2, 1, 1):
        (place,) = [(start, end) for number, start, end in _proto_fields(model, *place) if number == field]
    kind = model[place[0]] if place[1] - place[0] == 1 else 0
    if kind == _ONNX_FLOAT32:
        return None
    if kind != _ONNX_UINT8:
        raise ValueError("its input is neither uint8 nor float32")
    model[place[0]] = _ONNX_FLOAT32
    return bytes(model)


def _proto_fields(content: bytearray, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the fields of a protobuf message; they hold a number or bytes."""
    while start < end:
        key, start = _varint(content, start)
        kind = key & 7
        if kind == 0:
            stop = _varint(content, start)[1]
        elif kind == 2:
            size, start = _varint(content, start)
            stop = start + size
        elif kind in (1, 5):
            stop = start + (8 if kind == 1 else 4)
        else:
            raise ValueError("it is not a protobuf message")
        yield key >> 3, start, stop
        start = stop


def _varint(content: bytearray, start: int) -> tuple[int, int]:
    """Return a number of variable length, and where it ends."""
    value = shift = 0
    while True:
        value |= (content[start] & 127) << shift
        start, shift = start + 1, shift + 7
        if content[start - 1] < 128:
            return value, start


def _openvino(path: Path, threads: int) -> _Runtime:
    # Without the hint it uses bfloat16 if the processor can, and embeddings then differ by 1e-3.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_RUNTIME_CACHE_CAPACITY": _OPENVINO_SIZES,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    openvino = package("openvino")
    core = openvino.Core()
    source = core.read_model(str(path))
    (given,) = source.get_parameters()
    floats = given.get_element_type() == openvino.Type.u8
    if floats:
        given.set_element_type(openvino.Type.f32)
        source.validate_nodes_and_infer_types()
    elif given.get_element_type() != openvino.Type.f32:
        raise ValueError("its input is neither uint8 nor float32")
    model = core.compile_model(source, "CPU", options)

    def embed(images: np.ndarray) -> np.ndarray:
        return np.array(model(images)[0])  # a copy, because the runtime reuses its own array

    notes = source.get_rt_info([NOTES_KEY]).astype(str) if source.has_rt_info([NOTES_KEY]) else None
    dimensions = source.outputs[0].partial_shape[1].get_length()
    runtime = _Runtime(embed, int(dimensions), _notes(path, notes), parallel=False)
    axes = [axis.get_length() if axis.is_static else -1 for axis in given.get_partial_shape()]
    return runtime if floats else _for_trackers(path, runtime, axes)


def _saved_model(path: Path, threads: int) -> _Runtime:
    if threads:
        raise UserError(
            "threads is for the other runtimes; TensorFlow's are set for the whole process, with "
            "tf.config.threading.set_intra_op_parallelism_threads."
        )
    import tensorflow as tf

    from san_tf.serving.encoder_export import read_metadata
    from san_tf.serving.servable import newest_export

    folder = newest_export(path)
    notes = read_metadata(folder)
    verify_export(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
        served, served_files = (loaded.signatures[name] for name in ("serving_default", "serving_bytes"))
        dimensions = int(served.structured_outputs["embedding"].shape[-1])
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise UserError(f"{folder} cannot be loaded ({_reason(error)}); export it again.") from error

    def embed(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = served(images=tf.constant(images))["embedding"].numpy()
        return answer

    def embed_files(files: Sequence[bytes]) -> np.ndarray:
        answer: np.ndarray = served_files(image_bytes=tf.constant(files, tf.string))["embedding"].numpy()
        return answer

    embed.model = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return _Runtime(embed, dimensions, notes, parallel=True, embed_files=embed_files)


def _notes(path: Path, own: str | bytes | None) -> Mapping[str, Any]:
    """The notes inside a file, or else beside it; empty if there are none."""
    try:
        text = (path.parent / NOTES_FILE).read_bytes() if own is None else own
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
