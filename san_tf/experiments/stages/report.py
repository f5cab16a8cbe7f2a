"""`report`: draws the figures of a run and prints its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.experiments.data_records import pit_records, reid_records
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.features import Features, file_stem
from san_tf.experiments.networks import decoder_of, encoder_of, load_weights
from san_tf.experiments.ownership import Owned, differences, told
from san_tf.experiments.painting import load_texture_generator, paint, true_textures
from san_tf.experiments.recipe import EvaluationRecipe
from san_tf.experiments.recipe_files import updated
from san_tf.experiments.stages.evaluate import evaluations, table_of, trained_identities
from san_tf.experiments.stages.train import METHODS, methods_of, weights_path
from san_tf.experiments.targets import title_of
from san_tf.models.san import SAN
from san_tf.visualization.contact_sheet import contact_sheet
from san_tf.visualization.curves import cmc_curves, loss_curves
from san_tf.visualization.embedding_map import embedding_map
from san_tf.visualization.ranked_list_sheet import ranked_lists
from san_tf.visualization.reposed import reposed
from san_tf.visualization.style import save_figure
from san_tf.visualization.texture_panels import texture_panels

# A map of fewer images shows nothing.
_FEWEST_ON_A_MAP = 16


def run(experiment: Experiment) -> None:
    """Draw the figures of the run; figures of re-identification only with a re-ID data set.

    Raises:
        UserError: a stage with results for a figure has not been run.
    """
    experiment = _as_evaluated(experiment)
    for name, figure in _figures(experiment):
        path = experiment.run.figures / f"{name}.png"
        save_figure(figure, path)
        experiment.say(str(path))
    if results := experiment.run.results():
        found = list(evaluations(results))
        for settings, rows in found:
            if len(found) > 1:
                experiment.say(f"evaluated {settings}:")
            experiment.console.print(table_of(rows))


def _as_evaluated(experiment: Experiment) -> Experiment:
    """Return the experiment with the evaluation settings of `results.json`, since a run may have several.

    Raises:
        UserError: the run has no results, or its results have other settings than the command.
    """
    recipe, run = experiment.recipe, experiment.run
    if not recipe.test_sets:
        return experiment
    results = run.results()
    if not results:
        raise UserError(f"There are no results at {run.results_path}; run --stage evaluate first.")
    values = results.get("recipe", {}).get("evaluation")
    if values is None:
        return experiment
    plain = dataclasses.replace(recipe, evaluation=EvaluationRecipe())
    evaluated = updated(plain, {"evaluation": values}, str(run.results_path))
    own = Owned.read(run.path, recipe)
    asked = differences({"evaluation": values}, {"evaluation": recipe.evaluation})
    if asked and own is not None and recipe.evaluation != own.recipe.evaluation:
        raise UserError(
            f"{run.results_path} has other evaluation settings: {told(asked)}; run --stage evaluate report"
            " with these flags, or leave them out."
        )
    return dataclasses.replace(experiment, recipe=evaluated)


def _figures(experiment: Experiment) -> Iterator[tuple[str, Figure]]:
    yield "losses", loss_curves(experiment.run.metrics.path, title="Losses")
    recipe = experiment.recipe
    ours = recipe.generator.texture_layout == "san_tf"
    ready = recipe.generator.textures or recipe.generator.generator_weights
    if ours and recipe.with_generator and not ready:
        yield "textures", _textures(experiment)
    if not recipe.test_sets:
        return
    method = methods_of(recipe)[0]
    query, gallery = reid_records(experiment, "query"), reid_records(experiment, "gallery")
    yield from _cmc(experiment.run.results()["rows"])
    yield "people", _people(experiment)
    features = Features.load(experiment, method, title_of(recipe, recipe.test_sets[0]))
    yield "ranked_lists", _ranked_lists(experiment, features, query, gallery)
    if ours and recipe.with_decoder:
        # This figure needs textures in the layout of this package's body.
        yield "reposed", _reposed(experiment, query)
    if np.count_nonzero(gallery.pids > 0) >= _FEWEST_ON_A_MAP:
        yield "embedding_map", _embedding_map(experiment, features, gallery)


def _cmc(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Draw the methods' CMC of each test set: `cmc`, or `cmc_<test set>` if there are several."""
    tested = list(dict.fromkeys(row["test"] for row in rows))
    for test in tested:
        curves = {row["method"]: np.array(row["cmc"]) for row in rows if row["test"] == test}
        several = len(tested) > 1
        name = f"cmc_{file_stem(test)}" if several else "cmc"
        yield name, cmc_curves(curves, title=f"CMC, {test}" if several else "CMC")


