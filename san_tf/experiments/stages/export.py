"""`export`: writes the encoder, and on request the decoder, as a SavedModel."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.data.pipeline import inference_dataset
from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.embedding import embed
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.networks import decoder_of, encoder_of, load_weights
from san_tf.experiments.stages.evaluate import trained_identities
from san_tf.experiments.stages.train import METHODS, methods_of, weights_path
from san_tf.serving.encoder_export import export_encoder, next_version


def run(experiment: Experiment) -> None:
    """Export the trained encoder and compare the export's embeddings with the encoder's.

    An interrupted export is repeated under the same version. A `calibration.json` in the run directory, from
    `python -m san_tf.evaluate --calibrate`, is exported, too.

    Raises:
        UserError: there are no trained weights, the calibration is damaged, or the folder cannot be written.
    """
    stored = experiment.run.path / "calibration.json"
    calibration = Calibration.load(stored) if stored.is_file() else None
    recipe = experiment.recipe
    encoder = encoder_of(recipe, trained_identities(experiment), weights=False)
    method = methods_of(recipe)[0]
    load_weights(encoder, weights_path(experiment, method))
    decoder = None
    if experiment.options.export_texture:
        if method != METHODS[0]:
            raise UserError("--export_texture needs a decoder, and this recipe trains none; leave it out.")
        decoder = decoder_of(recipe, encoder)
        load_weights(decoder, weights_path(experiment, method, "decoder"))
    versions = experiment.run.saved_model
    for leftover in [*versions.glob(".*.tmp"), *versions.glob(".*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)  # of a killed process
    version = experiment.run.facts("export").get("version") or next_version(versions)
    experiment.run.note("export", version=version)
    folder = export_encoder(
        encoder,
        versions,
        recipe.data.image_size,
        normalize=recipe.evaluation.normalize,
        flip=recipe.evaluation.flip_average,
        metadata={
            "experiment": experiment.name,
            "recipe": asdict(recipe),
            "trained_with": experiment.run.environments("train"),
        },
        decoder=decoder,
        weights=experiment.options.export_weights,
        training_data=recipe.training_sets,
        calibration=calibration,
        trainable=experiment.options.export_trainable,
        version=version,
        overwrite=True,
    )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    experiment.say(f"{folder} ({size / 1e6:.1f} MB): {_compared(experiment, encoder, folder)}")
    evaluated = _evaluated(experiment)
    for name in ("normalize", "flip_average"):
        here = getattr(recipe.evaluation, name)
        if evaluated.get(name, here) != here:
            experiment.say(
                f"the embeddings have {name} {here}, those of results.json {evaluated[name]}: add"
                f" --{name} {str(evaluated[name]).lower()} to export what was measured"
            )
    if calibration:
        experiment.say(f"with {stored}: {calibration.method}, {len(calibration.operating_points)} thresholds")


def _compared(experiment: Experiment, encoder: keras.Model, folder: Path) -> str:
    """Describe how much the export's embeddings of a few images differ from the encoder's."""
    for split in ("query", "train"):
        try:
            records = reid_records(experiment, split)
        except UserError:
            continue
        records = records.select(np.arange(min(16, len(records))))
        evaluation = experiment.recipe.evaluation
        batches = inference_dataset(records, experiment.recipe.data.image_size, 16)
        expected = embed(encoder, batches, evaluation.flip_average, evaluation.normalize)
        served = tf.saved_model.load(str(folder)).signatures["serving_bytes"]
        answer = served(image_bytes=tf.constant(list(records.images)))["embedding"].numpy()
        return f"same embeddings as the trained encoder's, to {float(np.abs(answer - expected).max()):.0e}"
    return "not compared with the trained encoder, because no image of its data sets is available here"


def _evaluated(experiment: Experiment) -> dict[str, Any]:
    """Read the evaluation settings of `results.json`; empty if there is none."""
    return dict(experiment.run.results().get("recipe", {}).get("evaluation", {}))
