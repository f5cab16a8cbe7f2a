"""SAN-PG in an experiment: where its weights lie, how it paints, how well."""

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
    """Where the trained texture generator's weights lie in the run."""
    return experiment.run.path / "weights" / "texture_generator.weights.h5"


def start_weights(experiment: Experiment) -> Path:
    """The generator's weights from which SAN and its baseline may start.

    Raises:
        UserError: the recipe's ready generator is not one of this package's networks.
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
    """The trained texture generator of the run.

    Raises:
        UserError: it has not been trained, or for another architecture.
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
        generator: SANPG, or a SAN with its decoder, trained.
        records: N images.
        image_size: height and width the generator was trained with.
        label: of the progress bar; none where empty.

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
    """Decode the textures of paired data, as the generator shall paint them.

    Args:
        records: N pairs; where they have a colour cast, textures are in the colours of their pictures.
        size: side of the result; larger textures are reduced by averaging areas.

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
    """Mean absolute difference over the texels that lie on the body, in shares of the full range 0-255.

    Args:
        painted: (N, T, T, 3), 0-255.
        true: (N, T, T, 3), 0-255.

    Returns:
        (N,) float64.
    """
    inside = texel_map(painted.shape[1]).inside
    number = max(len(painted), len(true))
    first, second = (np.broadcast_to(side, (number, *side.shape[1:])) for side in (painted, true))
    # One after the other: as floats, all at once are gigabytes.
    return np.array([_difference(*pair, inside).mean() for pair in zip(first, second, strict=True)])


def texel_differences(painted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Absolute differences, means of the channels, of each texel that lies on the body.

    Args:
        painted: (N, T, T, 3), 0-255.
        true: (N, T, T, 3), 0-255.

    Returns:
        (N, P) float32, in shares of the full range, of the P texels on the body.
    """
    inside = texel_map(painted.shape[1]).inside
    differences = np.empty((len(painted), np.count_nonzero(inside)), np.float32)
    for row, first, second in zip(differences, painted, true, strict=True):
        row[:] = _difference(first, second, inside).mean(1)
    return differences


def _difference(painted: np.ndarray, true: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.abs(painted[inside].astype(np.float64) - true[inside].astype(np.float64)) / 255
