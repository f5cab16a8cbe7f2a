"""Flags, recipe files and the one sentence that a wrong one ends in."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from san_tf.command_line import run_as_command
from san_tf.errors import UserError
from san_tf.experiments import synthetic
from san_tf.experiments.command_line import parse
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import updated

STAGES = ("prepare", "pseudo-textures", "train")


def parsed(*argv: str) -> Recipe:
    return parse("synthetic", "", Recipe(), STAGES, argv)[1]


def test_every_field_of_the_recipe_is_a_flag_with_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse("synthetic", "", Recipe(), STAGES, ["--help"])
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    parts = [getattr(Recipe(), item.name) for item in fields(Recipe()) if item.name != "seed"]
    names = ["seed"] + [item.name for part in parts for item in fields(part)]
    for name in names:
        assert f"--{name} " in text, name
    # Three flags of ours (--config, --help, --data_dir's environment) aside, each flag tells its default.
    assert text.count("(default: ") >= len(names)


def test_flags_set_nested_values_of_the_right_type():
    recipe = parsed("--image_size", "128", "64", "--lambda_triplet", "2", "--skips", "--last_stride", "2")
    assert recipe.data.image_size == (128, 64)
    assert recipe.losses.lambda_triplet == 2.0
    assert recipe.model.skips is True
    assert recipe.model.last_stride == 2
    # Stride 32 instead of 16: the four doublings end at half the height.
    assert recipe.texture_size == 64


def test_a_recipe_file_counts_and_flags_win_over_it(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 7\ntraining: {epochs: 3, learning_rate: 1e-3}\nimages_per_identity: 6\n")
    recipe = parsed("--config", str(file), "--epochs", "5")
    assert (recipe.seed, recipe.training.epochs, recipe.data.images_per_identity) == (7, 5, 6)
    assert recipe.training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--bakbone", "resnet50"], "--backbone"),
        (["--image-size", "128", "64"], "--image_size"),
        (["--epochs", "many"], "many"),
        (["--epochs", "0"], "epochs is 0"),
        (["--flip", "2"], "flip is 2.0"),
        (["--lambda_triplet", "-1"], "lambda_triplet is -1.0"),
        (["--query_expansion", "-1"], "query_expansion is -1"),
        (["--k1", "0"], "k1 is 0"),
        (["--lambda_value", "1.5"], "lambda_value is 1.5"),
        (["--metric", "manhattan"], "manhattan"),
        (["--head", "fc"], "fc512"),
        (["--last_stride", "3"], "--last_stride"),
        (["--image_size", "128", "100"], "128 100"),
        (["--images_per_identity", "1"], "images_per_identity is 1"),
        (["--stage", "trian"], "'trian'"),
        (["--images", "crops"], "--stage pseudo-textures"),
        (["--export_folder", "out"], "--stage prepare"),
        (["--config"], "--config"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_flag_ends_in_one_sentence_that_names_it(argv, named):
    with pytest.raises(UserError) as error:
        parsed(*argv)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epochs: [", "not YAML"),
        ("- 3", "named values"),
        ("epoch: 3", "'epoch'"),
        ("training: {seed: 3}", "'seed'"),
        ("training: 3", "training"),
        ("epochs: many", "'many'"),
        ("image_size: [128]", "image_size"),
        ("skips: 1", "skips"),
    ],
)
def test_a_wrong_recipe_file_ends_in_one_sentence_that_names_file_and_value(tmp_path, text, named):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        parsed("--config", str(file))
    assert "mine.yaml" in str(error.value)
    assert named in str(error.value)


def test_updated_leaves_the_given_recipe_alone():
    recipe = Recipe()
    assert updated(recipe, {"epochs": 3}, "x").training.epochs == 3
    assert recipe == Recipe()


def test_exit_codes(capsys):
    def fail() -> None:
        raise UserError("No such thing; look there.")

    def interrupt() -> None:
        raise KeyboardInterrupt

    for action, code in ((fail, 2), (interrupt, 130), (lambda: None, 0)):
        with pytest.raises(SystemExit) as leaving:
            run_as_command(action)
        assert leaving.value.code == code
    assert "Error: No such thing; look there.\n" in capsys.readouterr().err


def test_import_of_the_package_is_light():
    code = (
        "import sys, san_tf, san_tf.experiments.experiment;"
        "heavy = {'tensorflow', 'keras', 'numba', 'matplotlib', 'cv2'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_papers_recipe_file_holds_the_papers_values():
    file = Path(__file__).resolve().parents[2] / "experiments" / "synthetic" / "paper.yaml"
    recipe = parse("synthetic", "", synthetic.RECIPE, STAGES, ["--config", str(file)])[1]
    assert (recipe.losses, recipe.training) == (Recipe().losses, Recipe().training)
    assert (recipe.model.backbone, recipe.model.head, recipe.model.sketch) == ("resnet50", "plain", 0)
    assert recipe.data.image_size == (256, 128)
    assert recipe.generator.pseudo_textures == "image"
