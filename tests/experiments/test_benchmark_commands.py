"""What the benchmarks' commands say: help, mistakes, missing and damaged data, equality with `synthetic`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_runs import DATASETS, LIGHT, MODULES

from san_tf.data.builders import find_builder
from san_tf.data.records import Records
from san_tf.experiments import custom, duke, market, synthetic
from san_tf.experiments.flags import Options
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import read_recipe_file
from san_tf.layouts.benchmark_preparation import open_benchmark
from san_tf.synthesis.generator import export_market

Run = Callable[..., int]


def test_damaged_images_and_wrong_numbers(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manual = tmp_path / "manual"
    shutil.copytree(DATASETS / "market1501" / "dummy_data", manual)
    image = manual / "Market-1501-v15.09.15" / "bounding_box_train" / "0002_c1s1_000453_03.jpg"
    image.write_bytes(image.read_bytes()[:200])
    places = [f"--data_dir={tmp_path / 'data'}", "--stage=prepare", "--lambda_reconstruction=0"]
    places += ["--lambda_texture_triplet=0"]

    def prepare(*flags: str) -> tuple[int, str, str]:
        code = run(market, tmp_path / "run", *places, *flags, manual_dir=manual)
        said = capsys.readouterr()
        return code, said.out, said.err.strip().splitlines()[-1] if code else ""

    code, _, message = prepare("--check_counts=true")
    assert code == 2
    assert "12,936 are published" in message
    # Nothing was made, so the same run directory takes the flags that the sentence asks for.
    code, _, message = prepare()
    assert code == 2
    assert message.startswith("Error: ") and image.name in message
    code, told, _ = prepare("--skip_corrupt")
    assert code == 0
    assert "1 damaged images were left out" in " ".join(told.split())
    # Another data set, under another name: nobody takes it for the benchmark.
    skipped = list((tmp_path / "data" / "market1501").glob("*skip_corrupt*/*/skipped.txt"))
    assert image.name in skipped[0].read_text()


def test_prepare_says_what_it_took_and_makes_damaged_data_anew(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = shutil.copytree(DATASETS / "custom" / "dummy_data" / "folders", tmp_path / "people")
    (folder / "train" / "person 2" / "drawing.xcf").touch()
    places = [f"--data_dir={tmp_path / 'data'}", "--dataset=custom/folders", f"--folder={folder}"]
    places += ["--stage=prepare", "--lambda_reconstruction=0", "--lambda_texture_triplet=0"]

    def prepare() -> str:
        assert run(custom, tmp_path / "run", *places) == 0
        return capsys.readouterr().out

    told = prepare()
    assert "train: 4 images of 2 identities by unknown cameras\n" in told
    assert "left out: 1 .xcf\n" in told and "10 of 10 images have no camera" in told
    assert "Warning" not in told and "anew" not in told
    (info,) = (tmp_path / "data" / "custom").rglob("dataset_info.json")
    info.write_text("{")
    assert f"{info} is damaged; custom/folders is made anew" in prepare()
    records = next(info.parent.glob("*train*"))
    records.write_bytes(records.read_bytes()[:-1])
    told = prepare()
    assert f"{records} is damaged; it is built again" in told
    assert "train: 4 images of 2 identities" in told


def test_market_on_an_exported_folder_is_the_synthetic_data_set(run: Run, smoke_data: Path, tmp_path: Path):
    export_market("smoke", tmp_path / "manual" / "Market-1501-v15.09.15", processes=1, progress=False)
    flags = ["--stage=prepare", "--lambda_reconstruction=0", "--lambda_texture_triplet=0"]
    places = [f"--data_dir={tmp_path / 'data'}", *flags]
    assert run(market, tmp_path / "run", *places, manual_dir=tmp_path / "manual") == 0
    exported = open_benchmark("market1501", tmp_path / "data", check_counts=False)
    rendered = find_builder("synthetic_reid", "smoke", smoke_data)
    # Same records in the same order: the two experiments see the same batches and give the same numbers.
    for split in ("train", "query", "gallery"):
        ours, theirs = (Records.from_tfds(builder, split, verify=False) for builder in (exported, rendered))
        for column in ("images", "pids", "camids", "filenames"):
            np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))


def test_the_light_recipe_is_that_of_the_synthetic_experiment():
    light = read_recipe_file(str(LIGHT), market.RECIPE)
    data = dataclasses.replace(light.data, dataset=synthetic.RECIPE.data.dataset)
    assert dataclasses.replace(light, data=data) == synthetic.RECIPE


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_missing_files_are_one_sentence_and_leave_nothing(
    run: Run, module: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    empty, data = tmp_path / "empty", tmp_path / "data"
    empty.mkdir()
    flags = [f"--folder={empty}"] if module is custom else []
    flags += [f"--data_dir={data}", "--stage=prepare"]
    assert run(module, tmp_path / "run", *flags, manual_dir=empty) == 2
    said = capsys.readouterr()
    message = said.err.strip()
    assert message.startswith("Error: ") and "\n" not in message
    assert str(empty) in message
    if module is duke:
        assert "withdrawn by its authors" in " ".join(said.out.split())
    # TFDS notes configurations that it has not met before; there are no data.
    assert {path.name for path in data.rglob("*") if path.is_file()} <= {"metadata.json"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_help_tells_cost_score_and_command_and_every_flag(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as leaving:
        module.main(["--help"])
    assert leaving.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    name = module.__name__
    for told in (f"Command: python -m {name} ", "Expected: ", "Cost: ", "Data: "):
        assert told in text, told
    flags = {field.name for field in dataclasses.fields(Options)} | {"config", "seed"}
    for part in dataclasses.fields(Recipe):
        if dataclasses.is_dataclass(value := getattr(module.RECIPE, part.name)):
            flags |= {field.name for field in dataclasses.fields(value)}
    assert not [flag for flag in flags if f"--{flag} " not in text]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--texture_layout=other"], "--generator_weights"),
        (["--texture_layout=other", "--textures=x", "--pit_per_batch=4"], "--pit_per_batch 0"),
        (["--textures=x", "--generator_weights=y"], "one of the two"),
        (["--generator_weights=absent.weights.h5", "--stage=texture-generator"], "absent.weights.h5"),
        (["--test", "market1502", "--stage=prepare"], "'market1502'"),
        (["--train", "market1501/v3", "--stage=prepare"], "'v3'"),
        (["--protocol=classic"], "classic"),
        (["--repeats=0"], "repeats is 0"),
        (["--protocol=vehicleid", "--rerank"], "--rerank"),
        (["--image_size", "64", "64"], "twice the width"),
        (["--split=1"], "--split"),
    ],
)
def test_wrong_flags(run: Run, tmp_path: Path, flags, named, capsys: pytest.CaptureFixture[str]):
    assert run(market, tmp_path, *flags) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("Error: ") and named in message, message


def test_names_that_yaml_takes_for_true_and_numbers_without_a_point_are_read_as_people_mean_them(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {learning_rate: 1e-3}\nevaluation:\n  on: validation\n")
    recipe = read_recipe_file(str(path), market.RECIPE)
    assert (recipe.training.learning_rate, recipe.evaluation.on) == (0.001, "validation")
