"""A run directory owns its recipe: what later commands read, what they are refused, what stays as it was."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from san_tf.errors import UserError
from san_tf.experiments import ownership, runner
from san_tf.experiments.experiment import WITH_TEXTURES, Experiment, Stage
from san_tf.experiments.flags import Options, parse
from san_tf.experiments.ownership import Owned, differences, is_own
from san_tf.experiments.recipe import DataRecipe, EvaluationRecipe, Recipe, TrainingRecipe
from san_tf.experiments.recipe_files import updated
from san_tf.experiments.runner import main
from san_tf.experiments.stages.evaluate import evaluations, write_results
from san_tf.file_lock import file_lock
from san_tf.training.run_directory import RunDirectory

RECIPE = Recipe(data=DataRecipe(dataset="custom/names"), training=TrainingRecipe(epochs=6))
NAMES = [stage.name for stage in WITH_TEXTURES]


@dataclass(frozen=True)
class Quick(Stage):
    """A stage that leaves what the real one leaves, in no time."""

    def work(self, experiment: Experiment) -> None:
        run, recipe = experiment.run, experiment.recipe
        if self.name == "train":
            folder = run.checkpoints("train/san").folder
            done = max((int(path.stem) for path in folder.glob("*.safetensors")), default=0)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{recipe.training.epochs}.safetensors").write_text("weights")
            experiment.say(f"trained from epoch {done} to {recipe.training.epochs}")
        if self.name == "evaluate":
            run.write_results({"experiment": experiment.name, "recipe": asdict(recipe)})
        if experiment.options.panels == 3:  # any flag that decides nothing
            raise UserError(f"{self.name} failed.")


STAGES = [Quick(stage.name, stage.parts) for stage in WITH_TEXTURES]
Command = Callable[..., tuple[int, str, str]]


def run_command(workdir: Path, *flags: str, name: str = "custom", recipe: Recipe = RECIPE) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as leaving:
        patch.setattr("san_tf.experiments.readiness.check_readiness", lambda *_: None)
        patch.setattr(runner, "import_tensorflow", lambda **_: None)
        main(name, "", recipe, STAGES, [f"--workdir={workdir}", *flags])
    return int(leaving.value.code or 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every stage was done, with `--folder /a`."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    assert run_command(workdir, "--folder=/a") == 0
    return workdir


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs an experiment of quick stages in the run directory `run`; gives exit code, screen and error."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, **chosen: Any) -> tuple[int, str, str]:
        code = run_command(Path("run"), *flags, **chosen)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def again(command: Command, finished: Path, tmp_path: Path) -> Command:
    """Like `command`, in a copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")
    return command


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recipe_in(folder: Path) -> dict:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def results_in(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["recipe"]


def test_later_stages_need_no_flag_repeated_and_write_the_runs_own_recipe(command: Command, tmp_path: Path):
    assert command("--folder=a", "--epochs=2", "--seed=3", "--stage", "prepare", "train")[0] == 0
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    assert command("--stage", "evaluate", "export")[0] == 0
    results = results_in(tmp_path / "run")
    assert (results["training"]["epochs"], results["seed"]) == (2, 3)
    assert results["data"]["folder"] == str(tmp_path / "a")
    assert command()[0] == 0  # the stages that are left
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    code, out, _ = command()
    assert code == 0 and out.count("done already") == len(STAGES)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--stage=evaluate", "--epochs=50"], ["--epochs", "6", "50"]),
        (["--stage", "evaluate", "export", "--seed=7"], ["--seed", "0", "7"]),
        (["--stage=export", "--learning_rate=0.1"], ["--learning_rate", "0.0008", "0.1"]),
        (["--stage=report", "--lambda_triplet=9"], ["--lambda_triplet", "1.5", "9"]),
        (["--stage=evaluate", "--precision=mixed_float16"], ["--precision", "float32", "mixed_float16"]),
        (["--stage=evaluate", "--head=fc512"], ["--head", "plain", "fc512"]),
        (["--stage=train", "--learning_rate=0.1"], ["--learning_rate"]),
        (["--stage=texture-generator", "--generator_epochs=1"], ["--generator_epochs", "60", "1"]),
        (["--stage", "evaluate", "export", "--folder=b"], ["--folder", "/a", "/b", "only --stage evaluate"]),
        (["--folder=b"], ["--folder", "/a", "/b"]),
        (["--epochs=3"], ["--epochs", "6", "3"]),
        (["--config=other.yaml", "--stage=evaluate"], ["--epochs", "6", "320"]),
        (["--pit=pit/smoke", "--stage=evaluate"], ["--pit", "pit/tiny", "pit/smoke"]),
        (["--find_learning_rate", "--stage=train", "--flip=0.1"], ["--flip", "0.5", "0.1"]),
    ],
)
def test_what_contradicts_the_run_is_refused_by_name_and_changes_nothing(
    again: Command, tmp_path: Path, flags: list[str], named: list[str]
):
    # The values of `Recipe`: equal to a default is not the same as not given.
    (tmp_path / "other.yaml").write_text("epochs: 320\n")
    before = contents(tmp_path / "run")
    code, _, error = again(*flags)
    assert code == 2
    assert error.startswith("Error: ") and error.count("\n") == 1
    assert all(name in error for name in named), error
    assert contents(tmp_path / "run") == before


