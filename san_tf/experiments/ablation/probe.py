"""Probes a run's last feature map and embedding for information about the person's body."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from san_tf.atomic import atomic_file
from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.evaluation.conditions import Seen
from san_tf.experiments.ablation.linear_probe import (
    probe_cells,
    probe_places,
    probe_sides,
    split_people,
    with_places,
)
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.networks import encoder_of, load_weights
from san_tf.experiments.stages.surface_labels import LabelledImages
from san_tf.experiments.stages.train import weights_path

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
