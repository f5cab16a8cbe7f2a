"""`pseudo-textures`: paints textures for every training image, or for a folder of photographs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from san_tf.atomic import atomic_file
from san_tf.data.images import decode_image
from san_tf.data.records import Records
from san_tf.data.textures import attach_textures, write_textures
from san_tf.errors import UserError
from san_tf.evaluation.counted_pairs import labelled_blocks
from san_tf.evaluation.feature_set import UNKNOWN, Distances, FeatureSet
from san_tf.evaluation.protocols import evaluate_protocol, features_distances
from san_tf.evaluation.roc import roc_curve
from san_tf.evaluation.texture_scores import lab_colors
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.painting import load_texture_generator, paint
from san_tf.experiments.ready_generator import input_size
from san_tf.experiments.rendered_back import COMPARED, rendered_back
from san_tf.experiments.stages.texture_generator import NO_TEXTURES
from san_tf.synthesis.texels import texel_map
from san_tf.visualization.reposed import reposed
from san_tf.visualization.style import save_figure


class Agreement(NamedTuple):
    """How alike a generator paints one person from two cameras, which needs no true textures.

    Textures are compared by their CIELAB colours on the body at 32 x 32 texels, and only across cameras.

    Attributes:
        auc: how often two images of one person are painted more alike than images of two people, in [0, 1];
            0.5 is chance.
        rank1: share of images whose most similar texture from another camera is of the same person.
        mAP: mean average precision of that ranking.
        same: mean distance of two textures of one person, root mean square over texels, in CIELAB units.
        different: the same for textures of two people.
    """

    auc: float
    rank1: float
    mAP: float
    same: float
    different: float


def texture_agreement(descriptors: np.ndarray, pids: np.ndarray, camids: np.ndarray) -> Agreement:
    """Measure how alike one person's textures are across cameras, compared with other people's.

    Args:
        descriptors: `(N, D)` float32, `texture_descriptor` of each texture.
        pids: `(N,)` identities; images without identity (below 1) do not count.
        camids: `(N,)` cameras, -1 for unknown.

    Raises:
        UserError: a camera is unknown, or nobody was seen by two cameras.
    """
    known = pids >= 1
    features = FeatureSet(descriptors[known], pids[known], camids[known])
    if (features.camids == UNKNOWN).any():
        raise UserError("Textures are compared across cameras, but images of unknown cameras were given.")
    distances = features_distances(features, features)
    curve = roc_curve(distances, features, features, "cross-camera")
    scores = evaluate_protocol(features, features, "cross-camera", distances=distances)
    same, different = _mean_distances(features, distances)
    return Agreement(curve.auc, float(scores.cmc[0]), float(scores.mAP), same, different)


def _mean_distances(features: FeatureSet, squared: Distances) -> tuple[float, float]:
    """Mean distance across cameras of two textures of one person, and of two people."""
    sums, counts = np.zeros(2), np.zeros(2)
    for _, block, *kinds in labelled_blocks(squared, features, features, "cross-camera"):
        distance = np.sqrt(np.maximum(block, 0))
        sums += [distance[kind].sum(dtype=np.float64) for kind in kinds]
        counts += [np.count_nonzero(kind) for kind in kinds]
    return float(sums[0] / counts[0]), float(sums[1] / counts[1])


def texture_descriptor(texture: np.ndarray) -> np.ndarray:
    """Return a texture's colours on the body for comparison with other textures.

    Args:
        texture: `(T, T, 3)` uint8 in the package's UV layout, T at least 32.

    Returns:
        `(D,)` float32. The Euclidean distance of two descriptors is the root mean square over texels of their
        distance in CIELAB.
    """
    return _on_body(_small(texture))


def _small(texture: np.ndarray) -> np.ndarray:
    return cv2.resize(texture, (COMPARED, COMPARED), interpolation=cv2.INTER_AREA)


def _on_body(small: np.ndarray) -> np.ndarray:
    colors = lab_colors(small[texel_map(COMPARED).inside].astype(np.float32))
    return (colors / np.sqrt(len(colors))).ravel()


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
    own_layout = experiment.recipe.generator.texture_layout == "san_tf"
    small: list[np.ndarray] = []
    if own_layout:
        textures = _with_small(textures, small)
    if by_identity:
        textures = identity_means(textures, records.pids)
    write_textures(folder, records.filenames, textures)
    experiment.say(f"{len(records):,} textures in {folder}")
    if own_layout and folder == folder_of(experiment):
        _say_scores(experiment, np.stack(small), records)


def _with_small(textures: Iterable[np.ndarray], small: list[np.ndarray]) -> Iterator[np.ndarray]:
    for texture in textures:
        small.append(_small(texture))
        yield texture


def _say_scores(experiment: Experiment, small: np.ndarray, records: Records) -> None:
    """Measure the training images' textures without true ones; write it to `pseudo_textures.json`.

    Args:
        experiment: the experiment.
        small: `(N, 32, 32, 3)` uint8 textures.
        records: the N images.
    """
    try:
        agreement = texture_agreement(np.stack([*map(_on_body, small)]), records.pids, records.camids)
        images = [functools.partial(_decoded, image) for image in records.images]
        colors = lab_colors(small.astype(np.float32))
        back = rendered_back(images, colors, records.pids, records.camids)
    except UserError as error:
        experiment.say(f"textures were not compared across cameras: {error}")
        return
    with atomic_file(experiment.run.path / "pseudo_textures.json") as temporary:
        found = {**agreement._asdict(), "rendered_back": back._asdict()}
        temporary.write_text(json.dumps(found, indent=2) + "\n")
    experiment.say(
        f"across cameras one person's textures are {agreement.same:.1f} apart in CIELAB, two people's"
        f" {agreement.different:.1f}; the first are the closer ones in {agreement.auc:.1%} of cases"
    )
    experiment.say(
        f"drawn back onto {back.images:,} images, textures are {back.own:.1f} off in CIELAB, those of one"
        f" person's other camera {back.partner:.1f}, another person's {back.other:.1f}, the mean texture"
        f" {back.mean:.1f}"
    )
    experiment.say(
        f"across cameras one person's textures are {agreement.same:.1f} apart in CIELAB, two people's"
        f" {agreement.different:.1f}; the first are the closer ones in {agreement.auc:.1%} of cases"
    )


def _decoded(image: bytes) -> np.ndarray:
    pixels: np.ndarray = decode_image(image).numpy()
    return pixels


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
