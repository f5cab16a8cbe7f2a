"""Exports an encoder: images or files in, embeddings out, preprocessing and warm-up requests included.

It uses Keras's `ExportArchive`, because under Keras 3 `tf.saved_model.save` of a Keras model writes a folder
that loads in Python but fails in the session loader of C++ servers ("Could not find variable").
"""

from __future__ import annotations

import errno
import functools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import san_tf
from san_tf.atomic import atomic_folder
from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.keras_compat import write_out_silently
from san_tf.normalization import IMAGENET_MEAN, IMAGENET_STD
from san_tf.serving.fingerprint import DIGESTS, digests_of
from san_tf.serving.inference import embedding_of, inference_endpoints
from san_tf.trusted import PRESET_FOLDER
from san_tf.version import __version__

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


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from.

    Returns:
        40 hexadecimal digits, followed by `+changes` if a tracked file of the package differs from the
        commit; None for an installed package, or without git.

    Example:
        >>> git_commit()
        '8a1f0c7b6b0d6c1f6e1b6a5f0a9ad1d1f4f7b2c3+changes'
    """
    package = Path(san_tf.__file__).resolve().parent
    # The package may be installed inside another project's checkout: check that the commit is ours.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git; None if there is no git or no repository, or git fails."""
    # No locks: a query must not write into the repository.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


# TensorFlow Serving reserves `assets.extra` for files of the exporter.
METADATA_FILE = Path("assets.extra") / "san_tf.json"
CALIBRATION_FILE = Path("assets.extra") / "calibration.json"


