"""The ablation's figures from small numbers: what stands where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from san_tf.errors import UserError
from san_tf.experiments.ablation.figures import (
    Bar,
    _label_colors,
    cell_label_pictures,
    difference_chart,
    runs_chart,
)

ROWS = ["colour histogram", "baseline", "SAN"]
SCORES = [[0.2], [0.6, 0.62, 0.61], [0.63, 0.64, 0.68]]


def test_every_run_is_a_dot_and_who_is_far_away_is_named_at_the_edge():
    figure = runs_chart(ROWS, {"rank-1": SCORES, "mAP": SCORES}, "baseline", "Runs")
    assert len(figure.axes) == 2
    axes = figure.axes[1]
    assert axes.get_title(loc="left") == "mAP, %"
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate(dots), [60, 62, 61, 63, 64, 68])
    low, high = axes.get_xlim()
    assert 55 < low < 60 and 68 < high < 80
    notes = [text.get_text() for text in axes.texts]
    assert notes == ["◂ 20.0", "61.0", "65.0"]
    assert [text.get_text() for text in figure.texts] == ["Runs", *ROWS]
    # Who is far above the baseline stands at the other edge; without one the middle row sets the scale.
    assert "90.0 ▸" in [
        t.get_text() for t in runs_chart(["a", "b"], {"m": [[0.1], [0.9]]}, "a").axes[0].texts
    ]
    assert len(runs_chart(["a", "b"], {"m": [[0.1], [0.9]]}).axes[0].lines) == 3


def test_differences_have_their_intervals():
    bars = {"all": [Bar(1.0, -0.5, 2.5), Bar(-1.0, np.nan, np.nan)], "opposite sides": [None, Bar(2, 1, 3)]}
    axes = difference_chart(["SAN", "oracle"], bars, {"all": "8 queries"}).axes[0]
    dots = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
    assert [y for _, y in dots] == [1, -1, 2]
    assert dots[0][0] < dots[1][0] < dots[2][0]
    spans = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() != "o"][1:]
    assert spans == [(-0.5, 2.5), (1, 3)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["all\n8 queries", "opposite sides\n"]


def test_labels_are_painted_over_the_crops():
    crop = np.full((64, 32, 3), 128, np.uint8)
    cells = np.zeros((4, 2), int)
    cells[0, 0], cells[3, 1] = 1, 2
    labels = ["nothing", "thigh_l", "thigh_r", "torso"]
    figure = cell_label_pictures(
        [crop, crop], {"truth": [cells, cells], "SAN": [0 * cells, cells]}, labels, "Parts"
    )
    assert len(figure.axes) == 6
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(shown[0], crop)
    assert (shown[2][20:44] == shown[2][20, 0]).all(), "the background stays grey"
    assert shown[2][5, 5, 2] > shown[2][5, 5, 0] and shown[2][60, 30, 0] > shown[2][60, 30, 2], (
        "left cool, right warm"
    )
    assert len(np.unique(shown[4].reshape(-1, 3), axis=0)) == 1, "a map of nothing paints nothing"
    named = [text.get_text() for text in figure.texts]
    assert "thigh l" in named and "thigh r" in named and "torso" not in named, (
        "only what is shown is explained"
    )
    colors = _label_colors(labels)
    assert len({tuple(color) for color in colors}) == 4 and to_rgb("#08306b") == pytest.approx(colors[1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="at least one row"):
        runs_chart([], {"mAP": []})
    with pytest.raises(UserError, match="mAP must have one entry"):
        runs_chart(ROWS, {"mAP": SCORES[:2]})
    with pytest.raises(UserError, match="has no run"):
        runs_chart(["a"], {"mAP": [[]]})
    with pytest.raises(UserError, match="at least one row and one condition"):
        difference_chart(["a"], {})
    with pytest.raises(UserError, match="one entry"):
        difference_chart(["a"], {"all": []})
    crop, cells = np.zeros((8, 4, 3), np.uint8), np.full((2, 1), 3)
    with pytest.raises(UserError, match="beyond the 2"):
        cell_label_pictures([crop], {"truth": [cells]}, ["nothing", "torso"])
    with pytest.raises(UserError, match="truth must have one entry"):
        cell_label_pictures([crop], {"truth": []}, ["nothing"])
