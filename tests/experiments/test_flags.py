"""Flags, recipe files and the one sentence that a wrong one ends in."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table

from san_tf import command_line
from san_tf.command_line import Terminal, nearest, run_as_command
from san_tf.errors import UserError
from san_tf.experiments import synthetic
from san_tf.experiments.flags import parse
from san_tf.experiments.recipe import ModelRecipe, Recipe, TrainingRecipe
from san_tf.experiments.recipe_checks import RANGES, check_recipe
from san_tf.experiments.recipe_files import hints, read_recipe_file, shipped_recipes, updated

STAGES = ("prepare", "pseudo-textures", "train")
# Ten lists, each nine times the one before: a billion values in some hundred bytes.
BOMB = tuple(itertools.pairwise("abcdefghij"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in the folder of the checkout, `runs/synthetic`, would be taken for an interrupted one."""
    monkeypatch.chdir(tmp_path)


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
        # Python 3.13 writes a value once, behind all spellings of a flag.
        assert f"--{name} " in text or f"--{name}, " in text, name
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
        ('folder: "\\0"', "folder holds a NUL character"),
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


NUMBERS = [name for name, hint in hints().items() if hint in (int, float, int | None, float | None)]


def test_every_number_of_a_recipe_has_a_range():
    assert set(RANGES) == set(NUMBERS)
    for name, (low, high) in RANGES.items():
        assert -1 < low < high < 2**31, name


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_its_range_is_refused_before_anything_is_built(name: str):
    (low, high), kind = RANGES[name], hints()[name]
    optional = kind not in (int, float)
    kind, nothing = (kind.__args__[0], []) if optional else (kind, [None])
    # Of a linear classifier scale and margin are refused anyway.
    recipe = updated(Recipe(), {"classifier": "arcface"}, "x.yaml")
    for value in (low - 1, high * 2 + 1, 10**30, -math.inf, math.inf, math.nan, "1e22", True, *nothing, [3]):
        with pytest.raises(UserError, match=name) as error:
            check_recipe(updated(recipe, {name: kind(value) if type(value) is int else value}, "x.yaml"))
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


def test_the_shipped_recipes_are_taken_by_name(capsys, tmp_path: Path, monkeypatch):
    assert set(shipped_recipes()) == {"baseline", "bot", "people", "people_scratch", "photographs", "san"}
    bot = parsed("--config", "bot", "--epochs", "60")
    assert (bot.model.head, bot.training.schedule, bot.training.milestones) == (
        "bnneck",
        "milestones",
        (40, 70),
    )
    assert bot.training.epochs == 60 and bot.training.method == "baseline" and not bot.with_decoder
    with pytest.raises(SystemExit) as leaving:
        parsed("--config", "list")
    assert leaving.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped_recipes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "san").mkdir()  # a folder of that name is no recipe
    assert parsed("--config", "san").training.method == "san"
    (tmp_path / "bot").write_text("epochs: 3")
    with pytest.raises(UserError, match=r"give the file as \./bot"):
        parsed("--config", "bot")
    assert parsed("--config", "./bot").training.epochs == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bott", "did you mean bot"),
        ("bot.yaml", "did you mean bot"),
        ("xyzzy", "are baseline, bot, people, people_scratch, phot"),
    ],
)
def test_an_unknown_recipe_name_is_told_the_nearest(name: str, told: str):
    with pytest.raises(UserError, match=told):
        parsed("--config", name)


@pytest.mark.parametrize("base", [Recipe(), synthetic.RECIPE])
def test_shipped_recipes_decide_alike_whatever_experiment_takes_them(base: Recipe):
    """Losses, training and the network's head do not depend on the experiment's own recipe."""
    for name in shipped_recipes():
        recipe, plain = read_recipe_file(name, base), read_recipe_file(name, Recipe())
        check_recipe(recipe)
        assert recipe.training == plain.training, name
        weights = ("lambda_identity", "lambda_triplet", "margin", "smoothing", "triplet")
        assert [getattr(recipe.losses, value) for value in weights] == [
            getattr(plain.losses, value) for value in weights
        ]
        model = ("backbone", "head", "last_stride", "weights")
        assert [getattr(recipe.model, value) for value in model] == [
            getattr(plain.model, value) for value in model
        ]
        for value in ("image_size", "flip", "translation", "erasing", "jitter"):
            assert getattr(recipe.data, value) == getattr(plain.data, value), (name, value)
        if name == "san":
            assert recipe.losses == plain.losses and recipe.generator == plain.generator


