"""Flags, recipe files and the one sentence that a wrong one ends in."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table

from san_tf.command_line import Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.experiments import synthetic
from san_tf.experiments.flags import parse
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_checks import RANGES, check_recipe
from san_tf.experiments.recipe_files import hints, updated

STAGES = ("prepare", "pseudo-textures", "train")
# Ten lists, each nine times the one before: a billion values in some hundred bytes.
BOMB = tuple(itertools.pairwise("abcdefghij"))


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
        ("image_size: [true, 64]", "image_size"),
        ("skips: 1", "skips"),
        ("epochs: null", "epochs must be a whole number"),
        ("epochs: 1e22", "epochs must be a whole number"),
        (f"epochs: {'9' * 5000}", "not YAML"),
        ("learning_rate: .nan", "learning_rate is nan"),
        ("learning_rate: .inf", "learning_rate is inf"),
        ("learning_rate: many", "learning_rate must be a number"),
        ("seed: -1", "seed is -1"),
        # Read as the other choice, without a word, where only its type is looked at.
        ("schedule: cosin", "schedule must be one of steps, cosine"),
        ("last_stride: true", "last_stride must be one of 1, 2"),
        ("decoder: large", "decoder must be one of paper, light, or null"),
        ("1: 2", "no value named '1'"),
        ("training: {1: 2, epochs: 3, true: 4}", "no value named '1'"),
        ("{1: 2, a: 3, 2001-01-01: 4}", "no value named '1'"),
        ("? [1, 2]\n: 3", "found unhashable key (line 1)"),
        ("when: 2001-13-45", "not YAML"),
        ("epochs: 3\nepochs: 4", "names 'epochs' twice (line 2)"),
        ("epochs: 3\ntraining: {epochs: 4}", "names epochs twice"),
        ("epochs: *unknown", "'unknown'"),
        ("epochs: &a [*a]", "'a'"),
        ("!!python/object:os.system {}", "not YAML"),
        ("epochs: 3\n---\nepochs: 4", "not YAML"),
        ("[" * 5000, "nested deeper"),
        ("{a: " * 5000, "nested deeper"),
        ("a: &a [x, x]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in BOMB), "aliases"),
        ("a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{f'*{a}, ' * 9}]}}\n" for a, b in BOMB), "aliases"),
        ("a: '\0'", "not YAML"),
        ('folder: "\\0"', "folder holds a character NUL"),
        ("x" * 1_000_001, "larger than 1 MB"),
        ("", "named values"),
    ],
)
def test_a_wrong_recipe_file_ends_in_one_sentence_that_names_file_and_value(tmp_path, text, named):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        parsed("--config", str(file))
    assert time.monotonic() - began < 5, "an alias of aliases takes minutes where it is written out"
    checked = ("is nan", "is inf", "is -1", "NUL")  # as with flags, after the file
    assert "mine.yaml" in str(error.value) or any(word in named for word in checked)
    assert named in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_recipe_file_of_another_encoding_is_named(tmp_path: Path, encoding: str):
    (tmp_path / "mine.yaml").write_bytes("folder: /Müller\n".encode(encoding))
    with pytest.raises(UserError, match=r"mine\.yaml is not (UTF-8|YAML)"):
        parsed("--config", str(tmp_path / "mine.yaml"))


def test_what_yaml_allows_and_people_write_is_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("\ufeffx: &half 0.5\nflip: *half\n".replace("x: &half 0.5\n", "erasing: &half 0.5\n"))
    assert parsed("--config", str(file)).data.flip == 0.5
    file.write_text("training: &t {epochs: 3, learning_rate: 8e-4}\n")
    assert parsed("--config", str(file)).training.learning_rate == 8e-4
    file.write_text("evaluation: {test: [a, b], rerank: true}\ndecoder: null\nimage_size: [128, 64]\n")
    assert parsed("--config", str(file)).evaluation.test == ("a", "b")


@pytest.mark.parametrize("path", ["/dev/zero", "."])
def test_a_recipe_file_that_is_none_is_named(path: str):
    with pytest.raises(UserError, match=r"larger than 1 MB|cannot be read"):
        parsed("--config", path)


NUMBERS = [name for name, hint in hints().items() if hint in (int, float)]


def test_every_number_of_a_recipe_has_a_range():
    assert set(RANGES) == set(NUMBERS)
    for name, (low, high) in RANGES.items():
        assert -1 < low < high < 2**31, name


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_its_range_is_refused_before_anything_is_built(name: str):
    (low, high), kind = RANGES[name], hints()[name]
    for value in (low - 1, high * 2 + 1, 10**30, -math.inf, math.inf, math.nan, "1e22", True, None, [3]):
        with pytest.raises(UserError, match=name) as error:
            check_recipe(updated(Recipe(), {name: kind(value) if type(value) is int else value}, "x.yaml"))
        assert "\n" not in str(error.value) and len(str(error.value)) < 300, str(error.value)


@pytest.mark.parametrize("flag", ["--seed=-1", "--epochs=1e22", f"--epochs={'9' * 5000}", "--flip=nan"])
def test_a_number_that_cannot_be_is_refused_as_a_flag(flag: str):
    with pytest.raises(UserError, match=flag.partition("=")[0].lstrip("-")) as error:
        parsed(flag)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300, str(error.value)


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


def test_what_a_terminal_would_obey_is_printed_escaped(capsys):
    hostile = "key\x1b]0;owned\x07\x9b2J\r\u202egpj.\ud800\n"

    def fail() -> None:
        raise UserError(f"{hostile}is damaged.")

    with pytest.raises(SystemExit):
        run_as_command(fail)
    escaped = r"key\x1b]0;owned\x07\x9b2J\r\u202egpj.\ud800"
    assert capsys.readouterr().err == f"Error: {escaped}\\nis damaged.\n"
    console = Terminal(file=io.StringIO(), force_terminal=True, highlight=False, width=100)
    console.print(f"[bold]it[/bold] {escape(hostile)}", soft_wrap=True)
    table = Table()
    table.add_column(escape(hostile))
    console.print(table)
    text = console.file.getvalue()
    # Its own colours are still there, and nothing of somebody else's.
    assert "\x1b[1mit\x1b[0m" in text and text.count(escaped.replace("\\x07", "").replace("\\r", "")) >= 1
    assert not set("\x07\x9b\r\u202e\ud800") & set(text) and "\x1b]" not in text


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
