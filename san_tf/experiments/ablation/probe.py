"""Probes a run's last feature map and embedding for information about the person's body."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from threadpoolctl import threadpool_limits

from san_tf.atomic import atomic_file
from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.conditions import Seen
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.networks import encoder_of, load_weights
from san_tf.experiments.stages.surface_labels import LabelledImages
from san_tf.experiments.stages.train import weights_path

# Candidate strengths of the ridge penalty per row; features have variance 1.
_STRENGTHS = np.logspace(-6, 1, 15)
_FOLDS = 5


class Ridge(NamedTuple):
    """A fitted linear map of standardised features."""

    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    offset: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map `(N, D)` features to `(N, K)` float64."""
        return (features - self.center) / self.scale @ self.weights + self.offset


def fit_ridge(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> Ridge:
    """Fit a ridge regression whose strength is chosen by cross-validation over whole groups.

    Args:
        features: `(N, D)` features.
        targets: `(N, K)` targets.
        groups: `(N,)` int: rows of one group, such as a person, are always in the same fold.

    Raises:
        UserError: there are fewer than two groups.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"A linear probe needs at least two people to learn from, not {len(names)}.")
    features, targets = features.astype(np.float64), targets.astype(np.float64)
    errors = np.zeros(len(_STRENGTHS))
    fold = group % min(_FOLDS, len(names))
    for number in range(fold.max() + 1):
        inside = fold != number
        for index, fitted in enumerate(ridges(features[inside], targets[inside], _STRENGTHS)):
            errors[index] += ((fitted.predict(features[~inside]) - targets[~inside]) ** 2).sum()
    return ridges(features, targets, _STRENGTHS[[errors.argmin()]])[0]


def ridges(features: np.ndarray, targets: np.ndarray, strengths: np.ndarray) -> list[Ridge]:
    """Fit one map per strength from one eigendecomposition of the smaller Gram matrix.

    Args:
        features: `(N, D)` features.
        targets: `(N, K)` targets.
        strengths: penalties per row; each is multiplied by N.
    """
    center, scale = features.mean(0), spread_of(features)
    x, offset = (features - center) / scale, targets.mean(0)
    few = len(x) < x.shape[1]
    # With several threads, BLAS spends more time on waiting than on matrices of this size.
    with threadpool_limits(limits=1, user_api="blas"):
        values, vectors = np.linalg.eigh(x @ x.T if few else x.T @ x)
    left = x.T @ vectors if few else vectors
    projected = vectors.T @ (targets - offset if few else x.T @ (targets - offset))
    values = np.maximum(values, 0.0)[:, None]
    return [
        Ridge(center, scale, left @ (projected / (values + strength * len(x))), offset)
        for strength in strengths
    ]


def spread_of(features: np.ndarray) -> np.ndarray:
    """`(D,)` standard deviations of the columns; 1 for constant columns."""
    spread = features.std(0)
    # A constant feature holds no information, and its rounding errors must not be scaled to variance 1.
    return np.where(spread > 1e-9 * np.abs(features).max(initial=1e-300), spread, 1.0)


def explained(predicted: np.ndarray, true: np.ndarray) -> float:
    """R2: share of the variance of `(N, K)` targets, over all columns, that predictions explain.

    NaN for constant targets.
    """
    variance = float(((true - true.mean(0)) ** 2).sum())
    return float(1 - ((predicted - true) ** 2).sum() / variance) if variance > 0 else float("nan")


@dataclass(frozen=True)
class CellScores:
    """Scores of a probe for body part and surface point, on cells of unseen people.

    Attributes:
        accuracy: share of all cells, background included, whose label is right.
        body_accuracy: share of cells on the body whose part is right, where only body parts are predicted.
        body_recall: the same per part, averaged over the parts, so that a foot counts as much as the torso.
        point_error: distance in metres between predicted and true point of the body at rest, averaged over
            cells on the body.
        point_r2: explained share of the points' variance.
        side_r2: the same for the left-right axis.
        height_r2: the same for the height, which the place in the image nearly determines.
        depth_r2: the same for the front-back axis of the person, not of the camera.
    """

    accuracy: float
    body_accuracy: float
    body_recall: float
    point_error: float
    point_r2: float
    side_r2: float
    height_r2: float
    depth_r2: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name."""
        return asdict(self)


def split_people(pids: np.ndarray, seed: int = 0) -> np.ndarray:
    """Choose a random half of the people for learning a probe; the others test it.

    Args:
        pids: `(N,)` identities.
        seed: seed of the choice.

    Returns:
        `(N,)` bool: images to learn from.

    Raises:
        UserError: there are fewer than four people.
    """
    people = np.unique(pids)
    if len(people) < 4:
        raise UserError(
            f"A linear probe needs at least four people, two of them for testing, not {len(people)}."
        )
    return np.isin(pids, np.random.default_rng(seed).permutation(people)[: len(people) // 2])


def probe_cells(
    features: np.ndarray,
    part: np.ndarray,
    position: np.ndarray,
    on_body: np.ndarray,
    pids: np.ndarray,
    learning: np.ndarray,
) -> tuple[CellScores, np.ndarray]:
    """Learn both probes of cells on some images and test them on the others.

    Args:
        features: `(N, h, w, C)`, such as an encoder's last feature map in inference mode.
        part: `(N, h, w)` int labels.
        position: `(N, h, w, 3)` points in metres; only used where `on_body`.
        on_body: `(N, h, w)` bool: cells whose label is a part of the body.
        pids: `(N,)` identities.
        learning: `(N,)` bool: images to learn from, such as those of `split_people`.

    Returns:
        The scores on the other images, and the labels predicted for all N, `(N, h, w)` of `part`'s dtype.

    Raises:
        UserError: shapes do not fit, or there are no cells on the body to learn from or to test on.
    """
    if features.shape[:3] != part.shape or position.shape != (*part.shape, 3):
        raise UserError(
            f"Labels of {part.shape} cells do not fit features of {features.shape[:3]}; label the cells of"
            " this encoder's feature map."
        )
    _check_sides(on_body, learning)
    rows = features.reshape(-1, features.shape[-1])
    learnt = np.broadcast_to(learning[:, None, None], part.shape)
    owner = np.broadcast_to(np.asarray(pids)[:, None, None], part.shape)
    answers = np.equal(part[learning].reshape(-1, 1), np.unique(part[learning])).astype(np.float64)
    scores = fit_ridge(rows[learnt.ravel()], answers, owner[learnt]).predict(rows)
    body = on_body & learnt
    ridge = fit_ridge(features[body], position[body], owner[body])
    points = ridge.predict(features[on_body & ~learnt])
    return _score(scores.reshape(*part.shape, -1), points, part, position, on_body, learning)


def with_places(features: np.ndarray) -> np.ndarray:
    """Append the one-hot place of each cell to its features.

    Args:
        features: `(N, h, w, C)`.

    Returns:
        `(N, h, w, C + h * w)` float32.
    """
    number, height, width, _ = features.shape
    cells = np.eye(height * width, dtype=np.float32).reshape(1, height, width, -1)
    return np.concatenate([features, np.broadcast_to(cells, (number, *cells.shape[1:]))], axis=-1)


def probe_places(
    part: np.ndarray, position: np.ndarray, on_body: np.ndarray, learning: np.ndarray
) -> tuple[CellScores, np.ndarray]:
    """Learn and test a probe that knows only the place of a cell in the image.

    It predicts the most frequent label and the mean point of the place. These are the limits of the two
    regressions on one-hot places.

    Args:
        part: `(N, h, w)` int labels.
        position: `(N, h, w, 3)` points in metres; only used where `on_body`.
        on_body: `(N, h, w)` bool: cells whose label is a part of the body.
        learning: `(N,)` bool: images to learn from.

    Returns:
        Scores and predicted labels, as from `probe_cells`.
    """
    _check_sides(on_body, learning)
    classes = np.unique(part[learning])
    counts = np.equal(part[learning][..., None], classes).sum(0)
    known = np.where(on_body[learning][..., None], position[learning], np.nan).astype(np.float64)
    seen = np.asarray(np.isfinite(known).all(-1))
    sums, number = np.where(seen[..., None], known, 0).sum(0), seen.sum(0)[..., None]
    # A place that never shows the body in the learning images gets the mean over all places.
    mean = np.where(number > 0, sums / np.maximum(number, 1), sums.sum((0, 1)) / number.sum())
    points = np.broadcast_to(mean, position.shape)[on_body & ~learning[:, None, None]]
    scores = np.broadcast_to(counts, (*part.shape, len(classes)))
    return _score(scores, points, part, position, on_body, learning)


def _check_sides(on_body: np.ndarray, learning: np.ndarray) -> None:
    if not on_body[learning].any() or not on_body[~learning].any():
        raise UserError("A probe needs cells on the body both to learn from and to test on; add images.")


def _score(
    scores: np.ndarray,
    points: np.ndarray,
    part: np.ndarray,
    position: np.ndarray,
    on_body: np.ndarray,
    learning: np.ndarray,
) -> tuple[CellScores, np.ndarray]:
    """Compare scores `(N, h, w, classes)` of the labels, and points of tested body cells, with the truth."""
    testing, learnt = ~learning, np.broadcast_to(learning[:, None, None], part.shape)
    classes = np.unique(part[learning])
    predicted = classes[scores.argmax(-1)]
    bodily = np.isin(classes, np.unique(part[learnt & on_body]))
    guess = classes[np.where(bodily, scores, -np.inf).argmax(-1)]
    tested = on_body & ~learnt
    right = (guess == part)[tested]
    _, kind = np.unique(part[tested], return_inverse=True)
    recall = np.bincount(kind, right) / np.bincount(kind)
    true = position[tested].astype(np.float64)
    result = CellScores(
        accuracy=float((predicted == part)[testing].mean()),
        body_accuracy=float(right.mean()),
        body_recall=float(recall.mean()),
        point_error=float(np.linalg.norm(points - true, axis=1).mean()),
        point_r2=explained(points, true),
        **{
            name: explained(points[:, [axis]], true[:, [axis]])
            for axis, name in enumerate(("side_r2", "height_r2", "depth_r2"))
        },
    )
    return result, predicted.astype(part.dtype)


@dataclass(frozen=True)
class SideScores:
    """How well an embedding predicts the clothes' colours, on the seen and the unseen side.

    Attributes:
        seen_r2: share of the variance of the seen side's colours that a linear map explains.
        unseen_r2: the same for the unseen side.
        copied_r2: share of the unseen side's variance that a linear map from the *true* colours of the seen
            side explains, since most clothes look alike on both sides.
    """

    seen_r2: float
    unseen_r2: float
    copied_r2: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name."""
        return asdict(self)


def probe_sides(
    features: np.ndarray,
    front: np.ndarray,
    back: np.ndarray,
    yaw: np.ndarray,
    pids: np.ndarray,
    learning: np.ndarray,
) -> SideScores:
    """Learn a linear map from embeddings to colours of clothes, and test it on unseen people.

    Args:
        features: `(N, D)` embeddings.
        front: `(N, K)` colours of each image's person on the front, such as CIELAB of both garments.
        back: `(N, K)` colours on the back.
        yaw: `(N,)` degrees; images within 60 degrees of 0 show the front, those within 60 degrees of 180 the
            back, the others are left out.
        pids: `(N,)` identities.
        learning: `(N,)` bool: images to learn from.

    Raises:
        UserError: fewer than two people are seen from front or back, for learning or for testing.
    """
    turned = np.abs((np.asarray(yaw, np.float64) + 180.0) % 360.0 - 180.0)
    shown = (turned <= 60.0) | (turned >= 120.0)
    facing = (turned <= 60.0)[:, None]
    # A map to front and back could not tell which side is seen, so the targets are seen and unseen side.
    seen, unseen = np.where(facing, front, back), np.where(facing, back, front)
    learnt, tested = shown & learning, shown & ~learning
    if len(np.unique(pids[tested])) < 2 or len(np.unique(pids[learnt])) < 2:
        raise UserError(
            "A probe of the sides needs two people seen from front or back to learn from and two to test on;"
            " add images."
        )

    def score(source: np.ndarray, target: np.ndarray) -> float:
        # Each target has its own strength: an unpredictable one would shrink the predictable one.
        fitted = fit_ridge(source[learnt], target[learnt], pids[learnt])
        return explained(fitted.predict(source[tested]), target[tested])

    return SideScores(score(features, seen), score(features, unseen), score(seen, unseen))


# Number of tested images whose predicted parts are kept for the figure.
SHOWN = 8


def scores_path(experiment: Experiment) -> Path:
    """Path of the scores in the run."""
    return experiment.run.path / "probe.json"


def predictions_path(folder: Path) -> Path:
    """Path of the parts predicted for some images in a run directory."""
    return folder / "probe.npz"


def probe(experiment: Experiment, method: str, labelled: LabelledImages) -> None:
    """Probe a trained encoder, and write `probe.json` and `probe.npz`.

    In `probe.json`, `cells` are the scores of a probe with a cell's features and place, `features_alone`
    those with only the features, and `place_alone` those with only the place, equal for every encoder.

    Args:
        experiment: experiment with recipe and run.
        method: a method trained in this run.
        labelled: test images with true labels.

    Raises:
        UserError: the trained weights are missing, or the labels are of another feature map.
    """
    query, gallery = reid_records(experiment, "query"), reid_records(experiment, "gallery")
    encoder = encoder_of(experiment.recipe, reid_records(experiment, "train").num_identities, weights=False)
    load_weights(encoder, weights_path(experiment, method))
    records = labelled.records(query, gallery)
    maps, embeddings = _outputs(experiment, encoder, records)
    pids = np.concatenate([part.pids for part in records])
    yaw = np.concatenate([Seen.of(part.extras).yaw for part in records])
    learning = split_people(pids)
    labels = labelled.labels
    truth = labels.part, labels.position, labels.on_body, pids, learning
    alone, _ = probe_cells(maps, *truth)
    cells, predicted = probe_cells(with_places(maps), *truth)
    places, _ = probe_places(labels.part, labels.position, labels.on_body, learning)
    sides = probe_sides(embeddings, labelled.front, labelled.back, yaw, pids, learning)
    shown = shown_images(labels.on_body, pids, learning)
    with atomic_file(predictions_path(experiment.run.path)) as temporary, temporary.open("wb") as file:
        np.savez(file, index=shown, predicted=predicted[shown])
    scores = {
        "cells": cells.as_dict(),
        "features_alone": alone.as_dict(),
        "place_alone": places.as_dict(),
        "sides": sides.as_dict(),
    }
    with atomic_file(scores_path(experiment)) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n")
    experiment.say(
        f"body part right in {cells.body_accuracy:.1%} of body cells (by place only"
        f" {places.body_accuracy:.1%}), R2 of the unseen side's colours {sides.unseen_r2:.2f}"
    )


def shown_images(on_body: np.ndarray, pids: np.ndarray, learning: np.ndarray) -> np.ndarray:
    """`(n,)` int64: for some tested people, the image with the most cells on the body.

    Args:
        on_body: `(N, h, w)` bool: cells that show the body.
        pids: `(N,)` identities.
        learning: `(N,)` bool: images that the probe learns from; the others are tested.
    """
    cells = on_body.sum((1, 2))
    people = np.unique(pids[~learning])
    people = people[np.linspace(0, len(people) - 1, min(len(people), SHOWN)).round().astype(int)]
    return np.array([np.flatnonzero(pids == pid)[cells[pids == pid].argmax()] for pid in people])


def _outputs(
    experiment: Experiment, encoder: keras.Model, records: list[Records]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute last feature maps `(N, h, w, C)` and embeddings `(N, D)` float32 in inference mode."""
    seen = keras.Model(encoder.input, (encoder.output["stages"][-1], encoder.output["embedding"]))
    size = experiment.recipe.data.image_size
    run = tf.function(
        lambda images: seen(images, training=False), [tf.TensorSpec((None, *size, 3), tf.float32)]
    )
    batches = (images for part in records for images in inference_dataset(part, size, 128))
    maps, embeddings = zip(*map(run, batches), strict=True)
    return (
        np.concatenate([value.numpy() for value in maps]).astype(np.float32),
        np.concatenate([value.numpy() for value in embeddings]).astype(np.float32),
    )
