"""`surface-labels`: labels each cell of some test images with its body part, for the probes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from san_tf.atomic import atomic_file
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.stages.true_textures import rendered_config
from san_tf.progress import with_bar
from san_tf.synthesis.cell_labels import SurfaceLabels, label_crops
from san_tf.synthesis.garment_regions import GARMENTS, SIDES, garment_region
from san_tf.synthesis.generator import REID_SPLITS, identity_texture, synthetic_reid_index

# Half of the people train the probe. So each important label has at least a few hundred images.
_MOST_IMAGES = 1200


class LabelledImages(NamedTuple):
    """Test images with true labels of their cells and colours of their people.

    Attributes:
        split: `(N,)` str: "query" or "gallery".
        place: `(N,)` int64: index of the image within the split.
        labels: labels of their cells.
        front: `(N, 6)` float32 CIELAB mean colours of the person's upper and lower garment on the front.
        back: `(N, 6)` float32, the same on the back.
    """

    split: np.ndarray
    place: np.ndarray
    labels: SurfaceLabels
    front: np.ndarray
    back: np.ndarray

    def records(self, query: Records, gallery: Records) -> list[Records]:
        """Select these images from the records of query and gallery, in this order."""
        return [
            records.select(self.place[self.split == name])
            for name, records in (("query", query), ("gallery", gallery))
        ]


def labels_path(experiment: Experiment) -> Path:
    """Path of the labels in the run; images held out for validation have another file."""
    held_out = "_validation" if experiment.recipe.evaluation.on == "validation" else ""
    return experiment.run.path / f"surface_labels{held_out}.npz"


def run(experiment: Experiment) -> None:
    """Render some test images again to get their labels, and write these.

    Raises:
        UserError: the data set is not rendered, or not prepared.
    """
    config = rendered_config(experiment)
    plan = {
        spec.filename: spec
        for split in REID_SPLITS
        for spec in synthetic_reid_index(config, split, experiment.recipe.data.backgrounds)
    }
    # At most half of the images are queries, of which there are fewer.
    chosen = {}
    for split in ("query", "gallery"):
        records = reid_records(experiment, split)
        people = np.flatnonzero(records.pids > 0)
        places = np.linspace(0, len(people) - 1, min(len(people), _MOST_IMAGES // 2)).round().astype(int)
        chosen[split] = (people[places], records.select(people[places]))
    filenames = [name for _, records in chosen.values() for name in records.filenames]
    pids = np.concatenate([records.pids for _, records in chosen.values()])
    size = experiment.recipe.texture_size
    # The last feature map: 1/16 of the texture's size, and half as wide as high.
    labels = label_crops(
        (plan[name] for name in with_bar(filenames, "  labelling", len(filenames))), (size // 16, size // 32)
    )
    colors = {pid: garment_colors(identity_texture(config, int(pid))) for pid in np.unique(pids)}
    front, back = (np.stack([colors[pid][side] for pid in pids]) for side in range(2))
    with atomic_file(labels_path(experiment)) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            split=np.repeat(list(chosen), [len(index) for index, _ in chosen.values()]),
            place=np.concatenate([index for index, _ in chosen.values()]),
            part=labels.part,
            position=labels.position,
            front=front,
            back=back,
        )
    experiment.say(
        f"{len(filenames):,} test images of {len(colors)} people: {labels.on_body.sum():,} of"
        f" {labels.part.size:,} cells on the body"
    )


def garment_colors(texture: np.ndarray) -> np.ndarray:
    """Mean CIELAB colours of the garments on a `(T, T, 3)` uint8 texture.

    Returns:
        `(2, 6)` float32: front and back; upper, then lower garment.
    """
    lab = cv2.cvtColor(texture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.stack(
        [
            np.concatenate([lab[garment_region(garment, len(texture), side)].mean(0) for garment in GARMENTS])
            for side in SIDES
        ]
    )


def load_labels(experiment: Experiment) -> LabelledImages:
    """Read the labels that `run` wrote.

    Raises:
        UserError: there are none.
    """
    path = labels_path(experiment)
    if not path.is_file():
        raise UserError(f"There are no surface labels at {path}; run --stage surface-labels first.")
    with np.load(path) as data:
        return LabelledImages(
            data["split"],
            data["place"],
            SurfaceLabels(data["part"], data["position"]),
            data["front"],
            data["back"],
        )
