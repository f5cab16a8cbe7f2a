"""Every benchmark's experiment through all its stages, on drawn images in the published layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import h5py
import numpy as np
import pytest
from tiny_runs import DATASETS

from san_tf.experiments import cuhk03, custom, duke, market, msmt17, partial_reid, veri776
from san_tf.experiments.recipe_checks import check_recipe

Run = Callable[..., int]


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
    assert run(module, tmp_path, generator, "--method=san") == 0
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
    flags = [f"--textures={folder}", "--texture_layout=other", "--pit_per_batch=0", "--method=san"]
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
    check_recipe(veri776.RECIPE)
    assert not {"texture-generator", "pseudo-textures"} & {stage.name for stage in veri776.STAGES}
    decoder = ["--lambda_texture_triplet=1", "--image_size", "64", "32"]
    assert run(veri776, tmp_path / "other", *decoder) == 2
    assert "--method baseline" in capsys.readouterr().err


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
    told = [word for word in capsys.readouterr().out.split() if word.startswith("custom/names_")]
    assert len(set(word.rstrip(":") for word in told)) == 2
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
