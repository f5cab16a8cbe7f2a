"""Every figure kind from tiny arrays: the right axes, the right colours, clear refusals, no global state."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from san_tf.errors import UserError
from san_tf.experiments.ablation.figures import Bar, cell_label_pictures, difference_chart, runs_chart
from san_tf.experiments.rate_sweep import rate_sweep
from san_tf.visualization import style
from san_tf.visualization.camera_matrix import camera_matrix
from san_tf.visualization.contact_sheet import contact_sheet
from san_tf.visualization.curves import _spread, cmc_curves, loss_curves
from san_tf.visualization.embedding_map import _apart, embedding_coordinates, embedding_map
from san_tf.visualization.ranked_list_sheet import ranked_lists
from san_tf.visualization.reposed import render_texture, reposed
from san_tf.visualization.texture_panels import texture_panels
from san_tf.visualization.verification_curves import reliability_diagram, roc_curves

RNG = np.random.default_rng(0)
CROPS = RNG.integers(0, 256, (6, 32, 16, 3), np.uint8)
TEXTURES = RNG.integers(0, 256, (6, 32, 32, 3), np.uint8)
CORRECT = np.array([[True, False, True], [False, True, True]])
GALLERY = [[CROPS[1], CROPS[2], CROPS[3]], [CROPS[3], CROPS[4], CROPS[5]]]


def texts(figure: Figure) -> list[str]:
    """Everything written beside the axes."""
    return [t.get_text() for t in figure.texts]


def shown(axes) -> np.ndarray:
    """The picture in an axes."""
    return axes.images[0].get_array()


def test_nothing_touches_pyplot():
    code = """
import sys, numpy as np
from san_tf.evaluation import assessment_report
from san_tf.experiments.ablation import figures
from san_tf.visualization import camera_matrix, contact_sheet, curves, embedding_map, ranked_list_sheet
from san_tf.visualization import reposed, texture_panels, verification_curves
crop = np.zeros((32, 16, 3), np.uint8)
contact_sheet.contact_sheet([[crop]])
curves.cmc_curves({"a": np.array([0.5, 1.0])})
ranked_list_sheet.ranked_lists([crop], [[crop]], np.ones((1, 1), bool))
texture_panels.texture_panels([crop], [crop])
print("pyplot" if "matplotlib.pyplot" in sys.modules else "clean", "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["clean", "False"]


def test_ranked_lists_frame_right_green_and_wrong_red():
    figure = ranked_lists(
        CROPS[:2], GALLERY, CORRECT, ["pid 1", "pid 2"], [["a", "b", "c"], ["d", "e", "f"]], title="Found"
    )
    assert len(figure.axes) == 2 * 4
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    right, wrong, query = style.RIGHT, style.WRONG, style.INK
    assert frames == [query, right, wrong, right, query, wrong, right, right]
    np.testing.assert_array_equal(shown(figure.axes[2]), CROPS[2])
    assert {"Found", "query", "1", "3", "pid 2", "f", "same person"} <= set(texts(figure))


def test_ranked_lists_of_people_nobody_knows():
    figure = ranked_lists(CROPS[:2], GALLERY, None)
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes]
    assert frames == [style.INK, *[style.RULE] * 3] * 2
    assert "same person" not in texts(figure) and "3" in texts(figure)
    with pytest.raises(UserError, match=r"gallery_images\[1\]"):
        ranked_lists(CROPS[:2], [GALLERY[0], GALLERY[1][:2]], None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gallery_correct": CORRECT.astype(int)}, "bool"),
        ({"gallery_correct": CORRECT[:1]}, "gallery_correct must have one entry for each of the queries: 2"),
        ({"gallery_images": [GALLERY[0], GALLERY[1][:2]]}, r"gallery_images\[1\]"),
        ({"query_captions": ["one"]}, "query_captions"),
        ({"query_images": []}, "query_images is empty"),
        ({"query_images": CROPS[:2].astype(np.float32)}, r"query_images\[0\] must be uint8"),
    ],
)
def test_ranked_lists_refuse_what_does_not_fit(change, message):
    good = {"query_images": CROPS[:2], "gallery_images": GALLERY, "gallery_correct": CORRECT}
    with pytest.raises(UserError, match=message):
        ranked_lists(**(good | change))


