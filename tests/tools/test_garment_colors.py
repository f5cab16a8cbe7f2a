"""Colours painted against colours photographed: by hand, on files, and what is wrong with boxes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from san_tf.errors import UserError
from san_tf.synthesis.garment_regions import garment_region
from san_tf.synthesis.texels import texel_map

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import garment_colors  # noqa: E402
from garment_colors import color_error, measure, read_boxes  # noqa: E402


def texture(upper: tuple[int, int, int], lower: tuple[int, int, int]) -> np.ndarray:
    painted = np.full((128, 128, 3), 7, np.uint8)
    painted[garment_region("upper", 128)] = upper
    painted[garment_region("lower", 128)] = lower
    return painted


def test_distances_of_known_colours():
    image = np.zeros((128, 64, 3), np.uint8)
    image[20:40, 10:30] = 255
    box = (20, 40, 10, 30)
    # White against black is 100 of lightness; white against white is nothing.
    assert color_error(image, box, texture((0, 0, 0), (9, 9, 9)), "upper") == pytest.approx(100, abs=0.1)
    assert color_error(image, box, texture((255,) * 3, (9, 9, 9)), "upper") == pytest.approx(0, abs=1e-3)
    # sRGB red is (53.24, 80.09, 67.20) in CIELAB, and white (100, 0, 0).
    expected = np.sqrt((100 - 53.24) ** 2 + 80.09**2 + 67.2**2)
    assert color_error(image, box, texture((9,) * 3, (255, 0, 0)), "lower") == pytest.approx(
        expected, abs=0.1
    )
    # A stripe or a strap over less than half of the box does not move the median.
    image[20:28, 10:30] = (200, 0, 0)
    assert color_error(image, box, texture((255,) * 3, (9, 9, 9)), "upper") == pytest.approx(0, abs=1e-3)


def test_regions_lie_where_the_clothes_are():
    size = 128
    texels = texel_map(size)
    upper, lower = garment_region("upper", size), garment_region("lower", size)
    assert upper.any() and lower.any() and not (upper & lower).any()
    assert (texels.position[..., 1][upper].min() > texels.position[..., 1][lower].max()) and texels.inside[
        upper
    ].all()
    for garment in ("upper", "lower"):
        front, back = (garment_region(garment, size, side) for side in ("front", "back"))
        assert not (front & back).any() and (garment_region(garment, size) >= (front | back)).all()
        assert np.median(texels.position[..., 2][front]) > np.median(texels.position[..., 2][back]) + 0.05


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for folder in ("images", "painted"):
        (tmp_path / folder).mkdir()
    for name, grey in (("a", 255), ("b", 0)):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.full((128, 64, 3), grey, np.uint8))
        cv2.imwrite(str(tmp_path / "painted" / f"{name}.png"), texture((255,) * 3, (0, 0, 0)))
    box = [10, 20, 10, 20]
    boxes = {"a.png": {"upper": box, "lower": box}, "b.png": {"upper": box}}
    (tmp_path / "boxes.yaml").write_text(yaml.safe_dump(boxes))
    return tmp_path


def test_the_command_prints_and_writes_what_it_measured(files: Path, capsys):
    arguments = [
        f"--boxes={files / 'boxes.yaml'}",
        f"--images={files / 'images'}",
        f"--textures={files / 'painted'}",
    ]
    with pytest.raises(SystemExit) as leaving:
        garment_colors.main([*arguments, f"--json={files / 'out.json'}"])
    assert leaving.value.code == 0
    result = json.loads((files / "out.json").read_text())
    # White on white, white on black, black on white: 0, 100, 100.
    assert result["errors"]["a.png"] == pytest.approx({"upper": 0, "lower": 100}, abs=0.1)
    assert result["mean"] == pytest.approx({"upper": 50, "lower": 100, "all": 200 / 3}, abs=0.1)
    assert result["within"] == {"10": 1, "15": 1, "20": 1} and result["boxes"] == 3
    assert "upper 50.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("boxes", "named"),
    [
        ("[1, 2]", "must name photographs"),
        ("{a.png: {sleeve: [1, 2, 3, 4]}}", "a.png"),
        ("{a.png: {upper: [1, 2, 3]}}", "four whole numbers"),
        ("{a.png: {upper: [1, 2, 3, 4.5]}}", "four whole numbers"),
        ("{a.png: }", "a.png"),
        ("{a.png: {upper: [20, 10, 1, 2]}}", "does not fit"),
        ("{a.png: {upper: [0, 129, 0, 64]}}", "does not fit"),
        ("{c.png: {upper: [1, 2, 3, 4]}}", "c.png does not exist"),
        ("a: [", "not YAML"),
    ],
)
def test_boxes_that_cannot_be(files: Path, boxes: str, named: str):
    (files / "boxes.yaml").write_text(boxes)
    with pytest.raises(UserError, match=named):
        measure(read_boxes(files / "boxes.yaml"), files / "images", files / "painted")


def test_files_that_cannot_be_read_are_named(files: Path, capsys):
    with pytest.raises(UserError, match="absent"):
        read_boxes(files / "absent.yaml")
    (files / "painted" / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.png is not an image"):
        measure(read_boxes(files / "boxes.yaml"), files / "images", files / "painted")
    with pytest.raises(SystemExit) as leaving:
        garment_colors.main(["--boxes=x"])
    assert leaving.value.code == 2 and capsys.readouterr().err.startswith("Error: ")


def test_the_recorded_boxes_fit_their_photographs(shared: Path | None):
    boxes = read_boxes(ROOT / "experiments" / "pit" / "boxes.yaml")
    assert len(boxes) == 5 and all(set(entry) == {"upper", "lower"} for entry in boxes.values())
    if shared is None:
        pytest.skip("the photographs are not here")
    folder = shared / "real" / "market1501_crops"
    for name, entry in boxes.items():
        height, width = cv2.imread(str(folder / name)).shape[:2]
        assert all(b <= height and r <= width for _, b, _, r in entry.values())
