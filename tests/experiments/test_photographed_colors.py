"""Textures in the colours of their photographs, from the pairs to the export."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

from san_tf.data.records import Records
from san_tf.experiments import market
from san_tf.experiments.data_records import pit_records
from san_tf.experiments.painting import true_textures
from san_tf.experiments.stages import texture_generator
from san_tf.serving import read_metadata
from san_tf.serving.runtime_sessions import open_session
from san_tf.serving.runtimes import export_runtimes


def test_true_textures_by_hand() -> None:
    def plain(*color: int) -> bytes:
        return cv2.imencode(".png", np.tile(np.uint8(color[::-1]), (8, 8, 1)))[1].tobytes()

    cast = np.zeros((2, 3, 4), np.float32)
    # Half as bright and a veil of 10; then red and blue exchanged, red beyond white.
    cast[0, :, :3], cast[0, :, 3] = 0.5 * np.eye(3), 10
    cast[1, 0, 2], cast[1, 1, 1], cast[1, 2, 0] = 2, 1, 1
    texture = plain(40, 100, 200)
    pairs = Records.from_columns([texture] * 2, [1, 1], textures=[texture] * 2, extras={"cast": cast})
    found = true_textures(pairs, 8)
    assert found.dtype == np.uint8 and found.shape == (2, 8, 8, 3)
    assert found[0, 3, 3].tolist() == [30, 60, 110] and found[1, 3, 3].tolist() == [255, 100, 40]
    assert true_textures(pairs.without("cast"), 8)[1, 0, 0].tolist() == [40, 100, 200]
    assert true_textures(pairs.select(np.array([1])), 4)[0, 0, 0].tolist() == [255, 100, 40]


@pytest.mark.parametrize("colors", ["photographed", "true"])
def test_pairs_have_a_cast_where_the_recipe_wants_one(
    monkeypatch: pytest.MonkeyPatch, run, tmp_path: Path, colors: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bool] = []

    def spy(*arguments) -> Records:
        pairs = pit_records(*arguments)
        seen.append("cast" in pairs.extras)
        return pairs

    monkeypatch.setattr(texture_generator, "pit_records", spy)
    stages = ("--stage", "prepare", "texture-generator")
    assert run(market, tmp_path, f"--texture_colors={colors}", *stages) == 0
    assert seen and set(seen) == {colors == "photographed"}
    scores = json.loads((tmp_path / "texture_generator.json").read_text())
    told = capsys.readouterr().out
    if colors == "true":
        assert "garment_colors" not in scores and "garments in their images" not in told
        return
    found = scores["garment_colors"]
    # Four people in two pictures each.
    assert 8 < found["garments"] <= 16
    assert 0 < found["photographed"] < found["true"] and found["painted"] > 0
    assert f"{found['garments']} garments in their images" in told


def test_a_palette_goes_all_the_way(run, tmp_path: Path) -> None:
    flags = (
        "--palette=4",
        "--texture_colors=photographed",
        "--sketch=8",
        "--pit_per_batch=2",
        "--method=san",
    )
    assert run(market, tmp_path, *flags, "--start=texture-generator", "--export_texture") == 0
    painted = sorted((tmp_path / "pseudo_textures").iterdir())
    assert painted and cv2.imread(str(painted[0])).shape == (64, 64, 3)
    export = next(path.parent for path in tmp_path.rglob("saved_model.pb"))
    assert read_metadata(export)["texture_size"] == 64
    # Other runtimes are given the encoder alone, and the mixing of colours does not stand in the way.
    if importlib.util.find_spec("ai_edge_litert"):
        others = export_runtimes(export, tmp_path / "runtimes", ["litert"])
        session = open_session(others / "encoder.tflite")
        assert session(np.zeros((2, 64, 32, 3), np.uint8)).shape[0] == 2
    # A picture of one colour: the texture can have no other.
    plain = np.broadcast_to(np.uint8([200, 40, 90]), (1, 64, 32, 3))
    served = tf.saved_model.load(str(export)).signatures["texture"]
    texture = served(images=tf.constant(plain))["texture"].numpy()
    np.testing.assert_allclose(texture, np.broadcast_to([200, 40, 90], texture.shape), atol=2)


def test_a_palette_with_true_colours_is_told(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(market, tmp_path, "--palette=4") == 2
    assert "--texture_colors photographed" in " ".join(capsys.readouterr().err.split())
