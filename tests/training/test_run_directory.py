"""The run directory: what is written where, which stages are done, and places that cannot be written."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml

from san_tf.errors import UserError
from san_tf.training.metrics_table import MetricsTable
from san_tf.training.run_directory import RunDirectory


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
    assert not run.is_done("train", fields)
    run.begin("train", fields)
    assert not run.is_done("train", fields)  # begun, not done
    run.begin("train", fields)  # after an interruption
    run.mark_done("train", images=np.int64(7))
    again = RunDirectory(tmp_path)
    assert again.is_done("train", fields)
    assert again.is_done("train")
    assert not again.is_done("export", fields)
    marker = json.loads((tmp_path / "stages" / "train.json").read_text())
    assert marker["facts"] == {"images": 7}
    assert 0 <= again.seconds("train") < 5


@pytest.mark.parametrize("finished", [False, True])
def test_stage_of_another_recipe_is_refused_by_the_name_of_the_value(tmp_path: Path, finished: bool) -> None:
    run = RunDirectory(tmp_path)
    run.begin("train", {"model": Model(), "epochs": 20})
    if finished:
        run.mark_done("train")
    changed = {"model": Model(head="fc512"), "epochs": 30, "new": 1}
    expected = (
        rf"^Stage train in {tmp_path} belongs to another recipe \(model\.head was 'plain', is 'fc512', "
        r"epochs was 20, is 30, new was None, is 1\); choose another --workdir"
    )
    with pytest.raises(UserError, match=expected):
        run.is_done("train", changed)
    with pytest.raises(UserError, match=expected):
        run.begin("train", changed)
    run.reset("train")
    assert not run.is_done("train", changed)
    run.begin("train", changed)


def test_reset_forgets_one_stage_only(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for stage in ("train", "texture-generator"):
        run.begin(stage)
        run.mark_done(stage)
        run.metrics.append(stage, 1, 10, {"loss": 1.0})
        for folder in (run.checkpoints(stage).folder, run.tensorboard(stage)):
            folder.mkdir(parents=True)
            (folder / "file").write_text("")
    run.reset("train")
    assert not run.is_done("train")
    assert run.metrics.rows("train") == []
    assert not run.checkpoints("train").folder.exists()
    assert not run.tensorboard("train").exists()
    assert run.is_done("texture-generator")
    assert len(run.metrics.rows()) == 1
    assert (run.checkpoints("texture-generator").folder / "file").exists()
    assert (run.tensorboard("texture-generator") / "file").exists()


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
    with pytest.raises(UserError, match=r"figures cannot be made"):
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
    with pytest.raises(UserError, match=r"metrics\.csv is no table of metrics"):
        MetricsTable(tmp_path / "metrics.csv").append("train", 1, 1, {})
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read"):
        MetricsTable(tmp_path / "metrics.csv").rows()
