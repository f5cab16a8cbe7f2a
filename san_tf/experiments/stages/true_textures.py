"""`true-textures`: writes the textures that training people were rendered with, the ideal pseudo textures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from san_tf.data.records import Records
from san_tf.data.textures import write_textures
from san_tf.errors import UserError
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.progress import with_bar
from san_tf.synthesis.generator import identity_texture


def folder_of(experiment: Experiment) -> Path:
    """Folder of the true textures of the training images, named after the images."""
    return experiment.run.path / "true_textures"


def rendered_config(experiment: Experiment) -> str:
    """Return the config of `synthetic_reid` that the recipe names.

    Raises:
        UserError: the recipe names another data set, whose true textures are unknown.
    """
    dataset, _, config = experiment.recipe.data.dataset.partition("/")
    if dataset != "synthetic_reid":
        raise UserError(
            f"The true textures of the people in {dataset or 'no data set'} are unknown; use --dataset"
            " synthetic_reid/tiny or another of its configurations."
        )
    return config or "tiny"


def run(experiment: Experiment) -> None:
    """Write each training image's true texture.

    Raises:
        UserError: the data set is not rendered, or not prepared.
    """
    config = rendered_config(experiment)
    records = reid_records(experiment, "train")
    write_textures(
        folder_of(experiment),
        records.filenames,
        _textures(config, records, experiment.recipe.texture_size),
    )
    experiment.say(
        f"{records.num_identities:,} textures of {len(records):,} images in {folder_of(experiment)}"
    )


def _textures(config: str, records: Records, size: int) -> Iterator[np.ndarray]:
    painted = {
        pid: cv2.resize(identity_texture(config, int(pid)), (size, size), interpolation=cv2.INTER_AREA)
        for pid in with_bar(records.identities, "  dressing", records.num_identities)
    }
    for pid in records.pids:
        yield painted[pid]
