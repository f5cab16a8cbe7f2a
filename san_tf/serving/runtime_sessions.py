"""Encoders for other runtimes: opened by the runtime that a file is for, and asked for embeddings."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from san_tf.errors import UserError

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "openvino": ".xml"}
WEIGHTS = ("float32", "float16", "int8")
_NEEDS = {
    "ai_edge_litert.interpreter": "LiteRT",
    "onnx": "onnx",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime.quantization": "ONNX Runtime",
    "tf2onnx": "tf2onnx",
    "openvino": "OpenVINO",
    "nncf": "NNCF",
}

Session = Callable[[np.ndarray], np.ndarray]


def open_session(path: str | os.PathLike[str], threads: int = 0) -> Session:
    """Return a function from images to embeddings that computes what the file holds, on the CPU.

    Args:
        path: an `encoder*.tflite`, `.onnx` or `.xml` of `export_runtimes`.
        threads: that it may use; 0 leaves it to the runtime.

    Returns:
        From `(N, H, W, 3)` uint8 RGB, any N, H and W, to `(N, D)` float32. Not for several threads at a time.

    Raises:
        UserError: the file is missing, of another kind or damaged, or its runtime is not installed.

    Example:
        >>> embed = open_session("runtimes/market/encoder.onnx", threads=2)
        >>> embed(np.zeros((4, 300, 100, 3), np.uint8)).shape
        (4, 2048)
    """
    path = Path(path)
    openers = {".tflite": _litert, ".onnx": _onnx, ".xml": _openvino}
    if path.suffix not in openers:
        raise UserError(f"{path} is for no runtime known here; name a .tflite, .onnx or .xml file.")
    if not path.is_file():
        raise UserError(f"{path} does not exist; write it with san-tf export-runtime.")
    try:
        return openers[path.suffix](path, threads)
    except UserError:
        raise
    except Exception as error:  # each runtime has errors of its own
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be opened ({reason}); write it again.") from error


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


def _litert(path: Path, threads: int) -> Session:
    interpreter = package("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads or None)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: tuple[int, ...] = ()

    def embed(images: np.ndarray) -> np.ndarray:
        nonlocal shape
        if images.shape != shape:  # planning anew is for a new shape only
            interpreter.resize_tensor_input(source["index"], images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        answer: np.ndarray = interpreter.get_tensor(target["index"])
        return answer

    return embed


def _onnx(path: Path, threads: int) -> Session:
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = (each.name for each in session.get_inputs())

    def embed(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {source: images})[0]
        return answer

    return embed


def _openvino(path: Path, threads: int) -> Session:
    # Without the hint it computes in bfloat16 wherever the processor can: embeddings differ by 1e-3 then.
    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    model = package("openvino").Core().compile_model(str(path), "CPU", options)

    def embed(images: np.ndarray) -> np.ndarray:
        return np.array(model(images)[0])  # a copy: the runtime writes over its own

    return embed