def test_texture_panels_with_and_without_truth():
    floats = TEXTURES / 127.5 - 1
    assert len(texture_panels(CROPS, TEXTURES).axes) == 12
    figure = texture_panels(CROPS[:3], floats[:3], TEXTURES[:3], captions=["a", "b", "c"], per_row=5)
    assert len(figure.axes) == 9
    np.testing.assert_array_equal(shown(figure.axes[1]), TEXTURES[0], "floats in [-1, 1] come back as stored")
    np.testing.assert_array_equal(shown(figure.axes[2]), TEXTURES[0])
    assert texts(figure).count("painted") == 3 and "b" in texts(figure)
    with pytest.raises(UserError, match="painted must have one entry for each of the images: 6"):
        texture_panels(CROPS, TEXTURES[:5])
    with pytest.raises(UserError, match=r"true\[0\].*\[-1, 1\]"):
        texture_panels(CROPS, TEXTURES, np.full(TEXTURES.shape, 3.0))


def test_render_texture_shows_the_side_that_was_asked_for():
    """A texture red on the front and blue on the back half of the body."""
    from san_tf.synthesis.texels import texel_map

    normal = texel_map(128).normal
    texture = np.zeros((128, 128, 3), np.uint8)
    texture[..., 0] = np.where(normal[..., 2] > 0, 230, 10)
    texture[..., 2] = np.where(normal[..., 2] > 0, 10, 230)

    def redness(yaw):
        picture = render_texture(texture, yaw, height=96).astype(int)
        body = picture.min(-1) < 100
        assert 0.1 < body.mean() < 0.5, "the whole body is in the picture, with air around"
        assert not body[0].any() and not body[-1].any()
        return np.mean(picture[body][:, 0] > picture[body][:, 2])

    assert redness(0) > 0.9 and redness(180) < 0.1 and 0.25 < redness(90) < 0.75

    left = np.where(texel_map(128).position[..., :1] > 0, 200, 20).astype(np.uint8).repeat(3, -1)
    bright = [np.mean((p := render_texture(left, yaw, 96))[p.min(-1) < 240] > 100) for yaw in (90, -90)]
    assert bright[0] > 0.7 > 0.3 > bright[1], "yaw 90 shows the left side"


def test_reposed_counts_and_refusals():
    figure = reposed(CROPS[:2], TEXTURES[:2], yaws=(0, 90, 180), captions=["a", "b"])
    assert len(figure.axes) == 2 * (2 + 3)
    assert {"0°", "90°", "180°", "input", "painted"} <= set(texts(figure))
    with pytest.raises(UserError, match="textures must have one entry"):
        reposed(CROPS[:2], TEXTURES[:1])
    with pytest.raises(UserError, match="yaws is empty"):
        reposed(CROPS[:1], TEXTURES[:1], yaws=())
    with pytest.raises(UserError, match="height=8"):
        render_texture(TEXTURES[0], height=8)


def test_labels_of_lines_that_end_together_do_not_touch(tmp_path):
    rows = [
        "stage,epoch,loss",
        *(f"{stage},{n},{1 / n + more}" for n in (1, 2, 3) for stage, more in (("a", 0), ("b", 0.001))),
    ]
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    figure = loss_curves(tmp_path / "metrics.csv")
    figure.canvas.draw()
    first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)
    # The higher one is of the higher line, and both stay beside their ends.
    assert second.y0 > first.y0 and second.y0 - first.y0 < 3 * first.height


