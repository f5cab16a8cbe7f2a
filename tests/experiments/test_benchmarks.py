"""Every benchmark's experiment through all its stages, on drawn images in the published layout."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import cv2
import h5py
import numpy as np
import pytest
import tensorflow as tf

from san_tf.benchmarks.preparation import open_benchmark
from san_tf.data.builders import find_builder
from san_tf.data.records import Records
from san_tf.experiments import cuhk03, custom, duke, market, msmt17, partial_reid, synthetic, veri776
from san_tf.experiments.command_line import Options
from san_tf.experiments.experiment import Stage
from san_tf.experiments.recipe import Recipe
from san_tf.experiments.recipe_files import read_recipe_file
from san_tf.models.backbones import BACKBONES, Backbone
from san_tf.models.layer_factory import LayerFactory, Tensor
from san_tf.models.resnet import ResNetForm
from san_tf.synthesis.generator import export_market
from san_tf.visualization import style

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT / "datasets"
PUBLISHED = ("market1501", "dukemtmc_reid", "cuhk03", "msmt17", "partial_reid", "veri776")
LIGHT = ROOT / "experiments" / "market" / "light.yaml"
TINY = (
    f"--config={LIGHT}",
    "--check_counts=false",
    "--backbone=four_layers",
    "--pit=pit/smoke",
    "--identities_per_batch=2",
    "--images_per_identity=2",
    "--steps_per_epoch=1",
    "--epochs=1",
    "--generator_batch=8",
    "--generator_epochs=1",
    "--sketch=0",
)
Run = Callable[..., int]


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manual folder of somebody who has all benchmarks."""
    folder = tmp_path_factory.mktemp("manual")
    for name in PUBLISHED:
        shutil.copytree(DATASETS / name / "dummy_data", folder, dirs_exist_ok=True)
    return folder


def four_layers(image: Tensor, last_stride: int, _: ResNetForm, factory: LayerFactory) -> list[Tensor]:
    """The smallest network with four stages, of strides 4, 8, 16 and 16."""
    stages = [factory.conv_bn(image, 8, 3, 4, name="stage1")]
    for number, stride in enumerate((2, 2, last_stride), 2):
        stages.append(factory.conv_bn(stages[-1], 8, 3, stride, name=f"stage{number}"))
    return stages


