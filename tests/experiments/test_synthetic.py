"""The whole chain on the smallest data: what each stage leaves, what is skipped, what goes wrong in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
import yaml
from safetensors import safe_open
from tiny_runs import small

from san_tf.adaptation.start_encoder import trainable_encoder
from san_tf.experiments import pit, synthetic
from san_tf.experiments.recipe_checks import RANGES


@pytest.fixture(scope="module", autouse=True)
def four_layers() -> Iterator[None]:
    """The network of `finished`: to trace the recipe's own takes longer than all the rest of a run.

    `test_the_texture_generator_alone` trains that one.
    """
    with small():
        yield


@pytest.fixture(scope="module")
def finished(smoke_data: Path, smallest: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every stage was done."""
    workdir = tmp_path_factory.mktemp("runs") / "synthetic"
    with pytest.raises(SystemExit) as leaving:
        synthetic.main(
            [f"--workdir={workdir}", f"--data_dir={smoke_data}", "--backbone=four_layers", *smallest]
        )
    assert leaving.value.code == 0
    return workdir


def test_the_run_directory_holds_everything(finished: Path):
    for name in (
        "recipe.yaml",
        "environment.json",
        "metrics.csv",
        "results.json",
        "texture_generator.json",
        "weights/texture_generator.weights.h5",
        "weights/san_encoder.weights.h5",
        "weights/san_decoder.weights.h5",
        "weights/baseline_encoder.weights.h5",
        "saved_model/1/saved_model.pb",
        *(
            f"figures/{figure}.png"
            for figure in ("losses", "textures", "cmc", "people", "ranked_lists", "reposed", "embedding_map")
        ),
    ):
        assert (finished / name).stat().st_size > 0, name
    assert not list(finished.rglob("*.tmp*")), "nothing half-written is left behind"