def test_loss_curves_from_a_mapping():
    values = np.array([3.0, 2.0, np.nan, 1.25])
    figure = loss_curves({"epoch": np.arange(1, 5), "loss": values, "accuracy": np.linspace(0, 1, 4)})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "accuracy"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), values)
    assert figure.axes[0].texts[0].get_text() == "1.25", "the last value stands beside the line"
    with pytest.raises(UserError, match="'loss' must be one number per epoch"):
        loss_curves({"epoch": np.arange(3), "loss": values})
    with pytest.raises(UserError, match="no metrics"):
        loss_curves({"epoch": np.arange(3)})


def test_loss_curves_from_the_table_a_run_writes(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "stage,epoch,step,loss,rec_loss,accuracy\n"
        "texture-generator,1,10,0.5,0.5,\ntexture-generator,2,20,0.4,0.4,\ntrain,1,30,4.0,0.3,0.1\n"
    )
    figure = loss_curves(path)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "rec_loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [0.5, 0.4])
    assert len(loss_curves(path, stage="train").axes[0].lines) == 1
    with pytest.raises(UserError, match=r"metrics\.csv holds no metrics of stage 'other'"):
        loss_curves(path, stage="other")
    with pytest.raises(UserError, match="cannot be read"):
        loss_curves(tmp_path / "missing.csv")
    path.write_text("stage,epoch,step,loss\ntrain,1,1,soon\n")
    with pytest.raises(UserError, match="not a table of metrics"):
        loss_curves(path)


def test_cmc_curves():
    figure = cmc_curves({"SAN": np.linspace(0.7, 1, 50), "histogram": np.linspace(0.2, 0.6, 50)}, ranks=10)
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == [10, 10]
    assert {"SAN", "histogram", "rank-1 70.0 %", "rank-1 20.0 %"} <= set(texts(figure))
    for bad, message in (
        (np.array([0.5, 0.4]), "falls"),
        (np.array([50.0, 60.0]), "0..1"),
        (np.array(0.5), "shape"),
    ):
        with pytest.raises(UserError, match=message):
            cmc_curves({"SAN": bad})
    with pytest.raises(UserError, match="empty"):
        cmc_curves({})


def test_labels_are_spread_without_changing_their_order():
    places = np.array([1.0, 1.05, 0.2, 1.02])
    moved = _spread(places, 0.3)
    assert np.diff(np.sort(moved)).min() > 0.29
    np.testing.assert_array_equal(np.argsort(moved), np.argsort(places))


def test_embedding_map_keeps_people_together():
    centers = np.random.default_rng(1).normal(size=(4, 16)) * 5
    pids, camids = np.repeat([7, 8, 9, 10], 6), np.tile([0, 1, 2], 8)
    points = centers.repeat(6, 0) + np.random.default_rng(2).normal(size=(24, 16)) * 0.3
    places = embedding_coordinates(points, seed=3)
    assert places.min() == 0 and places.max() == 1
    np.testing.assert_array_equal(places, embedding_coordinates(points, seed=3))
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(24) * 9
    assert (pids[distance.argmin(1)] == pids).all()
    figure = embedding_map(points, pids, camids)
    (axes,) = figure.axes
    assert len(axes.collections) == 3, "a marker a camera"
    assert sum(len(c.get_offsets()) for c in axes.collections) == 24
    colors = {tuple(np.round(c, 4)) for group in axes.collections for c in group.get_facecolors()}
    assert len(colors) == 4, "a colour a person"
    assert "24 crops, 4 people; a colour is a person, a marker a camera" in texts(figure)


def test_embedding_map_of_thumbnails():
    pids = np.array([1, 1, 2, 2, 3, 3])
    figure = embedding_map(RNG.normal(size=(6, 4)), pids, images=CROPS)
    boxes = [a for a in figure.axes[0].artists if type(a).__name__ == "AnnotationBbox"]
    assert len(boxes) == 6
    frames = [to_hex(box.patch.get_edgecolor()) for box in boxes]
    assert frames[0] == frames[1] != frames[2] == frames[3]
    with pytest.raises(UserError, match="pids"):
        embedding_map(np.zeros((6, 4)), pids[:5])
    with pytest.raises(UserError, match="embeddings must be finite"):
        embedding_map(np.full((6, 4), np.nan), pids)