def test_flags_that_say_what_the_run_says_are_no_contradiction(again: Command, tmp_path: Path):
    (tmp_path / "same.yaml").write_text("epochs: 6\n")
    for folder in ("/a", os.path.relpath("/a"), "/b/../a"):
        assert again(f"--folder={folder}", "--config=same.yaml", "--seed=0")[0] == 0
    # A flag wins over the file, so what the file says does not count.
    (tmp_path / "same.yaml").write_text("epochs: 50\n")
    assert again("--config=same.yaml", "--epochs=6")[0] == 0


@pytest.mark.parametrize("stages", [("evaluate",), ("prepare", "evaluate", "report")])
def test_a_trained_run_is_tested_on_other_images(again: Command, tmp_path: Path, stages: tuple[str, ...]):
    before = contents(tmp_path / "run")
    flags = ["--folder=b", "--pattern=(?P<identity>.).*", "--metric=cosine", "--check_counts=false"]
    assert again("--stage", *stages, *flags)[0] == 0
    after = contents(tmp_path / "run")
    for name in ("recipe.yaml", "stages/train.json", "checkpoints/train/san/6.safetensors"):
        assert after[name] == before[name]
    results = results_in(tmp_path / "run")
    assert results["data"] == recipe_in(tmp_path / "run")["data"]
    tested = results["evaluation"]
    assert tested["test_folder"] == str(tmp_path / "b")
    assert (tested["metric"], tested["test_check_counts"]) == ("cosine", False)
    # The run's own command is as good as ever, and evaluates the run's own images again.
    code, out, _ = again("--folder=/a")
    assert code == 0 and "1/7 prepare  done already" in out and "4/7 train  done already" in out
    assert results_in(tmp_path / "run")["evaluation"]["test_folder"] is None


def test_another_data_set_and_experiment_may_test_a_run_and_not_train_it(command: Command, tmp_path: Path):
    other = dataclasses.replace(RECIPE, data=DataRecipe(dataset="market1501"))
    assert command(name="market", recipe=other)[0] == 0
    assert command("--stage", "prepare", "evaluate", "--folder=mine")[0] == 0
    results = results_in(tmp_path / "run")
    assert results["data"]["dataset"] == "market1501" and results["data"]["folder"] is None
    assert results["evaluation"]["test"] == ["custom/names"]
    assert results["evaluation"]["test_folder"] == str(tmp_path / "mine")
    for flags in (["--folder=mine"], ["--stage=train"], []):
        code, _, error = command(*flags)
        assert code == 2 and "a run of the experiment market, not of custom" in error
    # A folder that no test set reads is not silently left out.
    code, _, error = command("--stage=evaluate", "--folder=mine", name="market", recipe=other)
    assert code == 2 and "add --test custom/names" in error


def test_a_longer_training_goes_on_where_its_first_steps_are_the_same(command: Command, tmp_path: Path):
    assert command("--folder=a", "--stage", "prepare", "train", "evaluate", "export")[0] == 0
    code, out, _ = command("--epochs=12")
    assert code == 0
    assert "epochs were 6 and are 12: training continues" in out and "from epoch 6 to 12" in out
    assert recipe_in(tmp_path / "run")["training"]["epochs"] == 12
    assert results_in(tmp_path / "run")["training"]["epochs"] == 12, "what the 6 gave is measured anew"
    assert command()[1].count("done already") == len(STAGES)
    # By name too; and not by a stage that does not train.
    assert command("--epochs=14", "--stage=train")[0] == 0
    assert command("--epochs=16", "--stage=evaluate")[0] == 2


@pytest.mark.parametrize(
    "flags", [["--schedule=cosine"], ["--validation_identities=2", "--validate_every=4"]]
)
def test_a_longer_training_that_would_have_begun_otherwise_starts_anew_and_elsewhere(
    command: Command, tmp_path: Path, flags: list[str]
):
    assert command("--folder=a", *flags)[0] == 0
    before = contents(tmp_path / "run")
    for asked in ([], ["--stage=train"]):
        code, _, error = command("--epochs=12", *asked)
        assert code == 2 and "6" in error and "12 needs a new training; give it another --workdir" in error
    assert contents(tmp_path / "run") == before


