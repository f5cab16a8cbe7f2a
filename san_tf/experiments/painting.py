"""SAN-PG in an experiment: its weights, painting, and the error of painted textures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import keras
import numpy as np
import tensorflow as tf
from rich import get_console
from rich.progress import track

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import CAST, Records
from san_tf.errors import UserError
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.networks import load_weights
from san_tf.experiments.ready_generator import network_of
from san_tf.normalization import texture_to_uint8
from san_tf.synthesis.texels import texel_map


def weights_path(experiment: Experiment) -> Path:
    """Path of the trained texture generator's weights in the run."""
    return experiment.run.path / "weights" / "texture_generator.weights.h5"


def start_weights(experiment: Experiment) -> Path:
    """Path of the generator's weights from which SAN and its baseline may start.

    Raises:
        UserError: the recipe's ready generator is not a network of this package.
    """
    ready = experiment.recipe.generator.generator_weights
    if ready is None:
        return weights_path(experiment)
    if not ready.endswith(".weights.h5"):
        raise UserError(
            f"--start texture-generator cannot start this recipe's network from {ready}, a PyTorch"
            " checkpoint of another one; give a .weights.h5 file of this package, or --start weights."
        )
    return Path(ready)


def load_texture_generator(experiment: Experiment) -> keras.Model:
    """Load the trained texture generator of the run.

    Raises:
        UserError: it has not been trained, or its weights are of another architecture.
    """
    path = weights_path(experiment)
    if not path.is_file():
        raise UserError(
            f"There is no trained texture generator at {path}; run --stage prepare texture-generator first."
        )
    generator = network_of(experiment.recipe)
    load_weights(generator, path)
    return generator


def paint(
    generator: keras.Model, records: Records, image_size: tuple[int, int], label: str = ""
) -> Iterator[np.ndarray]:
    """Paint the texture of every image.

    Args:
        generator: trained SANPG, or SAN with its decoder.
        records: N images.
        image_size: height and width of the generator's input, in pixels.
        label: label of the progress bar; an empty one shows no bar.

    Yields:
        N arrays (T, T, 3) uint8, in the order of the records.
    """
    batch_size = 64
    batches = inference_dataset(records, image_size, batch_size)
    painter = tf.function(lambda images: generator(images, training=False)["texture"], reduce_retracing=True)
    total = -(-len(records) // batch_size)
    shown = bool(label) and get_console().is_terminal
    for images in track(batches, label, total=total, transient=True, disable=not shown):
        yield from texture_to_uint8(painter(images).numpy())


def true_textures(records: Records, size: int) -> np.ndarray:
    """Decode the textures of paired data, the targets of the generator.

    Args:
        records: N pairs; if they have a colour cast, textures get the colours of their images.
        size: side of the result in texels; larger textures are reduced by area averaging.

    Returns:
        (N, size, size, 3) uint8 RGB.

    Raises:
        UserError: the records have no textures.
    """
    if records.textures is None:
        raise UserError("These records have no textures; they are not paired data.")
    decoded = (
        cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB) for file in records.texture_files
    )
    small = [
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        for image in decoded
        if image is not None
    ]
    textures = np.stack(small)[records.texture_index]
    cast = records.extras.get(CAST)
    if cast is None:
        return textures
    for texture, (*matrix, shift) in zip(textures, cast.transpose(0, 2, 1), strict=True):
        texture[...] = np.clip(np.rint(texture @ np.stack(matrix) + shift), 0, 255)
    return textures


def texture_l1(painted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean absolute difference over the texels on the body, as a share of the range 0-255.

    Args:
        painted: (N, T, T, 3), 0-255.
        true: (N, T, T, 3), 0-255.

    Returns:
        (N,) float64.
    """
    inside = texel_map(painted.shape[1]).inside
    number = max(len(painted), len(true))
    first, second = (np.broadcast_to(side, (number, *side.shape[1:])) for side in (painted, true))
    # One texture at a time, because all of them as floats take gigabytes.
    return np.array([_difference(*pair, inside).mean() for pair in zip(first, second, strict=True)])


def texel_differences(painted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Absolute difference of each texel on the body, averaged over the channels.

    Args:
        painted: (N, T, T, 3), 0-255.
        true: (N, T, T, 3), 0-255.

    Returns:
        (N, P) float32 for the P texels on the body, as shares of the range 0-255.
    """
    inside = texel_map(painted.shape[1]).inside
    differences = np.empty((len(painted), np.count_nonzero(inside)), np.float32)
    for row, first, second in zip(differences, painted, true, strict=True):
        row[:] = _difference(first, second, inside).mean(1)
    return differences


def _difference(painted: np.ndarray, true: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.abs(painted[inside].astype(np.float64) - true[inside].astype(np.float64)) / 255