def test_thumbnails_are_pushed_apart():
    sizes = np.full((8, 2), 0.1)
    moved = _apart(np.full((8, 2), 0.5) + RNG.normal(size=(8, 2)) * 0.01, sizes)
    gap = np.abs(moved[:, None] - moved).max(-1) + np.eye(8)
    assert gap.min() > 0.09
    far = np.array([[0.1, 0.1], [0.9, 0.9]])
    np.testing.assert_array_equal(_apart(far, sizes[:2]), far)


def test_contact_sheet():
    figure = contact_sheet([[CROPS[0], None], [CROPS[1], CROPS[2]]], ["1", "2"], ["cam 1", "cam 2"])
    assert len(figure.axes) == 3
    for axes, crop in zip(figure.axes, CROPS, strict=False):
        np.testing.assert_array_equal(shown(axes), crop)
    assert figure.axes[0].get_position().y0 > figure.axes[1].get_position().y0, "first row on top"
    assert figure.axes[1].get_position().x0 < figure.axes[2].get_position().x0
    for bad, message in (
        ([[CROPS[0]], []], "equally long"),
        ([[None]], "at least one crop"),
        ([[CROPS[0][..., 0]]], r"crops\[0\]\[0\]"),
    ):
        with pytest.raises(UserError, match=message):
            contact_sheet(bad)


