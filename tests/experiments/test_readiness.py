"""What data are not fit for is told before a training, by identities and cameras alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.experiments import readiness
from san_tf.experiments.data_records import prepared_builder
from san_tf.experiments.experiment import Experiment
from san_tf.experiments.flags import Options
from san_tf.experiments.readiness import KnownPeople, check_readiness, tell_readiness
from san_tf.experiments.recipe import DataRecipe, Recipe
from san_tf.experiments.recipe_files import updated
from san_tf.experiments.targets import targets
from san_tf.training.run_directory import RunDirectory

RECIPE = Recipe(data=DataRecipe(dataset="custom/names", identities_per_batch=2, images_per_identity=2))
ALL = ("texture-generator", "train", "evaluate")


def draw(folder: Path, split: str, people: Iterable[int], cameras: Iterable[int], tail="x.png") -> None:
    """Drawn images named as Market-1501 names them, no two alike."""
    for pid in people:
        for camera in cameras:
            path = folder / split / f"{pid:04d}_c{camera}_{tail}"
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = sum(map(ord, f"{folder.name} {split} {path.name}"))
            rng = np.random.default_rng((seed, pid, camera))
            cv2.imwrite(str(path), rng.integers(0, 255, (16, 8, 3), np.uint8))


def prepared(tmp_path: Path, folder: str, **values: object) -> Experiment:
    """An experiment on a folder of drawn images, its data prepared."""
    recipe = updated(RECIPE, {"folder": str(tmp_path / folder), **values}, "x")
    options = Options(workdir=str(tmp_path / "run"), data_dir=str(tmp_path / "data"))
    experiment = Experiment("custom", recipe, options, RunDirectory(tmp_path / "run"))
    prepared_builder(experiment, "custom/names", tested=False)
    prepared_builder(experiment, "custom/names", tested=True)
    return experiment


def test_data_that_are_fit_pass_and_what_they_hold_is_said(tmp_path: Path, capsys):
    draw(tmp_path / "a", "train", (1, 2, 3), (1, 2))
    draw(tmp_path / "a", "query", (3, 4, 5), (1,))
    draw(tmp_path / "a", "gallery", (3, 4), (1, 2))
    experiment = prepared(tmp_path, "a")
    check_readiness(experiment, ALL)
    tell_readiness(experiment)
    said = capsys.readouterr().out
    assert "custom/names: 2 of 3 queries have a true match in the gallery" in said
    assert "NOTE: custom/names: 1 of the 3 test identities are also training identities" in said
    # As evaluation says it, of the images themselves.
    (target,) = targets(experiment)
    assert "1 of the 3 test identities" in str(KnownPeople(experiment).note(target))


def test_other_people_are_known_by_their_photographs(tmp_path: Path):
    for name in ("a", "b"):
        draw(tmp_path / name, "train", (1, 2), (1, 2))
        draw(tmp_path / name, "query", (3, 4), (1,))
        draw(tmp_path / name, "gallery", (3, 4), (2,))
    (target,) = targets(prepared(tmp_path, "a", test_folder=str(tmp_path / "b")))
    assert target.name == "custom/names (b)"
    # The same numbers mean other people there.
    experiment = prepared(tmp_path, "a", test_folder=str(tmp_path / "b"))
    assert KnownPeople(experiment).note(target) is None
    copied = tmp_path / "b" / "gallery" / "0003_c5_x.png"
    copied.write_bytes((tmp_path / "a" / "train" / "0001_c1_x.png").read_bytes())
    (tmp_path / "b").rename(tmp_path / "c")
    experiment = prepared(tmp_path, "a", test_folder=str(tmp_path / "c"))
    (target,) = targets(experiment)
    assert "1 of the 5 test images were training images" in str(KnownPeople(experiment).note(target))


@pytest.mark.parametrize(
    ("splits", "values", "stages", "sentence"),
    [
        ({"train": (1, 2)}, {}, ALL, "has no image in query, so nothing can be evaluated"),
        ({"train": (1, 2), "query": (1,)}, {}, ALL, "has no image in gallery"),
        ({"train": (1, 2), "query": (1,), "gallery": (1,)}, {}, ALL, "from its own camera"),
        ({"train": (1, 2), "query": (1,), "gallery": (2,)}, {}, ("train",), None),
        ({"train": (1,)}, {"validation_identities": 1}, ("train",), "none can be held out; give the images"),
        ({"train": (1, 2)}, {"identities_per_batch": 4}, ALL[:2], "at least 4 training"),
        ({"train": (1, 2)}, {"validation_identities": 2}, ("train",), "at least 2 training"),
        ({"train": (1, 2)}, {"validation_identities": 3}, ("train",), "hold out fewer, at most 2"),
        ({"train": (1, 2)}, {}, ("train",), None),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, splits: dict, values: dict, stages, sentence):
    for split, cameras in splits.items():
        draw(tmp_path / "a", split, (1, 2, 3), cameras)
        if len(cameras) == 1:
            draw(tmp_path / "a", split, (1, 2, 3), cameras, "y.png")
    experiment = prepared(tmp_path, "a", **values)
    if sentence is None:
        check_readiness(experiment, stages)
        return
    with pytest.raises(UserError, match=sentence) as error:
        check_readiness(experiment, stages)
    assert "\n" not in str(error.value)
    tell_readiness(experiment)


def test_textures_that_would_overwrite_each_other_are_told_before_the_generator_is_trained(tmp_path: Path):
    draw(tmp_path / "a", "train", (1, 2), (1, 2))
    draw(tmp_path / "a", "train", (1,), (1,), "x.jpg")
    experiment = prepared(tmp_path, "a")
    with pytest.raises(UserError, match="differ in their suffix alone"):
        check_readiness(experiment, ("texture-generator", "train"))
    alone = {"lambda_reconstruction": 0, "lambda_texture_triplet": 0}
    check_readiness(
        dataclasses.replace(experiment, recipe=updated(experiment.recipe, alone, "x")), ("train",)
    )


def test_matches_by_naive_loops():
    rng = np.random.default_rng(0)
    for size in (0, 1, 40):
        query, gallery = (np.stack([rng.integers(-1, 9, n), rng.integers(0, 3, n)], 1) for n in (30, size))
        naive = [
            any(pid == other and camera != its for other, its in gallery if other >= 0)
            for pid, camera in query
        ]
        np.testing.assert_array_equal(readiness._with_match(query, gallery), naive)