def test_results_have_a_row_a_method_and_say_how_they_came_about(finished: Path):
    results = json.loads((finished / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["SAN", "baseline", "untrained", "colour histogram"]
    for row in results["rows"]:
        assert 0 <= row["mINP"] <= 1 and 0 <= row["mAP"] <= 1
        assert 0 <= row["rank1"] <= row["rank5"] <= 1
    assert results["recipe"]["training"]["epochs"] == 1
    assert results["versions"]["tensorflow"] == tf.__version__
    assert results["seconds"]["train"] > 0


def test_evaluation_flags_and_a_calibration_reach_results_and_export(
    finished: Path, run_synthetic, tmp_path: Path
):
    from san_tf.evaluation import evaluate_command as evaluate
    from san_tf.serving import read_calibration

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first = json.loads((run / "results.json").read_text())
    before = first["rows"]
    flags = [
        "--metric=cosine",
        "--rerank",
        "--k1=4",
        "--k2=2",
        "--camera_bias_removal",
        "--query_expansion=2",
    ]
    assert run_synthetic(run, "--stage=evaluate", *flags) == 0
    results = json.loads((run / "results.json").read_text())
    rows = results["rows"]
    assert first["earlier"] == [] and results["weights"] == first["weights"] != {}
    (earlier,) = results["earlier"]
    assert earlier["rows"] == before and earlier["evaluation"] == first["recipe"]["evaluation"]
    plain = [row["method"] for row in before]
    assert [row["method"] for row in rows] == [n for name in plain for n in (name, f"{name}, re-ranked")]
    assert [row["mAP"] for row in rows[::2]] != [row["mAP"] for row in before]
    assert [row["mAP"] for row in rows[1::2]] != [row["mAP"] for row in rows[::2]]
    # The run's own features, calibrated by the command that takes those of any toolkit; those of the one
    # method here that was not trained for a single epoch.
    features, calibration = run / "features" / "colour_histogram.npz", run / "calibration.json"
    with pytest.raises(SystemExit) as leaving:
        evaluate.main(
            [f"--query={features}", f"--gallery={features}", "--metric=cosine", f"--calibrate={calibration}"]
        )
    assert leaving.value.code == 0
    assert run_synthetic(run, "--stage=export", "--export_trainable", *flags) == 0
    newest = max((run / "saved_model").iterdir(), key=lambda path: int(path.name))
    stored = read_calibration(newest)
    assert stored is not None and stored.metric == "cosine"
    # The export holds the run's own encoder, unfolded and without its classifier, for `san-tf adapt`.
    exported, trained = (trainable_encoder(path).get_weights() for path in (newest, run))
    body = [index for index, kernel in enumerate(trained) if kernel.shape == exported[index].shape]
    assert len(body) >= len(trained) - 2 and all(np.array_equal(exported[i], trained[i]) for i in body)
    preset = json.loads((newest / "assets.extra" / "preset" / "config.json").read_text())
    assert preset["encoder"]["num_classes"] == 1
    assert preset["card"]["training_data"] == "`synthetic_reid/smoke`"
    calibration.write_text("[]")
    assert run_synthetic(run, "--stage=export", *flags) == 2


def test_one_pseudo_texture_for_each_training_image(finished: Path, smoke_data: Path):
    from san_tf.data.builders import find_builder
    from san_tf.data.records import Records

    records = Records.from_tfds(find_builder("synthetic_reid", "smoke", smoke_data), "train")
    textures = sorted(path.stem for path in (finished / "pseudo_textures").iterdir())
    assert textures == sorted(Path(name).stem for name in records.filenames)


def test_the_export_gives_the_features_that_were_evaluated(finished: Path, smoke_data: Path):
    from san_tf.data.builders import find_builder
    from san_tf.data.records import Records

    query = Records.from_tfds(find_builder("synthetic_reid", "smoke", smoke_data), "query")
    served = tf.saved_model.load(str(finished / "saved_model" / "1")).signatures["serving_bytes"]
    answer = served(image_bytes=tf.constant(list(query.images)))["embedding"].numpy()
    with np.load(finished / "features" / "san.npz") as features:
        np.testing.assert_allclose(answer, features["query"], atol=1e-5)


def test_what_is_done_is_skipped_and_another_recipe_is_refused(finished: Path, run_synthetic, capsys):
    before = (finished / "recipe.yaml").read_text()
    assert run_synthetic(finished) == 0
    assert capsys.readouterr().out.count("done already") == 7
    assert run_synthetic(finished, "--lambda_triplet=3") == 2
    message = capsys.readouterr().err
    assert "lambda_triplet" in message
    assert "--workdir" in message
    assert (finished / "recipe.yaml").read_text() == before


def test_textures_for_a_folder_of_photographs(finished: Path, run_synthetic, tmp_path: Path, capsys):
    photographs = tmp_path / "crops"
    photographs.mkdir()
    for number in range(3):
        cv2.imwrite(str(photographs / f"{number}.jpg"), np.full((90, 40, 3), 60 * number, np.uint8))
    assert run_synthetic(finished, "--stage=pseudo-textures", f"--images={photographs}") == 0
    painted = cv2.imread(str(finished / "painted" / "crops" / "2.jpg"))
    assert painted.shape == (128, 128, 3)
    assert (finished / "figures" / "painted_crops.png").is_file()
    # A file that is not an image is named, and what was painted before stays.
    (photographs / "3.jpg").write_bytes(b"not an image")
    assert run_synthetic(finished, "--stage=pseudo-textures", f"--images={photographs}") == 2
    assert "3.jpg" in capsys.readouterr().err
    assert len(list((finished / "painted" / "crops").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--stage=train"], "pseudo_textures"),
        (["--stage=pseudo-textures"], "texture generator"),
        (["--stage=evaluate"], "san_encoder.weights.h5"),
        (["--stage=report"], "results.json"),
        (["--stage=prepare", "--dataset=synthetic_reid/huge"], "'huge'"),
        (["--stage=prepare", "--dataset=market1502"], "'market1502'"),
        (["--stage=train", "--identities_per_batch=64"], "64"),
        (["--stage=texture-generator", "--backbone=vgg"], "'vgg'"),
        (["--stage=texture-generator", "--backbone=resnet50", "--weights=absent.weights.h5"], "absent"),
    ],
)
def test_a_stage_without_what_it_needs_says_what_is_missing(
    run_synthetic, tmp_path, capsys, arguments, named
):
    workdir = tmp_path / "run"
    if "--identities_per_batch=64" in arguments:
        (workdir / "pseudo_textures").mkdir(parents=True)
    assert run_synthetic(workdir, *arguments) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("Error: ")
    assert message.count("\n") == 1


def test_data_that_are_not_prepared_are_named(run_synthetic, tmp_path, capsys):
    assert run_synthetic(tmp_path / "run", "--stage=texture-generator", f"--data_dir={tmp_path}") == 2
    assert "pit" in capsys.readouterr().err


def test_a_folder_of_backgrounds_that_is_missing_is_named(run_synthetic, tmp_path, capsys):
    assert run_synthetic(tmp_path / "run", "--stage=prepare", "--backgrounds=no/such/streets") == 2
    assert "no/such/streets does not exist" in capsys.readouterr().err


def test_another_architecture_than_the_runs_is_refused_by_name(finished: Path, run_synthetic, capsys):
    assert run_synthetic(finished, "--stage=evaluate", "--head=plain") == 2
    assert "--head was fc512 and is now plain" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_named(run_synthetic, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_synthetic(tmp_path / "file" / "run") == 2
    assert str(tmp_path / "file" / "run") in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(finished: Path, run_synthetic, tmp_path, capsys, monkeypatch):
    # Takes the loss beyond float32.
    monkeypatch.setitem(RANGES, "generator_learning_rate", (0, 1e38))
    flags = ("--backbone=four_layers", "--generator_learning_rate=1e38")
    code = run_synthetic(tmp_path / "run", "--stage=texture-generator", *flags)
    assert code == 2
    assert "texture-generator" in capsys.readouterr().err


def test_a_recipe_that_names_tensorflow_addons(run_synthetic, tmp_path):
    pytest.importorskip("tensorflow_addons")
    run = tmp_path / "run"
    chosen = ("--optimizer=tfa.LAMB", "--triplet=tfa.TripletSemiHardLoss")
    without_decoder = ("--lambda_reconstruction=0", "--lambda_texture_triplet=0")
    assert run_synthetic(run, "--stage=train", *without_decoder, *chosen) == 0
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["training"]["optimizer"], recipe["losses"]["triplet"]) == tuple(
        flag.split("=")[1] for flag in chosen
    )
    with safe_open(next((run / "checkpoints" / "train" / "baseline").glob("step_*")), "numpy") as file:
        assert "optimizer/stem_conv/kernel/m" in file.keys()  # noqa: SIM118  # no mapping


def test_the_texture_generator_alone(smoke_data: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as leaving:
        pit.main(
            [
                f"--workdir={tmp_path}",
                f"--data_dir={smoke_data}",
                "--pit=pit/smoke",
                "--generator_epochs=1",
                "--generator_batch=8",
            ]
        )
    assert leaving.value.code == 0
    assert (tmp_path / "figures" / "textures.png").is_file()
    assert 0 < json.loads((tmp_path / "texture_generator.json").read_text())["l1"] < 1


def test_the_data_set_as_a_folder_for_other_toolkits(run_synthetic, tmp_path, capsys):
    folder = tmp_path / "market"
    assert run_synthetic(tmp_path / "run", "--stage=prepare", f"--export_folder={folder}") == 0
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "bounding_box_test",
        "bounding_box_train",
        "query",
    ]
