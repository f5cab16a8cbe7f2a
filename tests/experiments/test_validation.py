"""Settings chosen on held-out identities, and networks that start from the texture generator."""

import dataclasses

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.experiments.data_records import reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.flags import Options
from san_tf.experiments.networks import (
    decoder_of,
    encoder_of,
    save_weights,
    start_from_generator,
    texture_generator_of,
)
from san_tf.experiments.recipe import DataRecipe, EvaluationRecipe, ModelRecipe, Recipe
from san_tf.experiments.recipe_checks import check_recipe
from san_tf.experiments.targets import targets
from san_tf.training.run_directory import RunDirectory

RECIPE = Recipe(
    data=DataRecipe(dataset="synthetic_reid/smoke", pit="pit/smoke", image_size=(64, 32)),
    model=ModelRecipe(backbone="thin_resnet", sketch=8),
)


def experiment_of(recipe, smoke_data, tmp_path):
    return Experiment(
        "test", recipe, Options(workdir=str(tmp_path), data_dir=str(smoke_data)), RunDirectory(tmp_path)
    )


def test_held_out_identities_are_tested_and_not_trained_on(smoke_data, tmp_path):
    plain = experiment_of(RECIPE, smoke_data, tmp_path)
    data = dataclasses.replace(RECIPE.data, validation_identities=3)
    held = experiment_of(dataclasses.replace(RECIPE, data=data), smoke_data, tmp_path)
    validation = dataclasses.replace(
        held, recipe=dataclasses.replace(held.recipe, evaluation=EvaluationRecipe(on="validation"))
    )
    everybody = reid_records(plain, "train")
    train, (target,) = reid_records(held, "train"), targets(validation)
    assert train.num_identities == everybody.num_identities - 3
    assert not np.isin(target.query.pids, train.pids).any()
    assert len(train) + len(target.query) + len(target.gallery) == len(everybody)
    # Held out, but tested on the test set: that is the one as published.
    (tested,) = targets(held)
    assert tested.query.filenames.tolist() == reid_records(plain, "query").filenames.tolist()
    assert not np.isin(tested.query.pids, everybody.pids).any()


def test_validation_without_identities_is_refused():
    with pytest.raises(UserError, match="--validation_identities"):
        check_recipe(dataclasses.replace(RECIPE, evaluation=EvaluationRecipe(on="validation")))


def test_both_methods_start_from_the_generator(tmp_path):
    generator = texture_generator_of(RECIPE)
    save_weights(generator, tmp_path / "generator.weights.h5")
    for with_decoder in (True, False):
        encoder = encoder_of(RECIPE, num_classes=5)
        head = encoder.get_layer("classifier").get_weights()
        decoder = decoder_of(RECIPE, encoder) if with_decoder else None
        start_from_generator(encoder, decoder, RECIPE, tmp_path / "generator.weights.h5")
        for layer in generator.encoder.layers:
            for wanted, found in zip(
                layer.get_weights(), encoder.get_layer(layer.name).get_weights(), strict=True
            ):
                np.testing.assert_array_equal(found, wanted)
        for wanted, found in zip(head, encoder.get_layer("classifier").get_weights(), strict=True):
            np.testing.assert_array_equal(found, wanted)
        if decoder is not None:
            for wanted, found in zip(generator.decoder.get_weights(), decoder.get_weights(), strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_a_missing_generator_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.weights\.h5 do not exist"):
        start_from_generator(encoder_of(RECIPE, num_classes=5), None, RECIPE, tmp_path / "nowhere.weights.h5")


def test_brackets_and_long_paths_are_printed_as_they_are(tmp_path, capsys):
    path = f"{tmp_path}/my[old]data/{'long' * 40}/[/b]"
    experiment_of(RECIPE, tmp_path, tmp_path).say(path)
    assert capsys.readouterr().out == f"  {path}\n"