def test_what_no_stage_has_used_may_be_changed_and_is_told(command: Command, tmp_path: Path):
    assert command("--folder=a", "--epochs=3", "--stage=prepare")[0] == 0
    code, out, _ = command("--epochs=4", "--folder=b", "--stage", "prepare", "train")
    assert code == 0 and "epochs was 3" in out and "is 4 from now on" in out
    assert recipe_in(tmp_path / "run")["training"]["epochs"] == 4
    assert command("--epochs=5", "--stage=train", "--schedule=cosine")[0] == 2


def test_a_first_command_that_fails_leaves_nothing(command: Command, tmp_path: Path):
    code, _, error = command("--folder=a", "--panels=3")
    assert code == 2 and error == "Error: prepare failed.\n"
    assert not (tmp_path / "run").exists()
    assert command("--folder=b", "--epochs=2", "--stage=prepare")[0] == 0
    before = contents(tmp_path / "run")
    assert command("--folder=c", "--stage=prepare", "--panels=3")[0] == 2
    assert contents(tmp_path / "run") == before


def test_a_later_command_that_fails_changes_nothing(again: Command, tmp_path: Path):
    before = contents(tmp_path / "run")
    for stage in ("prepare", "texture-generator", "evaluate", "export", "report"):
        if stage != "evaluate":  # the quick stage writes its results before it fails
            assert again(f"--stage={stage}", "--panels=3", "--metric=cosine")[0] == 2
            assert contents(tmp_path / "run") == before, stage


@pytest.mark.parametrize(
    "flags", [(), ("--stage=pseudo-textures", "--images=/crops"), ("--stage=train", "--find_learning_rate")]
)
def test_whatever_works_in_a_run_keeps_the_others_out(again: Command, tmp_path: Path, flags: tuple[str, ...]):
    # The lock is of the open file, so that one process can stand for two.
    with file_lock(tmp_path / "run" / ".lock") as mine:
        before = contents(tmp_path / "run")
        code, out, err = again(*flags)
        assert mine and contents(tmp_path / "run") == before
    assert (code, out) == (2, "") and "run is in use by process" in err and "--workdir" in err


def test_the_folder_of_data_sets_is_remembered(command: Command, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert command("--folder=a", "--data_dir=sets")[0] == 0
    argv = ["--workdir=run", "--stage=evaluate"]
    assert parse("custom", "", RECIPE, NAMES, argv)[0].data_dir == str(tmp_path / "sets")
    assert parse("custom", "", RECIPE, NAMES, [*argv, "--data_dir=x"])[0].data_dir == "x"
    monkeypatch.setenv("TFDS_DATA_DIR", "here")
    assert parse("custom", "", RECIPE, NAMES, argv)[0].data_dir == "here"


def test_markers_count_more_than_a_recipe_that_an_older_version_rewrote(again: Command, tmp_path: Path):
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(path.read_text().replace("epochs: 6", "epochs: 50"))
    owned = Owned.read(tmp_path / "run", RECIPE)
    assert owned is not None and owned.recipe.training.epochs == 6
    code, out, _ = again("--stage=evaluate")
    assert code == 0
    assert "says epochs 50, but the run was made with 6, so 6 is used" in " ".join(out.split())
    assert results_in(tmp_path / "run")["training"]["epochs"] == 6
    # Without the file the markers are enough, and with neither there is no recipe.
    path.unlink()
    assert again("--stage=evaluate")[0] == 0
    assert results_in(tmp_path / "run")["training"]["epochs"] == 6
    assert recipe_in(tmp_path / "run")["training"]["epochs"] == 6
    shutil.rmtree(tmp_path / "run" / "stages")
    path.unlink()
    assert Owned.read(tmp_path / "run", RECIPE) is None


def test_a_run_of_an_older_version_lacks_new_values(again: Command, tmp_path: Path):
    old = recipe_in(tmp_path / "run")
    del old["evaluation"]["test_folder"], old["training"]["ema"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(old))
    for path in (tmp_path / "run" / "stages").iterdir():
        marker = json.loads(path.read_text())
        for part, name in (("evaluation", "test_folder"), ("training", "ema")):
            marker["fields"].get(part, {}).pop(name, None)
        path.write_text(json.dumps(marker))
    code, out, _ = again()
    assert code == 0 and out.count("done already") == len(STAGES)


@pytest.mark.parametrize(("baseline", "method", "other"), [(True, "both", "san"), (False, "san", "both")])
def test_the_method_of_a_run_of_an_older_version_is_its_baseline(
    again: Command, tmp_path: Path, baseline: bool, method: str, other: str
):
    old = recipe_in(tmp_path / "run")
    old["training"]["baseline"] = baseline
    del old["training"]["method"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(old))
    for path in (tmp_path / "run" / "stages").iterdir():
        marker = json.loads(path.read_text())
        if marker["fields"].get("training", {}).pop("method", None):
            marker["fields"]["training"]["baseline"] = baseline
        path.write_text(json.dumps(marker))
    code, out, _ = again(f"--method={method}")
    assert code == 0 and out.count("done already") == len(STAGES)
    code, _, error = again(f"--method={other}")
    assert code == 2 and f"--method was {method} and is now {other}" in error


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("recipe.yaml", "epochs: [", "recipe.yaml is not YAML"),
        ("recipe.yaml", "epoch: 3", "'epoch'"),
        ("recipe.yaml", "- 3", "named values"),
        ("stages/train.json", "{", "delete it to run the stage again"),
        ("stages/train.json", "[]", "delete it to run the stage again"),
        ("stages/train.json", '{"done": true, "fields": 3}', "delete it to run the stage again"),
        ("stages/train.json", '{"done": true, "fields": {"training": {"epochs": "x"}}}', "a whole number"),
    ],
)
def test_a_damaged_run_is_named(again: Command, tmp_path: Path, name: str, text: str, named: str):
    (tmp_path / "run" / name).write_text(text)
    code, _, error = again("--stage=evaluate")
    assert code == 2 and named in error and error.count("\n") == 1