def export_encoder(
    encoder: keras.Model,
    path: str | os.PathLike[str],
    image_size: tuple[int, int],
    normalize: bool = True,
    flip: bool = False,
    metadata: Mapping[str, Any] | None = None,
    *,
    decoder: keras.Model | None = None,
    weights: Literal["float32", "float16"] = "float32",
    training_data: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    warmup_batches: Sequence[int] = (1, 32),
    fold_norms: bool = True,
    trainable: bool = False,
    version: int = 1,
    overwrite: bool = False,
) -> Path:
    """Write `<path>/<version>`, a SavedModel that needs neither this package nor Keras.

    Signatures:

    - `serving_default`: `images`, `(N, h, w, 3)` uint8 RGB of any size, to `embedding`, `(N, D)` float32.
    - `serving_bytes`: `image_bytes`, `(N,)` string, JPEG or PNG files, to `embedding`. The EXIF orientation
      is applied, as in training. Bytes that cannot be decoded fail the request with InvalidArgument.
    - `texture`, only with a decoder: `images` to `texture`, `(N, T, T, 3)` uint8 RGB, the person's surface
      as the network sees it. It helps to explain matches. Requests to the other signatures do not compute it.

    The folder appears complete or not at all.

    Args:
        encoder: functional model from normalised images `(N, H, W, 3)` float32 to a dict with `embedding`
            `(N, D)`. Parts that only other outputs need, such as the classifier, are left out. An encoder
            trained in mixed precision is exported in float32.
        path: folder of all versions, as model servers expect it.
        image_size: height and width the encoder was trained with, in pixels.
        normalize: scale embeddings to Euclidean length 1.
        flip: average the embeddings of the image and its mirror image (before scaling); doubles the cost.
        metadata: additional notes in the export (see `read_metadata`), such as recipe and scores; anything
            JSON can hold.
        decoder: computes the signature `texture` from the encoder's output `stages`; None leaves it out.
        weights: "float16" halves the size of kernels; arithmetic stays float32.
        training_data: names of the data sets that the encoder was trained on, stored in the notes.
        calibration: maps the distance of two embeddings to a probability of "same person", with thresholds;
            stored as `assets.extra/calibration.json`, see `read_calibration`.
        warmup_batches: batch sizes of the requests that a model server runs when it loads the version, so
            that users do not wait for the first ones; empty for none. See `serving.warmup`.
        fold_norms: fold batch norms into the convolutions before them. This gives fewer and larger
            operations; the export checks that embeddings stay equal to 1e-4.
        trainable: also store the encoder, without its classifier, as a preset in `assets.extra/preset`, so
            that `san-tf adapt` can train it further; the export is then twice as large. Model servers do
            not read it.
        version: > 0; servers take the highest.
        overwrite: replace this version if it exists.

    Returns:
        `<path>/<version>`.

    Raises:
        UserError: the version exists, `image_size` is not the encoder's, a warm-up batch is empty, a weight
            is beyond float16, folding changes the embeddings, or the folder cannot be written.

    Example:
        >>> folder = export_encoder(encoder, "saved_models/market", (256, 128))
        >>> served = tf.saved_model.load(str(folder)).signatures["serving_default"]
        >>> served(images=tf.zeros((4, 300, 100, 3), tf.uint8))["embedding"].shape
        TensorShape([4, 2048])
    """
    folder = Path(path) / str(version)
    _check(encoder, folder, image_size, version, overwrite)
    if any(size < 1 for size in warmup_batches):
        raise UserError(f"warmup_batches must be at least 1 each; received {list(warmup_batches)}.")
    if weights not in ("float32", "float16"):
        raise UserError(f"Weights are exported as float32 or float16, not {weights!r}.")
    half = weights == "float16"
    endpoints = inference_endpoints(encoder, decoder, image_size, normalize, flip, half, fold_norms)
    archive = keras.export.ExportArchive()
    # Not `archive.track(network)`: the endpoints' variables are found anyway, and would be written twice.
    for name, endpoint in endpoints.items():
        function = tf.autograph.experimental.do_not_convert(endpoint.function)
        archive.add_endpoint(name, function, input_signature=[endpoint.spec])
    height, width = (int(side) for side in image_size)
    notes = {
        **(metadata or {}),
        "image_size": [height, width],
        "embedding_size": int(embedding_of(encoder).shape[-1]),
        "texture_size": None if decoder is None else int(decoder.output["texture"].shape[1]),
        "weights": weights,
        "norms_folded": fold_norms,
        "l2_normalized": normalize,
        "flip_averaged": flip,
        "channel_order": "RGB",
        "normalization": "(image / 255 - mean) / std",
        "mean": IMAGENET_MEAN.tolist(),
        "std": IMAGENET_STD.tolist(),
        "resize": "bilinear, half-pixel centres, no antialiasing",
        "exif_orientation": "followed",
        "training_data": None if training_data is None else list(training_data),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "san_tf": __version__,
        "git_commit": git_commit(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    with atomic_folder(folder) as temporary:
        try:
            write_out_silently(archive, temporary)
        except tf.errors.ResourceExhaustedError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        (temporary / METADATA_FILE).parent.mkdir()
        if warmup_batches:
            answers = {name: endpoint.function for name, endpoint in endpoints.items()}
            requests = encoder_requests((height, width), warmup_batches, answers)
            write_warmup(temporary, folder.parent.resolve().name, requests)
        # As JSON reads them back, because they are compared with that later.
        notes[DIGESTS] = digests_of(temporary, json.loads(json.dumps(notes)))
        (temporary / METADATA_FILE).write_text(json.dumps(notes, indent=2) + "\n")
        if calibration:
            calibration.save(temporary / CALIBRATION_FILE)
        if trainable:
            from san_tf.models.preset_folder import save_to_preset
            from san_tf.models.san import SAN  # noqa: F401  # what a preset may hold

            # The preset's weights have digests of their own.
            card = {
                "description": "The encoder of this export as it was trained, to train it further.",
                "weights": f"Trained as `{METADATA_FILE.as_posix()}` of the export says.",
                "training_data": ", ".join(f"`{name}`" for name in training_data or ()) or "Not described.",
            }
            folder_of_preset = temporary / PRESET_FOLDER
            save_to_preset(encoder, folder_of_preset, card, weights=weights, classifier=False)
    return folder


def next_version(path: str | os.PathLike[str]) -> int:
    """Return the next version number of an export folder: one above the highest, else 1."""
    folder = Path(path)
    found = [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()] if folder.is_dir() else []
    return max(found, default=0) + 1


def read_metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of an export.

    They contain the `metadata` given to `export_encoder`, and: `image_size` (height, width), `channel_order`,
    `resize`, `normalization` with `mean` and `std`, `exif_orientation`; `embedding_size`, `l2_normalized`,
    `flip_averaged`; `training_data` (names, or null); `created` (UTC), `git_commit` (of the exporting
    checkout, or null), and the versions of `san_tf`, `tensorflow`, `keras` and `python`.

    Args:
        folder: `<path>/<version>` as `export_encoder` returned it.

    Raises:
        UserError: it is not an export of this package.
    """
    path = Path(folder) / METADATA_FILE
    try:
        notes: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an export of this package: {path} cannot be read.") from error
    return notes


def read_calibration(folder: str | os.PathLike[str]) -> Calibration | None:
    """Return the calibration of an export; None if it was exported without one.

    Args:
        folder: `<path>/<version>` as `export_encoder` returned it.

    Raises:
        UserError: the file cannot be used.

    Example:
        >>> calibration = read_calibration("saved_models/market/1")
        >>> calibration.same_person(embeddings_of_camera_1, embeddings_of_camera_2, prior=0.001)
        array([0.93, 0.02])
    """
    path = Path(folder) / CALIBRATION_FILE
    return Calibration.load(path) if path.is_file() else None


def _check(
    encoder: keras.Model, folder: Path, image_size: tuple[int, int], version: int, overwrite: bool
) -> None:
    embedding_of(encoder)
    if version < 1:
        raise UserError(f"The version of an export must be at least 1; received {version}.")
    wanted = tuple(encoder.input_shape[1:3])
    fits = all(side is None or side == given for side, given in zip(wanted, image_size, strict=True))
    if not fits or min(image_size) < 1:
        raise UserError(
            f"The encoder takes images of {wanted[0]}x{wanted[1]} pixels (height x width), not "
            f"{image_size[0]}x{image_size[1]}; export it with the image size it was trained with."
        )
    if folder.exists() and not overwrite:
        raise UserError(
            f"{folder} exists already; export as another version (the next free one is "
            f"{next_version(folder.parent)}), or ask for it to be overwritten."
        )
