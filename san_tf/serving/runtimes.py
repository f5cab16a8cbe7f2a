"""An export for other runtimes: LiteRT, ONNX and OpenVINO files that answer as the SavedModel does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.serving.fingerprint import DIGESTS, runtime_digests
from san_tf.serving.runtime_sessions import NOTES_FILE, SUFFIXES, WEIGHTS, checked_images, open_session
from san_tf.serving.runtime_source import Source, read_source
from san_tf.serving.runtime_writers import WRITERS

# The largest difference from the SavedModel's embedding, of its length; int8 is held to the angle instead.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2}
INT8_COSINE = 0.9
_PACKAGES = ("ai-edge-litert", "onnx", "onnxruntime", "tf2onnx", "openvino", "nncf", "tensorflow")


def export_runtimes(
    saved_model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    runtimes: Sequence[str] = tuple(SUFFIXES),
    weights: Sequence[str] = ("float32",),
    calibration: Sequence[np.ndarray] = (),
    *,
    overwrite: bool = False,
) -> Path:
    """Write an export for other runtimes, each file compared with the SavedModel; all of them or none.

    Files: `encoder.tflite`, `encoder.onnx`, `encoder.xml` with `encoder.bin`; of other weights
    `encoder.float16.onnx`, `encoder.int8.onnx` and so on; and `san_tf.json`, the export's metadata with the
    differences found. They take `images`, `(N, h, w, 3)` uint8 RGB of any number and size, to `embedding`,
    `(N, D)` float32: what is in the SavedModel's signature `serving_default` (resizing, normalisation, mirror
    image, length) is in them.

    Args:
        saved_model: `<path>/<version>` as `export_encoder` returned it.
        out: the folder to write.
        runtimes: some of "litert", "onnx", "openvino".
        weights: some of "float32", "float16" (half the room, arithmetic stays float32) and "int8" (a quarter
            of the room, integer arithmetic).
        calibration: for int8, some hundred `(H, W, 3)` uint8 images as they will come; from the training
            images, never from those that it is tested on.
        overwrite: replace the folder if it exists.

    Returns:
        `out`.

    Raises:
        UserError: `saved_model` is no export, a runtime is unknown or not installed, a file disagrees with
            the SavedModel (float32 by more than 1e-4, float16 by 1e-2, int8 by a cosine below 0.9), int8 is
            asked for without images, an image is none, or the place cannot be written.

    Example:
        >>> folder = export_runtimes("saved_models/market/1", "runtimes/market", ["onnx"])
        >>> open_session(folder / "encoder.onnx")(images).shape
        (4, 2048)
    """
    out = Path(out)
    for given, known, what in ((runtimes, SUFFIXES, "runtime"), (weights, WEIGHTS, "kind of weights")):
        for name in given:
            if name not in known:
                raise UserError(f"{name!r} is no {what}; choose from {', '.join(known)}.")
    if "int8" in weights and not len(calibration):
        raise UserError(
            "int8 wants images to find the ranges of its maps on; name some of the training images with "
            "--calibration."
        )
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; name another folder, or add --overwrite.")
    calibration = [checked_images(np.asarray(image)[None])[0] for image in calibration]
    source = read_source(saved_model)
    batches = _batches(source.image_size, calibration)
    notes: dict[str, Any] = {}
    with atomic_folder(out) as temporary:
        for runtime in runtimes:
            for kind in weights:
                name = "encoder" + ("" if kind == "float32" else f".{kind}") + SUFFIXES[runtime]
                with _quiet():
                    WRITERS[runtime](source, temporary / name, kind, calibration)
                notes[name] = {
                    "runtime": runtime,
                    "weights": kind,
                    **_compared(source, temporary / name, kind, batches),
                }
        versions = {name: _version(name) for name in _PACKAGES}
        runtime_notes = {"files": notes, "packages": versions}
        whole = {**source.metadata, DIGESTS: runtime_digests(temporary), "runtimes": runtime_notes}
        (temporary / NOTES_FILE).write_text(json.dumps(whole, indent=2) + "\n")
    return out


def _compared(source: Source, path: Path, weights: str, batches: Sequence[np.ndarray]) -> dict[str, float]:
    """How far a file's embeddings are from the SavedModel's."""
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
            "written; leave it out, or give other calibration images if it is of int8."
        )
    return {"difference": difference, "cosine": cosine}


def _batches(image_size: tuple[int, int], calibration: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Images to compare on: smooth ones of several sizes and numbers, and some of the user's."""
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
    """Converters tell their progress and each other's deprecations, which are nothing to act on here."""
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