def test_tested_data_and_differences_by_hand():
    recipe = updated(RECIPE, {"folder": "/a", "pattern": "x"}, "x")
    assert is_own(recipe, "custom/names") and not is_own(recipe, "market1501")
    elsewhere = updated(recipe, {"test_folder": "/b"}, "x")
    assert ownership.tested_data(elsewhere, "custom/names").folder == "/b"
    assert ownership.tested_data(elsewhere, "custom/names").pattern == "x"
    # The pattern is of the training's names; another way to read them is not overruled by it.
    assert ownership.tested_data(elsewhere, "custom/folders").pattern is None
    assert not is_own(elsewhere, "custom/names")
    former = {"training": {"epochs": 2, "gone": 1}}
    assert differences(former, {"training": TrainingRecipe(epochs=2)}) == {}
    averaged = TrainingRecipe(epochs=2, ema=0.9)
    assert differences(former, {"training": averaged}) == {"training.ema": (0.0, 0.9)}
    assert differences({"a": 1}, {"a": 2, "b": None}) == {"a": (1, 2)}


def test_every_evaluation_of_the_weights_is_kept_with_its_settings(tmp_path: Path):
    run = RunDirectory(tmp_path / "run")
    weights = tmp_path / "run" / "weights"
    weights.mkdir()

    def evaluated(score: float, **settings: Any) -> list[tuple[str, list[Any]]]:
        recipe = dataclasses.replace(RECIPE, evaluation=EvaluationRecipe(**settings))
        write_results(Experiment("custom", recipe, Options(str(run.path)), run), [{"mAP": score}])
        return list(evaluations(json.loads(run.results_path.read_text())))

    (weights / "san_encoder.weights.h5").write_text("weights")
    assert evaluated(0.1) == [("as by default", [{"mAP": 0.1}])]
    assert evaluated(0.2, flip_average=True)[1:] == [("as by default", [{"mAP": 0.1}])]
    # The newest of the same settings, and nothing of the rest is lost.
    assert evaluated(0.3, test=("custom/names",), test_folder="/b") == [
        ("with --test custom/names --test_folder /b", [{"mAP": 0.3}]),
        ("with --flip_average True", [{"mAP": 0.2}]),
        ("as by default", [{"mAP": 0.1}]),
    ]
    kept = evaluated(0.4)
    assert [rows[0]["mAP"] for _, rows in kept] == [0.4, 0.3, 0.2]
    # What a version before has left is of the trainings that it names.
    former = json.loads(run.results_path.read_text())
    run.results_path.write_text(json.dumps({key: former[key] for key in ("recipe", "rows", "trained_with")}))
    assert [rows[0]["mAP"] for _, rows in evaluated(0.5, normalize=False)] == [0.5, 0.4]
    # Other weights: what was measured on the former ones is not theirs.
    (weights / "san_encoder.weights.h5").write_text("trained longer")
    assert evaluated(0.6, flip_average=True) == [("with --flip_average True", [{"mAP": 0.6}])]
    run.results_path.write_text("{")
    assert evaluated(0.7) == [("as by default", [{"mAP": 0.7}])]
    assert (run.path / "results.damaged.json").read_text() == "{"
