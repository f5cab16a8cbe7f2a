"""`export`: the encoder as a SavedModel that answers in TensorFlow alone; the decoder only if asked for."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import numpy as np
import tensorflow as tf

from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features
from san_tf.experiments.networks import decoder_of, encoder_of, load_weights
from san_tf.experiments.records import reid_records
from san_tf.experiments.stages.train import METHODS, methods_of, weights_path
from san_tf.serving.export import export_encoder, next_version


def run(experiment: Experiment) -> None:
    """Export the trained encoder and ask the export for the embeddings that `evaluate` measured.

    An export that was interrupted, by whatever, is made again under the version that it had begun.

    A `calibration.json` in the run directory, from `python -m san_tf.evaluate --calibrate`, goes along.

    Raises:
        UserError: there are no trained weights or features, the calibration is none, or the place cannot be
            written.
    """
    stored = experiment.run.path / "calibration.json"
    calibration = Calibration.load(stored) if stored.is_file() else None
    recipe = experiment.recipe
    encoder = encoder_of(recipe, reid_records(experiment, "train").num_identities, weights=False)
    method = methods_of(recipe)[0]
    load_weights(encoder, weights_path(experiment, method))
    decoder = None
    if experiment.options.export_texture:
        if method != METHODS[0]:
            raise UserError("--export_texture wants a decoder, and this recipe trains none; leave it out.")
        decoder = decoder_of(recipe, encoder)
        load_weights(decoder, weights_path(experiment, method, "decoder"))
    evaluated = Features.load(experiment, method, recipe.test_sets[0]).query
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
        metadata={"experiment": experiment.name, "recipe": asdict(recipe)},
        decoder=decoder,
        training_data=recipe.training_sets,
        calibration=calibration,
        version=version,
        overwrite=True,
    )
    images = reid_records(experiment, "query").images[:16]
    served = tf.saved_model.load(str(folder)).signatures["serving_bytes"]
    answer = served(image_bytes=tf.constant(list(images)))["embedding"].numpy()
    difference = float(np.abs(answer - evaluated[:16]).max())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    experiment.say(f"{folder} ({size / 1e6:.1f} MB): same embeddings as evaluated, to {difference:.0e}")
    if calibration:
        experiment.say(f"with {stored}: {calibration.method}, {len(calibration.operating_points)} thresholds")