def test_the_shipped_san_is_the_papers_and_the_baseline_its_own():
    san, baseline = (read_recipe_file(name, Recipe()) for name in ("san", "baseline"))
    own = Recipe(model=ModelRecipe(weights="imagenet"), training=TrainingRecipe(method="san"))
    assert san == own
    assert baseline == replace(own, training=TrainingRecipe(method="baseline"))


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--lr", "--learning_rate?"),
        ("--bs", "--identities_per_batch or --images_per_identity?"),
        ("--batch-size", "--identities_per_batch or --images_per_identity?"),
        ("--wd", "--weight_decay?"),
        ("--gpus", "--strategy?"),
        ("--optim", "--optimizer?"),
        ("--arch", "--backbone?"),
        ("--resnet50", "--backbone?"),
        ("--Learning-Rate=3", "--learning_rate?"),
        ("--learnin_rate", "--learning_rate?"),
        ("--identity", "--lambda_identity"),
        ("--xyzzy", "see --help"),
        ("--q", "see --help"),
    ],
)
def test_did_you_mean_means_it(flag: str, meant: str):
    with pytest.raises(UserError) as error:
        parsed(flag, "3")
    assert str(error.value).startswith(f"There is no flag {flag}; ") and meant in str(error.value)


def test_every_synonym_means_something_of_a_recipe_or_a_run(tmp_path: Path):
    known = {*hints(), "workdir", "data_dir", "manual_dir", "strategy", "stage", "config"}
    for names, meant in command_line._SYNONYMS.items():
        assert set(meant) <= known and not set(names) & known, names
        assert nearest(names[0], known) == list(meant)
    file = tmp_path / "mine.yaml"
    file.write_text("training: {lr: 3}")
    with pytest.raises(UserError, match="did you mean learning_rate"):
        parsed("--config", str(file))


def test_flags_stand_in_groups(capsys):
    with pytest.raises(SystemExit):
        parse("synthetic", "", Recipe(), STAGES, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    groups = [line[:-1] for line in lines if line.endswith(":") and line[:1].isalpha()]
    assert groups[-7:] == ["data", "model", "losses", "training", "generator", "evaluation", "run"]
    assert "--baseline" not in "".join(lines)


def test_what_is_trained_is_chosen_by_one_flag():
    assert Recipe().training.method == "both" and Recipe().with_decoder
    alone = parsed("--method", "baseline")
    assert not alone.with_decoder and not alone.needs_pairs and not alone.with_generator
    # Square images go with an encoder alone.
    parsed("--method", "baseline", "--image_size", "256", "256")
    started = parsed("--method", "baseline", "--start", "texture-generator")
    assert started.with_generator and started.needs_pairs and not started.with_decoder
    with pytest.raises(UserError, match="use --method baseline"):
        parsed("--method", "san", "--lambda_reconstruction", "0", "--lambda_texture_triplet", "0")
    with pytest.raises(UserError, match="leave one of the two out"):
        parsed("--start", "texture-generator", "--textures", "folder")
    with pytest.raises(UserError, match="milestones are 70 40"):
        parsed("--milestones", "70", "40")


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (["--baseline", "false"], "san"),
        (["--baseline=False"], "san"),
        (["--nobaseline"], "san"),
        (["--baseline", "true"], "both"),
        (["--baseline=false", "--lambda_reconstruction=0", "--lambda_texture_triplet=0"], "baseline"),
    ],
)
def test_the_flag_of_older_versions_still_counts(flags, method, tmp_path: Path):
    assert parsed(*flags).training.method == method
    file = tmp_path / "old.yaml"
    file.write_text("training: {baseline: false, epochs: 3}")
    assert parsed("--config", str(file)).training.method == "san"
    file.write_text("baseline: 3")
    with pytest.raises(UserError, match="baseline must be true or false"):
        parsed("--config", str(file))
    file.write_text("{baseline: true, method: san}")
    with pytest.raises(UserError, match="leave one out"):
        parsed("--config", str(file))