FIGURES: dict[str, Callable[[], Figure]] = {
    "ranked": lambda: ranked_lists(CROPS[:2], GALLERY, CORRECT),
    "textures": lambda: texture_panels(CROPS[:1], TEXTURES[:1]),
    "cmc": lambda: cmc_curves({"SAN": np.array([0.5, 0.75, 1.0])}, title="CMC"),
    "sheet": lambda: contact_sheet([list(CROPS)]),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_pictures_keep_their_proportions_and_text_stays_on_the_page(kind, tmp_path):
    figure = FIGURES[kind]()
    style.save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    width, height = figure.get_size_inches() * figure.dpi
    for axes in figure.axes:
        if axes.images:
            box, picture = axes.get_window_extent(), shown(axes)
            assert box.width / box.height == pytest.approx(picture.shape[1] / picture.shape[0], rel=0.02)
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text.get_text()


MARKUP = (
    "$x^{$.jpg",
    "$\\frac{",
    "\\alpha_{1}$$",
    "100 % & # ~ \\",
    "a\nb\x07",
    "photo\u202egpj.exe",
    "\udcff",
)
HARD = (
    *MARKUP,
    "\u738b\u5c0f\u660e",
    "\u041f\u0440\u0438\u0432\u0435\u0442",
    "\u0928\u092e\u0938\u094d",
    "\U0001f9d1\u200d\U0001f680",
)
SHARES = np.full((2, 2), 0.5)
NAMED: dict[str, Callable[[str, str], Figure]] = {
    "ranked": lambda a, b: ranked_lists(CROPS[:1], [[CROPS[1]]], np.ones((1, 1), bool), [a], [[b]], a),
    "textures": lambda a, b: texture_panels(CROPS[:1], TEXTURES[:1], captions=[a], title=b),
    "reposed": lambda a, b: reposed(CROPS[:1], TEXTURES[:1], (0,), [a], b),
    "sheet": lambda a, b: contact_sheet([[CROPS[0], CROPS[1]]], [a], [a, b], b),
    "cmc": lambda a, b: cmc_curves({a: np.array([0.5, 1.0]), b: np.array([0.4, 1.0])}, title=a),
    "roc": lambda a, b: roc_curves({a: (np.array([0, 1.0]), np.array([0.5, 1.0]))}, {a: 0.1}, title=b),
    "cameras": lambda a, b: camera_matrix(SHARES, SHARES, np.full((2, 2), 40), [a, b], [b, a], a),
    "runs": lambda a, b: runs_chart([a, b], {a: [[0.5], [0.6]]}, b, a),
    "differences": lambda a, b: difference_chart([a], {b: [Bar(1, 0, 2)]}, {b: a}, b, a),
    "cells": lambda a, b: cell_label_pictures(CROPS[:1], {a: [np.ones((2, 1), int)]}, ["", b], a),
}


@pytest.mark.parametrize("kind", NAMED)
def test_names_are_written_as_they_stand(kind, tmp_path, recwarn, caplog):
    for a, b in zip(HARD, HARD[1:] + HARD[:1], strict=True):
        figure = NAMED[kind](a, b)
        # As somebody saves it who knows nothing of this package.
        figure.savefig(tmp_path / "figure.png", dpi=40)
        for text in figure.findobj(Text):
            assert not text.get_parse_math() or not set(text.get_text()) - set("0123456789.\u2212")
            assert not set(text.get_text()) & {"\x07", "\u202e", "\udcff"}
        if a == MARKUP[0] and kind != "cameras":  # where a name has room for seven letters
            assert any(a in text.get_text() for text in figure.findobj(Text))
    # Neither a glyph that is missing nor a font without bold letters is complained of, and what no font has
    # is told once at most.
    assert [str(warning.message) for warning in recwarn] == []
    assert len(caplog.records) <= 1


@pytest.fixture
def small_font(tmp_path, monkeypatch):
    """A font of this system that has one Chinese letter, beside those that come with matplotlib."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    for at, move in zip(
        [(0, 0), (0, 900), (900, 900), (900, 0)], [pen.moveTo, *[pen.lineTo] * 3], strict=True
    ):
        move(at)
    pen.closePath()
    glyph = pen.glyph()
    builder.setupGlyphOrder([".notdef", "person"])
    builder.setupCharacterMap({0x4EBA: "person"})
    builder.setupGlyf({".notdef": glyph, "person": glyph})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "person")})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "One Person", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "one.ttf")
    bundled = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", bundled)
    monkeypatch.setattr(style, "_told", set())
    font_manager.fontManager.addfont(tmp_path / "one.ttf")
    for cached in (style._letters, style._families_with, font_manager.fontManager._findfont_cached):
        cached.cache_clear()
    yield "One Person"
    for cached in (style._letters, style._families_with, font_manager.fontManager._findfont_cached):
        cached.cache_clear()


def test_a_script_that_the_font_lacks_comes_from_another_font(small_font, tmp_path, recwarn, caplog):
    figure = contact_sheet([[CROPS[0]]], ["\u4eba"], ["\u4eba \u738b"], "A \u4eba")
    style.save_figure(figure, tmp_path / "figure.png")
    style.save_figure(contact_sheet([[CROPS[0]]], ["\u5f20"]), tmp_path / "figure.png")
    shown = {text.get_text(): text.get_fontfamily() for text in figure.findobj(Text) if text.get_text()}
    assert small_font in shown["\u4eba"] and small_font in shown["A \u4eba"]
    # The other letter is nowhere: its number stands there, and one sentence says so, once.
    assert "\u4eba \\u738b" in shown
    # The small font has no bold letters, of which matplotlib speaks.
    said = [record.getMessage() for record in caplog.records if "font weight" not in record.getMessage()]
    assert said == [
        "Figures: no font of this system has \u738b, so such letters are written as their numbers; install "
        "one that has them, such as Noto Sans CJK."
    ]
    assert [str(warning.message) for warning in recwarn] == []


def test_powers_of_ten_stay_formulas(tmp_path):
    rates = np.geomspace(1e-5, 1, 20)
    figure = rate_sweep(rates, 3 - rates, 3 - rates, 1e-3, "$x^{$")
    style.save_figure(figure, tmp_path / "figure.png")
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert labels and all(label.get_parse_math() and "10^{" in label.get_text() for label in labels)


def test_what_cannot_be_seen_is_shown():
    assert style.visible("photo\u202egpj.exe\0") == "photo\\u202egpj.exe\\x00"
    for kept in (
        "plain",
        "\u738b\u5c0f\u660e",
        "\u0646\u06cc\u0645\u200c\u0641\u0627\u0635\u0644\u0647",
        "e\u0301",
        "two\nlines",
        "\U0001f469\u200d\U0001f680",
    ):
        assert style.visible(kept) == kept
    assert style.text_width("ab\u738b") == 4 and style.text_width("e\u0301") == 1
    assert style.shortened("bounding_box_test", 9) == "boun\u2026test"
    assert style.shortened("short", 9) == "short" and style.shortened("a\nb", 9) == "a b"
    for width in range(3, 20):
        assert style.text_width(style.shortened("\u738b" * 30, width)) <= width


def test_hues_are_distinct():
    colors = style.hues(24)
    assert colors.min() >= 0 and colors.max() <= 1
    gap = np.linalg.norm(colors[:, None] - colors, axis=-1) + np.eye(24)
    assert gap.min() > 0.04


def test_camera_matrix_shows_percent_and_leaves_unmeasured_pairs_empty():
    table = np.array([[np.nan, 0.914, 0.2], [0.5, np.nan, 0.75]])
    figure = camera_matrix(table, table / 2, np.full((2, 3), 40), ["a", "b"], ["x", "y", "z"], "Cameras")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["rank-1", "mAP"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["91", "20", "50", "75"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["46", "10", "25", "38"]
    np.testing.assert_array_equal(shown(figure.axes[0]).mask, np.isnan(table))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["x", "y", "z"]
    pale = camera_matrix(table, table, np.full((2, 3), 9), ["a", "b"], ["x", "y", "z"])
    assert pale.axes[0].texts[0].get_alpha() < figure.axes[0].texts[0].get_alpha() == 1


def test_camera_matrix_refuses_what_does_not_fit():
    table = np.full((2, 2), 0.5)
    with pytest.raises(UserError, match="mAP must be"):
        camera_matrix(table, table[:1], table, "ab", "ab")
    with pytest.raises(UserError, match="rank-1 must be shares"):
        camera_matrix(table * 100, table, table, "ab", "ab")
    with pytest.raises(UserError, match="queries must be"):
        camera_matrix(table, table, np.ones(2), "ab", "ab")


def test_roc_curves_are_drawn_through_their_points():
    far, tar = np.array([0, 0.001, 0.01, 1.0]), np.array([0, 0.6, 0.8, 1.0])
    figure = roc_curves({"a": (far, tar), "b": (far, far)}, {"a": 0.19}, lowest=1e-4, title="ROC")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2000]
    x, y = lines[0].get_data()
    # Straight between the corners, in rates: halfway from 0.001 to 0.01 lies 0.7.
    assert np.interp(0.0055, x, y) == pytest.approx(0.7, abs=1e-3)
    assert np.interp(0.0005, x, y) == pytest.approx(0.3, abs=1e-3)
    assert y[-1] == 1.0
    np.testing.assert_allclose(*lines[1].get_data())
    marks = [line.get_data() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [tuple(map(float, np.ravel(mark))) for mark in marks] == [(0.19, 0.81)]
    assert "equal error 19.00 %" in texts(figure)
    for bad in ({}, {"a": (far, tar[::-1])}, {"a": (far[:2], tar)}, {"a": (far[:1], tar[:1])}):
        with pytest.raises(UserError, match="ROC curve"):
            roc_curves(bad)


def test_reliability_diagram_puts_bins_where_they_belong():
    predicted, observed = np.array([0.1, np.nan, 0.8]), np.array([0.25, np.nan, 0.6])
    figure = reliability_diagram(predicted, observed, np.array([0.7, 0.0, 0.3]), 0.165, "Reliability")
    points = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_array_equal(points.get_xydata(), [[0.1, 0.25], [0.8, 0.6]])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.7, 0.0, 0.3]
    assert figure.axes[0].texts[0].get_text() == "expected calibration error 16.5 %"
    with pytest.raises(UserError, match="bins"):
        reliability_diagram(predicted, observed[:2], predicted)
