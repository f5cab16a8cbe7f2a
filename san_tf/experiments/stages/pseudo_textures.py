"""`pseudo-textures`: paints textures for every training image, or for a folder of photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from san_tf.data.images import decode_image
from san_tf.data.records import Records
from san_tf.data.textures import attach_textures, write_textures
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.painting import load_texture_generator, paint
from san_tf.experiments.ready_generator import input_size
from san_tf.experiments.stages.texture_generator import NO_TEXTURES
from san_tf.visualization.reposed import reposed
from san_tf.visualization.style import save_figure


def folder_of(experiment: Experiment) -> Path:
    """Folder of the pseudo textures of the training images, named after the images."""
    if experiment.recipe.generator.textures:
        return Path(experiment.recipe.generator.textures)
    return experiment.run.path / "pseudo_textures"


def run(experiment: Experiment) -> None:
    """Paint textures for the training images, or find their ready ones.

    With `--images`, paint textures for the crops of that folder instead, into `painted/<its name>`.

    Raises:
        UserError: the texture generator is not trained, or the folder or an image is missing or damaged.
    """
    if experiment.options.images:
        _paint_folder(experiment, Path(experiment.options.images))
    elif not experiment.recipe.with_decoder:
        experiment.say(NO_TEXTURES)
    elif experiment.recipe.generator.textures:
        folder = folder_of(experiment)
        records = attach_textures(reid_records(experiment, "train"), folder)
        experiment.say(f"{len(records):,} ready textures in {folder}, one for each training image")
    elif experiment.recipe.training_sets:
        records = reid_records(experiment, "train")
        by_identity = experiment.recipe.generator.pseudo_textures == "identity"
        _paint(experiment, records, folder_of(experiment), by_identity)
    else:
        experiment.say("no re-ID data set in this recipe; name a folder of crops with --images")


def _paint(experiment: Experiment, records: Records, folder: Path, by_identity: bool = False) -> None:
    generator = load_texture_generator(experiment)
    textures = paint(generator, records, input_size(generator), "  painting")
    if by_identity:
        textures = identity_means(textures, records.pids)
    write_textures(folder, records.filenames, textures)
    experiment.say(f"{len(records):,} textures in {folder}")


def identity_means(textures: Iterable[np.ndarray], pids: np.ndarray) -> Iterator[np.ndarray]:
    """Replace the texture of every image by the mean texture of its identity.

    A texture painted from one image guesses the unseen sides and keeps some of the camera's colour cast. The
    mean over cameras and sides has more information, and is the same target for all images of a person.

    Args:
        textures: N arrays (T, T, 3) uint8, one per image; only one sum per identity is kept in memory.
        pids: (N,) identities; images without identity (below 1) keep their own texture.

    Yields:
        N arrays (T, T, 3) uint8, in the same order.
    """
    sums: dict[int, np.ndarray] = {}
    own: dict[int, np.ndarray] = {}
    for number, (texture, pid) in enumerate(zip(textures, pids, strict=True)):
        if pid < 1:
            own[number] = texture
        elif pid in sums:
            sums[pid] += texture
        else:
            sums[pid] = texture.astype(np.uint32)
    counts = {pid: int(np.count_nonzero(pids == pid)) for pid in sums}
    for number, pid in enumerate(pids):
        yield own[number] if pid < 1 else np.rint(sums[pid] / counts[pid]).astype(np.uint8)


def _paint_folder(experiment: Experiment, images: Path) -> None:
    """Paint textures for a user's photographs, and draw the first of them on the body."""
    records = Records.from_folder(images)
    folder = experiment.run.path / "painted" / images.resolve().name
    _paint(experiment, records, folder)
    shown = records.select(np.arange(min(len(records), 8)))
    pictures = [decode_image(image).numpy() for image in shown.images]
    files = [folder / f"{Path(name).stem}.jpg" for name in shown.filenames]
    painted = [decode_image(file.read_bytes()).numpy() for file in files]
    figure = experiment.run.figures / f"painted_{folder.name}.png"
    save_figure(reposed(pictures, painted, captions=list(shown.filenames)), figure)
    experiment.say(str(figure))
