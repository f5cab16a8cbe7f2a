"""What can be watched of a training: mAP and the weights it chooses, panels, a sweep of rates, a dry run."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from tiny_runs import in_seconds

from san_tf.errors import UserError
from san_tf.experiments import dry_run, synthetic
from san_tf.experiments.dry_run import StepCost
from san_tf.experiments.recipe import DataRecipe, Recipe, TrainingRecipe
from san_tf.experiments.recipe_checks import check_recipe

WITHOUT_DECODER = ("--lambda_reconstruction=0", "--lambda_texture_triplet=0")
FLAGS = (
    "--backbone=four_layers",
    "--image_size",
    "64",
    "32",
    "--sketch=0",
    "--identities_per_batch=2",
    "--steps_per_epoch=2",
    "--epochs=4",
    "--validation_identities=3",
)


@pytest.fixture
def run_quickly(run_synthetic):
    """Runs `synthetic` with four layers and without compilation."""

    def run(workdir: Path, *flags: str) -> int:
        with in_seconds():
            return run_synthetic(workdir, *FLAGS, *flags)

    return run


def rows_of(workdir: Path, stage: str) -> list[dict[str, str]]:
    with (workdir / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["stage"] == stage]


def pictures(folder: Path) -> dict[tuple[int, str], np.ndarray]:
    """All images of a folder of TensorBoard's files, by step and name."""
    found = {}
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "images":
                    _, _, *files = tf.make_ndarray(value.tensor)
                    picture = cv2.imdecode(np.frombuffer(files[0], "u1"), cv2.IMREAD_COLOR)
                    found[event.step, value.tag] = picture
    return found


def test_the_weights_with_the_highest_map_are_kept(run_quickly, tmp_path: Path, capsys):
    flags = (*WITHOUT_DECODER, "--validate_every=2", "--stage=train", "--panels=2", "--patience=3")
    assert run_quickly(tmp_path, *flags) == 0
    measured = {row["epoch"]: float(row["mAP"]) for row in rows_of(tmp_path, "train/baseline") if row["mAP"]}
    assert list(measured) == ["2", "4"]
    assert all(0 < value <= 1 for value in measured.values())
    best = load_file(tmp_path / "checkpoints" / "train" / "baseline" / "best.safetensors")
    step = {"2": 4, "4": 8}[max(measured, key=lambda epoch: (measured[epoch], epoch))]
    said = re.search(r"the weights of step (\d) are kept: mAP ([\d.]+)%", capsys.readouterr().out)
    assert said is not None
    assert (int(said[1]), float(said[2])) == (step, pytest.approx(100 * max(measured.values()), abs=0.06))
    import h5py

    with h5py.File(tmp_path / "weights" / "baseline_encoder.weights.h5") as file:
        kept: list[np.ndarray] = []
        arrays: dict[str, np.ndarray] = {}
        file.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
        # `san_tf` is what the file says of itself.
        kept.extend(value for name, value in arrays.items() if name != "san_tf")
    contents = {value.tobytes() for value in best.values()}
    assert len(kept) > 10
    assert all(value.tobytes() in contents for value in kept)

    panels = pictures(tmp_path / "tensorboard" / "train" / "baseline")
    assert sorted(panels) == [(1, "ranked_lists"), (2, "ranked_lists"), (4, "ranked_lists")]
    assert min(picture.shape[1] for picture in panels.values()) > 100
    assert all(picture.std() > 10 for picture in panels.values())  # there is something on them


def test_textures_on_the_panels(run_quickly, tmp_path: Path):
    assert run_quickly(tmp_path, "--stage=texture-generator", "--generator_epochs=2", "--panels=1") == 0
    panels = pictures(tmp_path / "tensorboard" / "texture-generator")
    assert sorted(panels) == [(1, "textures"), (2, "textures")]
    assert all(picture.std() > 10 for picture in panels.values())


def test_a_sweep_leaves_the_run_alone(run_quickly, tmp_path: Path, capsys):
    assert run_quickly(tmp_path, *WITHOUT_DECODER, "--stage=train", "--find_learning_rate") == 0
    figure = cv2.imread(str(tmp_path / "figures" / "learning_rate_baseline.png"))
    assert figure.std() > 5
    assert "learning_rate_baseline.png:theloss" in "".join(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    run_quickly, tmp_path: Path, capsys, monkeypatch
):
    data = tmp_path / "nothing"
    workdir = tmp_path / "run"
    # A step of SAN takes ten seconds to compile, and `test_step_cost` measures it; below, one is measured.
    with monkeypatch.context() as patch:
        cost = StepCost(rows=(2, 4), seconds=(0.1, 0.2), peak_bytes=(10**9, 2 * 10**9))
        patch.setattr(dry_run, "measure_steps", lambda *_: cost)
        assert run_quickly(workdir, "--dry_run", "--train=synthetic_reid/smoke") == 0
    text = capsys.readouterr().out
    for name in ("texture generator", "SAN", "baseline"):
        steps = r"\d+ x [\d,]+\s+[\d.e-]+"
        assert re.search(rf"{name}\s+\d+\s+{steps}\s+\S+\s+\S+\s+[\d.]+ GB", text), text
    assert "All training steps of the recipe: about" in text
    assert not workdir.exists()
    flags = ("--dry_run", f"--data_dir={data}", "--steps_per_epoch=0", *WITHOUT_DECODER)
    assert run_quickly(workdir, *flags) == 0
    text = capsys.readouterr().out
    assert re.search(r"baseline\s+\d+\s+\?\s+[\d.e-]+", text), text
    assert "The data are not prepared" in text
    assert not data.exists()


@pytest.mark.parametrize(
    ("data", "training", "named"),
    [
        (DataRecipe(), TrainingRecipe(validate_every=5), "--validate_every needs held-out identities"),
        (DataRecipe(validation_identities=3), TrainingRecipe(patience=2), "--patience needs measurements"),
    ],
)
def test_validation_without_what_it_needs_is_refused(data, training, named):
    with pytest.raises(UserError, match=named):
        check_recipe(Recipe(data=data, training=training))


@pytest.mark.parametrize("flag", ["--find_learning_rate", "--save_every=0", "--panels=-1"])
def test_wrong_options_are_refused(flag, tmp_path, capsys):
    with pytest.raises(SystemExit) as leaving:
        synthetic.main([f"--workdir={tmp_path}/run", flag])
    assert leaving.value.code == 2
    assert flag.split("=")[0] in capsys.readouterr().err
