"""The run directory: what is written where, which stages are done, and places that cannot be written."""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from san_tf.errors import UserError
from san_tf.training.run_directory import MetricsTable, RunDirectory


@dataclass(frozen=True)
class Model:
    head: str = "plain"
    weights: tuple[float, ...] = (0.5, 1.5)


@dataclass(frozen=True)
class Recipe:
    seed: int = 3
    model: Model = field(default_factory=Model)
    folder: Path = Path("data")


def test_recipe_and_environment(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "deep" / "run")
    run.write_recipe(Recipe())
    assert yaml.safe_load(run.recipe_path.read_text()) == {
        "seed": 3,
        "model": {"head": "plain", "weights": [0.5, 1.5]},
        "folder": "data",
    }
    assert run.recipe_path.read_text().startswith("seed: 3\n")  # in the order of the fields
    environment = json.loads((run.path / "environment.json").read_text())
    import tensorflow as tf

    assert environment["tensorflow"] == tf.__version__
    assert environment["seed"] == 3
    assert environment["command"][1:] == sys.argv


def test_results_take_numpy_values(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    rows = [{"method": "SAN", "mAP": np.float32(0.5), "cmc": np.array([1, 2])}]
    run.write_results({"rows": rows, "place": tmp_path})
    assert json.loads(run.results_path.read_text()) == {
        "rows": [{"method": "SAN", "mAP": 0.5, "cmc": [1, 2]}],
        "place": str(tmp_path),
    }


def test_stages_are_done_once(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    fields = {"model": Model(), "size": (256, 128)}
    assert not run.is_done("train") and run.made_with("train") is None
    run.begin("train", fields)
    assert not run.is_done("train")  # begun, not done
    run.begin("train", fields)  # after an interruption
    run.mark_done("train", images=np.int64(7))
    again = RunDirectory(tmp_path)
    assert again.is_done("train")
    assert again.made_with("train") == {"model": {"head": "plain", "weights": [0.5, 1.5]}, "size": [256, 128]}
    assert not again.is_done("export")
    assert again.facts("train") == {"images": 7}
    # Each process that worked on it is noted.
    assert [noted["command"][1:] for noted in again.environments("train")] == [sys.argv] * 2
    assert 0 <= again.seconds("train") < 5


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish(run: RunDirectory, stage: str, part: str = "") -> None:
    """Leave what a finished training leaves."""
    with run.attempt(stage, {"epochs": 2}):
        run.metrics.append(stage + part, 1, 10, {"loss": 1.0})
        for folder in (run.checkpoints(stage + part).folder, run.tensorboard(stage + part)):
            folder.mkdir(parents=True)
            (folder / "step_00000010.safetensors").write_text(stage)
    run.mark_done(stage)


@pytest.mark.parametrize("anew", [False, True])
def test_a_stage_that_fails_before_it_saves_changes_nothing(tmp_path: Path, anew: bool) -> None:
    run = RunDirectory(tmp_path)
    finish(run, "train", "/san")
    before = content_of(tmp_path)
    with pytest.raises(ZeroDivisionError), run.attempt("train", {"epochs": 3}, anew):
        assert not run.is_done("train")
        assert run.checkpoints("train/san").folder.exists() is not anew
        run.metrics.append("train/san", 2, 20, {"loss": 2.0})
        _ = 1 / 0
    assert content_of(tmp_path) == before
    with pytest.raises(ZeroDivisionError), run.attempt("export", {}):
        _ = 1 / 0
    assert content_of(tmp_path) == before


def test_a_stage_that_fails_after_it_saved_goes_on_from_there(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    finish(run, "train", "/san")
    with pytest.raises(ZeroDivisionError), run.attempt("train", {"epochs": 3}, anew=True):
        run.checkpoints("train/san").folder.mkdir(parents=True)
        (run.checkpoints("train/san").folder / "step_00000005.safetensors").write_text("new")
        _ = 1 / 0
    assert run.made_with("train") == {"epochs": 3} and not run.is_done("train")
    assert [path.name for path in (tmp_path / "checkpoints").rglob("*.safetensors")] == [
        "step_00000005.safetensors"
    ]
    assert run.metrics.rows("train/san") == []


def test_a_stage_anew_leaves_the_others_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for stage in ("train", "texture-generator"):
        finish(run, stage)
    with run.attempt("train", {}, anew=True):
        pass
    assert run.metrics.rows("train") == []
    assert not run.checkpoints("train").folder.exists()
    assert not run.tensorboard("train").exists()
    assert run.is_done("texture-generator")
    assert len(run.metrics.rows()) == 1
    for folder in (run.checkpoints("texture-generator").folder, run.tensorboard("texture-generator")):
        assert (folder / "step_00000010.safetensors").exists()
    assert not list(tmp_path.rglob(".*")), "nothing that was put aside is left"


HOLD = """
import sys, time
from san_tf.file_lock import file_lock  # what `held` takes; it imports no TensorFlow
with file_lock(sys.argv[1] + "/.lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_works_in_a_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        expected = rf"in use by process {holder.pid} on {re.escape(socket.gethostname())} since 20"
        with pytest.raises(UserError, match=expected), run.held():
            pass
        assert run.path.is_dir(), "who is kept out removes nothing"
        holder.kill()
        holder.wait()
        with run.held():
            assert (run.path / ".lock").is_file()
    finally:
        holder.kill()
        holder.wait()
    assert list(run.path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), run.held():
        (run.path / "stages").mkdir()
        _ = 1 / 0
    assert not run.path.exists(), "a first command that fails leaves no empty folders"


def test_damaged_marker_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.begin("train")
    (tmp_path / "stages" / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"stages/train\.json cannot be read .* delete it"):
        run.is_done("train")


def unwritable_places(tmp_path: Path) -> list[Path]:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "run"]
    # Permissions do not bind root, but nobody makes folders here.
    return places + ([Path("/proc/san_tf_run"), Path("/proc")] if Path("/proc/self").exists() else [])


def test_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    for place in unwritable_places(tmp_path):
        with pytest.raises(UserError, match=rf"^The run directory {place} cannot be written .*--workdir\.$"):
            RunDirectory(place)
    assert (tmp_path / "file").read_text() == ""


def test_file_in_the_way_inside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "figures").write_text("")
    (tmp_path / "stages").write_text("")
    with pytest.raises(UserError, match=r"figures cannot be created"):
        _ = run.figures
    with pytest.raises(UserError, match=r"cannot be (read|written)"):
        run.begin("train")
    assert run.saved_model.is_dir()


def test_rows_of_stages_with_different_columns(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.append("texture-generator", 1, 10, {"loss": 0.5, "rec_loss": 0.25})
    table.append("train", 1, 40, {"loss": 2.5, "mAP": 1 / 3})
    with table.path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["stage", "epoch", "step", "loss", "rec_loss", "mAP"],
        ["texture-generator", "1", "10", "0.5", "0.25", ""],
        ["train", "1", "40", "2.5", "", "0.33333333"],
    ]
    assert table.series("train", "mAP") == [(40, pytest.approx(1 / 3))]
    assert table.series("train", "rec_loss") == []
    assert table.series("train", "unheard of") == []


def test_rows_are_replaced_and_dropped_not_repeated(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.drop("train", 0)
    assert not table.path.exists()
    for epoch in (1, 2, 3):
        table.append("other", epoch, epoch * 10, {"loss": 9})
        table.append("train", epoch, epoch * 10, {"loss": epoch})
    table.append("train", 2, 20, {"loss": 7})
    assert table.series("train", "loss") == [(10, 1.0), (20, 7.0)]
    table.drop("train", after_step=10)
    assert table.series("train", "loss") == [(10, 1.0)]
    assert len(table.rows("other")) == 3


def test_foreign_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"metrics\.csv is not a table of metrics"):
        MetricsTable(tmp_path / "metrics.csv").append("train", 1, 1, {})
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read"):
        MetricsTable(tmp_path / "metrics.csv").rows()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"rows": []}', '{"rows": 3}', "null"])
def test_damaged_results_are_told_and_a_damaged_environment_begins_anew(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path / "run")
    assert run.results() == {}
    run.write_results({"rows": [{"mAP": 0.5}]})
    assert run.results() == {"rows": [{"mAP": 0.5}]}
    run.results_path.write_text(content)
    with pytest.raises(UserError, match=r"results.json is damaged .*; run --stage evaluate again"):
        run.results()
    run.environment_path.write_text(content if content != "{}" else "{,")
    run.note_in_environment(peak_memory_gb=1.5)
    assert json.loads(run.environment_path.read_text())["peak_memory_gb"] == 1.5
