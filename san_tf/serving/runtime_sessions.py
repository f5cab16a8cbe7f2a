"""Opens exported encoders in LiteRT, ONNX Runtime, OpenVINO or TensorFlow, and computes embeddings.

Only the session of a SavedModel imports TensorFlow.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from san_tf.errors import UserError
from san_tf.serving.fingerprint import verify_export, verify_runtime_file

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
WEIGHTS = ("float32", "float16", "int8")
# Name of an export's notes: a file in the folder of `export_runtimes`, and an entry inside each file.
NOTES_FILE = "san_tf.json"
NOTES_KEY = "san_tf"
_NEEDS = {
    "ai_edge_litert.interpreter": "LiteRT",
    "onnx": "onnx",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime.quantization": "ONNX Runtime",
    "tf2onnx": "tf2onnx",
    "openvino": "OpenVINO",
    "nncf": "NNCF",
}
# Most images and pixels in one run; more images are run in parts, to limit the memory.
_IMAGES, _PIXELS = 128, 2**24
# Number of image sizes whose kernels OpenVINO keeps; its default of 5,000 takes gigabytes.
_OPENVINO_SIZES = "32"


class _Runtime(NamedTuple):
    """What a runtime provides for a session: embedding function, embedding length, notes, lock."""

    embed: Callable[[np.ndarray], np.ndarray]
    dimensions: int
    notes: Mapping[str, Any]
    parallel: bool


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
            answer[start : start + step] = self._checked(self._embed(part), part)
        return answer

    def _embed(self, images: np.ndarray) -> np.ndarray:
        try:
            if self._runtime.parallel:
                return self._runtime.embed(images)
            with self._lock:
                return self._runtime.embed(images)
        except Exception as error:  # each runtime has errors of its own
            raise UserError(
                f"{self._path} failed on {_size(images)} ({_reason(error)}); check that there is "
                "enough memory, or write the file again."
            ) from error

    def _checked(self, embeddings: np.ndarray, images: np.ndarray) -> np.ndarray:
        wanted = (len(images), self.dimensions)
        if embeddings.shape != wanted or embeddings.dtype != np.float32:
            raise UserError(
                f"{self._path} gave {embeddings.dtype} {embeddings.shape} for {_size(images)} instead of "
                f"float32 {wanted}; write it again."
            )
        if not np.isfinite(embeddings).all():
            raise UserError(f"{self._path} gave NaN or infinity for {_size(images)}; write it again.")
        return embeddings


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


def _size(images: np.ndarray) -> str:
    return f"{len(images)} images of {images.shape[1]}x{images.shape[2]} pixels"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def open_session(path: str | os.PathLike[str], threads: int = 0) -> Session:
    """Open an exported encoder; runtimes other than TensorFlow compute on the CPU.

    Args:
        path: an `encoder*.tflite`, `.onnx` or `.xml` of `export_runtimes`, or the folder of an export:
            `saved_models/market/1`, or `saved_models/market` for its newest version. A SavedModel can read
            and write files: open only those of people you trust.
        threads: number of threads; 0 is the runtime's default. TensorFlow's is a setting of the process.

    Returns:
        The session: `(N, H, W, 3)` uint8 RGB to `(N, D)` float32, with `image_size` and `dimensions`.

    Raises:
        UserError: the file is missing, damaged or of an unknown kind, its runtime is not installed, or
            `threads` is invalid.

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


def _litert(path: Path, threads: int) -> _Runtime:
    interpreter = package("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads or None)
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
    return _Runtime(embed, int(target["shape_signature"][-1]), _notes(path, notes), parallel=False)


def _onnx(path: Path, threads: int) -> _Runtime:
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The runtime would keep a memory plan for each image size, without limit.
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = (each.name for each in session.get_inputs())

    def embed(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {source: images})[0]
        return answer

    notes = session.get_modelmeta().custom_metadata_map.get(NOTES_KEY)
    return _Runtime(embed, int(session.get_outputs()[0].shape[-1]), _notes(path, notes), parallel=True)


def _openvino(path: Path, threads: int) -> _Runtime:
    # Without the hint it uses bfloat16 if the processor can, and embeddings then differ by 1e-3.
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_RUNTIME_CACHE_CAPACITY": _OPENVINO_SIZES,
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    core = package("openvino").Core()
    source = core.read_model(str(path))
    model = core.compile_model(source, "CPU", options)

    def embed(images: np.ndarray) -> np.ndarray:
        return np.array(model(images)[0])  # a copy, because the runtime reuses its own array

    notes = source.get_rt_info([NOTES_KEY]).astype(str) if source.has_rt_info([NOTES_KEY]) else None
    dimensions = source.outputs[0].partial_shape[1].get_length()
    return _Runtime(embed, int(dimensions), _notes(path, notes), parallel=False)


def _saved_model(path: Path, threads: int) -> _Runtime:
    if threads:
        raise UserError(
            "threads is for the other runtimes; TensorFlow's are set for the whole process, with "
            "tf.config.threading.set_intra_op_parallelism_threads."
        )
    import tensorflow as tf

    from san_tf.serving.export import read_metadata
    from san_tf.serving.servable import find_versions

    folder = path if (path / "saved_model.pb").is_file() else path / str(find_versions(path)[-1])
    notes = read_metadata(folder)
    verify_export(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
        served = loaded.signatures["serving_default"]
        dimensions = int(served.structured_outputs["embedding"].shape[-1])
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise UserError(f"{folder} cannot be loaded ({_reason(error)}); export it again.") from error

    def embed(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = served(images=tf.constant(images))["embedding"].numpy()
        return answer

    embed.model = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return _Runtime(embed, dimensions, notes, parallel=True)


def _notes(path: Path, own: str | bytes | None) -> Mapping[str, Any]:
    """The notes inside a file, or else beside it; empty if there are none."""
    try:
        text = (path.parent / NOTES_FILE).read_bytes() if own is None else own
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
