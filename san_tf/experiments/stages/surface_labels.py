"""`surface-labels`: what of the person each cell of some test images shows, for the probes of every row."""

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

# Half of the people train the probe: at least some hundred images for each of the labels that matter.
_MOST_IMAGES = 1200


class LabelledImages(NamedTuple):
    """Test images with the truth about their cells and people.

    Attributes:
        split: `(N,)` str: "query" or "gallery".
        place: `(N,)` int64: number of the image within the split.
        labels: of their cells.
        front: `(N, 6)` float32 CIELAB mean colours of the person's upper and lower garment on the front.
        back: `(N, 6)` likewise on the back.
    """

    split: np.ndarray
    place: np.ndarray
    labels: SurfaceLabels
    front: np.ndarray
    back: np.ndarray

    def records(self, query: Records, gallery: Records) -> list[Records]:
        """The images themselves: those of the query, then those of the gallery, as they stand here."""
        return [
            records.select(self.place[self.split == name])
            for name, records in (("query", query), ("gallery", gallery))
        ]


def labels_path(experiment: Experiment) -> Path:
    """Where the labels lie in the run; those of images that are held out for validation lie apart."""
    held_out = "_validation" if experiment.recipe.evaluation.on == "validation" else ""
    return experiment.run.path / f"surface_labels{held_out}.npz"


def run(experiment: Experiment) -> None:
    """Draw test images again, with their labels.

    Raises:
        UserError: the data set is not rendered, or not prepared.
    """
    config = rendered_config(experiment)
    plan = {
        spec.filename: spec
        for split in REID_SPLITS
        for spec in synthetic_reid_index(config, split, experiment.recipe.data.backgrounds)
    }
    # Half of the images at most are queries: there are fewer of them, and each is of another camera.
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
    """Mean CIELAB colours `(2, 6)` of a `(T, T, 3)` uint8 texture: front, back; upper, then lower garment."""
    lab = cv2.cvtColor(texture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.stack(
        [
            np.concatenate([lab[garment_region(garment, len(texture), side)].mean(0) for garment in GARMENTS])
            for side in SIDES
        ]
    )


def load_labels(experiment: Experiment) -> LabelledImages:
    """Read what `run` wrote.

    Raises:
        UserError: it has not been run.
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