def _pictures(experiment: Experiment, records: Records) -> np.ndarray:
    """Decode the images to (N, H, W, 3) uint8."""
    batches = inference_dataset(records, experiment.recipe.data.image_size, normalized=False)
    return np.concatenate([batch.numpy() for batch in batches])


def _spread(count: int, wanted: int) -> np.ndarray:
    """Return `wanted` indices spread evenly over `count`."""
    return np.linspace(0, count - 1, min(wanted, count)).round().astype(int)


def _textures(experiment: Experiment) -> Figure:
    unseen = pit_records(experiment, "test")
    unseen = unseen.select(_spread(len(unseen), 12))
    painted = list(paint(load_texture_generator(experiment), unseen, experiment.recipe.data.image_size))
    true = true_textures(unseen, experiment.recipe.texture_size)
    title = "Texture generator, people it has never seen: image, painted texture, true texture"
    return texture_panels(_pictures(experiment, unseen), painted, true, per_row=3, title=title)


def _people(experiment: Experiment) -> Figure:
    train = reid_records(experiment, "train")
    cameras = np.unique(train.camids)
    cameras = cameras[_spread(len(cameras), 12)]
    # People seen by many cameras, spread over the data set.
    seen_by = {pid: len(np.unique(train.camids[train.pids == pid])) for pid in train.identities}
    widely_seen = sorted(seen_by, key=lambda pid: -seen_by[pid])[: max(6, train.num_identities // 4)]
    chosen = sorted(np.array(widely_seen)[_spread(len(widely_seen), 6)])
    rows = []
    for pid in chosen:
        first = [np.flatnonzero((train.pids == pid) & (train.camids == camera))[:1] for camera in cameras]
        rows.append(
            [_pictures(experiment, train.select(index))[0] if len(index) else None for index in first]
        )
    names = [f"identity {pid}" for pid in chosen]
    return contact_sheet(rows, names, [_camera(camera) for camera in cameras], "Training data")


def _camera(camid: int) -> str:
    return f"camera {camid + 1}" if camid >= 0 else "camera unknown"


def _ranked_lists(experiment: Experiment, features: Features, query: Records, gallery: Records) -> Figure:
    chosen = _spread(len(query), 8)
    top = features.top(10, chosen)
    found = [list(_pictures(experiment, gallery.select(indices))) for indices in top.indices]
    names = [f"{query.pids[i]}, {_camera(query.camids[i])}" for i in chosen]
    cameras = [[_camera(gallery.camids[i]) for i in indices] for indices in top.indices]
    method = methods_of(experiment.recipe)[0]
    title = f"{method}: queries and the first ten of the gallery (same camera left out)"
    shown = list(_pictures(experiment, query.select(chosen)))
    return ranked_lists(shown, found, top.correct, names, cameras, title)


def _reposed(experiment: Experiment, query: Records) -> Figure:
    """Draw the textures that SAN's own decoder paints, on the body."""
    encoder = encoder_of(experiment.recipe, trained_identities(experiment), weights=False)
    san = SAN(encoder, decoder_of(experiment.recipe, encoder))
    load_weights(san.encoder, weights_path(experiment, METHODS[0]))
    load_weights(san.decoder, weights_path(experiment, METHODS[0], "decoder"))
    records = query.select(_spread(len(query), 5))
    textures = list(paint(san, records, experiment.recipe.data.image_size))
    title = "SAN's decoder: what one photograph says of all sides of a person"
    return reposed(_pictures(experiment, records), textures, title=title)


def _embedding_map(experiment: Experiment, features: Features, gallery: Records) -> Figure:
    people = np.unique(gallery.pids[gallery.pids > 0])[:16]
    chosen = np.flatnonzero(np.isin(gallery.pids, people))
    return embedding_map(
        features.gallery[chosen],
        gallery.pids[chosen],
        gallery.camids[chosen],
        _pictures(experiment, gallery.select(chosen)),
        seed=experiment.recipe.seed,
        title=f"{methods_of(experiment.recipe)[0]}: identities it was not trained on, by embedding",
    )