@pytest.fixture(scope="module", autouse=True)
def in_seconds() -> Iterator[None]:
    """Makes each run a matter of seconds: a network of four layers, small figures, and no compilation.

    Compiling the graph of a single step takes most of the time of such runs. What is exported is compiled as
    ever, and `test_synthetic` runs the stages as they are.
    """
    work = Stage.work

    def eager_work(stage: Stage, experiment: object) -> None:
        tf.config.run_functions_eagerly(stage.name != "export")
        try:
            work(stage, experiment)  # type: ignore[arg-type]
        finally:
            tf.config.run_functions_eagerly(False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "work", eager_work)
        patch.setitem(BACKBONES, "four_layers", Backbone(four_layers, imagenet=False, decoder="light"))
        patch.setattr(style, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def run(smoke_data: Path, manual: Path) -> Run:
    """Runs an experiment at the smallest size and returns its exit code."""

    def run(module: ModuleType, workdir: Path, *flags: str, manual_dir: Path = manual) -> int:
        size = ["64", "32"]
        if module is veri776:
            size = ["64", "64", "--lambda_reconstruction=0", "--lambda_texture_triplet=0"]
        places = [f"--workdir={workdir}", f"--data_dir={smoke_data}", f"--manual_dir={manual_dir}"]
        with pytest.raises(SystemExit) as leaving:
            module.main([*places, *TINY, "--image_size", *size, *flags])
        return int(leaving.value.code or 0)

    return run


@pytest.fixture(scope="module")
def market_run(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Market-1501 in which every stage was done."""
    workdir = tmp_path_factory.mktemp("runs") / "market"
    assert run(market, workdir, "--pit_per_batch=2") == 0
    return workdir


def rows_of(workdir: Path) -> list[dict]:
    return json.loads((workdir / "results.json").read_text())["rows"]


def test_market(market_run: Path):
    rows = rows_of(market_run)
    assert [row["method"] for row in rows] == ["SAN", "baseline", "untrained", "colour histogram"]
    assert {(row["test"], row["protocol"]) for row in rows} == {("market1501", "market")}
    for name in ("weights/texture_generator.weights.h5", "saved_model/1/saved_model.pb"):
        assert (market_run / name).stat().st_size > 0
    figures = {path.stem for path in (market_run / "figures").iterdir()}
    assert figures == {"losses", "textures", "cmc", "people", "ranked_lists", "reposed"}
    assert len(list((market_run / "pseudo_textures").glob("*.jpg"))) == 4


@pytest.fixture
def generator(market_run: Path) -> str:
    """The flag that takes Market-1501's texture generator."""
    return f"--generator_weights={market_run / 'weights' / 'texture_generator.weights.h5'}"


@pytest.mark.parametrize(
    ("module", "dataset", "protocol"),
    [(cuhk03, "cuhk03/labeled", "market"), (partial_reid, "partial_reid", "partial")],
)
def test_people_with_the_generator_of_another_run(
    run: Run, generator: str, tmp_path: Path, module: ModuleType, dataset: str, protocol: str
):
    assert run(module, tmp_path, generator, "--baseline=false") == 0
    rows = rows_of(tmp_path)
    assert [row["method"] for row in rows] == ["SAN", "untrained", "colour histogram"]
    assert {(row["test"], row["protocol"]) for row in rows} == {(dataset, protocol)}
    assert (tmp_path / "saved_model" / "1" / "saved_model.pb").is_file()
    assert (tmp_path / "figures" / "reposed.png").is_file()


@pytest.mark.parametrize("module", [duke, msmt17])
def test_people_with_ready_textures(
    run: Run, tmp_path: Path, manual: Path, module: ModuleType, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "textures"
    folder.mkdir()
    flags = [f"--textures={folder}", "--texture_layout=other", "--pit_per_batch=0", "--baseline=false"]
    # The folder is there, its textures are not.
    asked = ["--stage", "prepare", "texture-generator", "pseudo-textures"]
    assert run(module, tmp_path / "run", *flags, *asked) == 2
    assert "no texture for 4 of 4 images" in capsys.readouterr().err
    benchmark = {duke: "DukeMTMC-reID/bounding_box_train", msmt17: "MSMT17_V1/train"}[module]
    for number, image in enumerate((manual / benchmark).rglob("*.jpg")):
        cv2.imwrite(str(folder / image.name), np.full((64, 64, 3), 50 * number, np.uint8))
    assert run(module, tmp_path / "run", *flags) == 0
    assert [row["method"] for row in rows_of(tmp_path / "run")] == ["SAN", "untrained", "colour histogram"]
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert "ranked_lists" in figures
    # No generator was trained here, and textures of another layout do not fit this package's body.
    assert not figures & {"textures", "reposed"}


def test_vehicles_without_decoder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(veri776, tmp_path) == 0
    assert "no human body to paint" in " ".join(capsys.readouterr().out.split())
    assert [row["method"] for row in rows_of(tmp_path)] == ["baseline", "untrained", "colour histogram"]
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["baseline_encoder.weights.h5"]
    assert (tmp_path / "saved_model" / "1" / "saved_model.pb").is_file()
    # Its own recipe says so without flags, and takes square images.
    assert not veri776.RECIPE.with_decoder
    assert veri776.RECIPE.data.image_size == (256, 256)
    veri776.RECIPE.check()
    assert not {"texture-generator", "pseudo-textures"} & {stage.name for stage in veri776.STAGES}
    decoder = ["--lambda_texture_triplet=1", "--image_size", "64", "32"]
    assert run(veri776, tmp_path / "other", *decoder) == 2
    assert "--lambda_texture_triplet 0" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*have no camera")
def test_images_of_ones_own(run: Run, generator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = f"--folder={DATASETS / 'custom' / 'dummy_data' / 'folders'}"
    flags = ["--dataset=custom/folders", folder, generator, "--baseline=false"]
    assert run(custom, tmp_path, *flags) == 0
    assert "images have no camera: no same-camera image was removed" in " ".join(
        capsys.readouterr().out.split()
    )
    assert {row["test"] for row in rows_of(tmp_path)} == {"custom/folders"}


def test_two_folders_of_ones_own_never_pass_for_one_another(
    run: Run, generator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    drawn = DATASETS / "custom" / "dummy_data" / "names"
    pattern = r"--pattern=(?P<split>[a-z]+)/(?P<identity>[0-9]+)_c(?P<camera>[0-9])_.*"
    for number, flags in enumerate(([f"--folder={drawn}"], [f"--folder={drawn}", pattern])):
        assert run(custom, tmp_path / str(number), *flags, generator, "--stage=prepare") == 0
    told = [line for line in capsys.readouterr().out.split() if line.startswith("custom/names")]
    assert len(set(told)) == 2
    assert run(custom, tmp_path / "none", generator, "--stage=prepare") == 2
    assert "add --folder" in capsys.readouterr().err


def test_the_classic_splits_of_cuhk03(
    run: Run, generator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = ["--stage", "prepare", "texture-generator", "pseudo-textures", "train", "evaluate"]
    flags = [generator, "--baseline=false", "--repeats=7", *asked]
    assert run(cuhk03, tmp_path, "--splits", "1", "2", *flags) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["splits"] == ["cuhk03/labeled_classic_01", "cuhk03/labeled_classic_02"]
    for number, rows in enumerate(results["rows_of_splits"].values(), 1):
        assert rows == rows_of(tmp_path / f"split_{number:02d}")
        assert {(row["protocol"], row["repeats"]) for row in rows} == {("cuhk03", 7)}
    first, second = (rows[0]["mAP"] for rows in results["rows_of_splits"].values())
    assert results["rows"][0]["mAP"] == pytest.approx((first + second) / 2)
    assert "± " in capsys.readouterr().out
    assert run(cuhk03, tmp_path, "--splits", "21", *flags) == 2
    assert "no classic split 21" in capsys.readouterr().err


def test_a_trained_encoder_on_other_data_sets(run: Run, market_run: Path, tmp_path: Path):
    workdir = shutil.copytree(market_run, tmp_path / "run")
    own = rows_of(workdir)
    tests = ["market1501", "dukemtmc_reid", "partial_reid"]
    flags = ["--pit_per_batch=2", "--stage=evaluate", "--test", *tests]
    assert run(market, workdir, *flags) == 0
    rows = rows_of(workdir)
    assert [row["test"] for row in rows] == [name for name in tests for _ in own]
    assert [row["protocol"] for row in rows[:: len(own)]] == ["market", "market", "partial"]
    # On the data set it was trained for, the numbers are those of the run itself.
    assert rows[: len(own)] == own
    features = {path.name for path in (workdir / "features").iterdir()}
    assert {"san.npz", "san_dukemtmc_reid.npz", "baseline_partial_reid.npz"} <= features


def test_training_on_several_data_sets(run: Run, generator: str, tmp_path: Path):
    flags = ["--train", "market1501", "msmt17/v2", "--test", "dukemtmc_reid", "partial_reid", generator]
    flags += ["--baseline=false"]
    asked = ["--stage", "prepare", "texture-generator", "pseudo-textures", "train", "evaluate", "report"]
    assert run(market, tmp_path, *flags, "--identities_per_batch=4", *asked) == 0
    assert {row["test"] for row in rows_of(tmp_path)} == {"dukemtmc_reid", "partial_reid"}
    assert (tmp_path / "figures" / "cmc_partial_reid.png").is_file()
    textures = {path.parent.name for path in (tmp_path / "pseudo_textures").rglob("*.jpg")}
    assert textures == {"market1501", "msmt17-v2"}
    with h5py.File(tmp_path / "weights" / "san_encoder.weights.h5") as file:
        shapes: list[tuple[int, ...]] = []
        file.visititems(lambda _, item: shapes.append(item.shape) if hasattr(item, "shape") else None)
    # Two identities of each: a classifier of four.
    assert (512, 4) in shapes


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


MODULES = (market, duke, cuhk03, msmt17, partial_reid, veri776, custom)


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
