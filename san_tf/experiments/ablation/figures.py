"""Figures of the ablation: runs, gains under conditions, and predicted body parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from san_tf.errors import UserError
from san_tf.visualization import style

_LINE, _WIDE = 0.36, 2.9
_CELL = 1.55


def runs_chart(
    rows: Sequence[str],
    measures: Mapping[str, Sequence[Sequence[float]]],
    baseline: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw runs as dots and rows' means as ticks, one chart per measure.

    A row more than 15 points from the baseline is written at the edge, so as not to compress the others.

    Args:
        rows: R titles.
        measures: scores of each row's runs by the measure's name, in [0, 1].
        baseline: row whose mean is drawn as a line through the others.
        title: title above the figure.

    Returns:
        The figure, with one axes per measure.

    Raises:
        UserError: there is nothing to draw, or counts do not fit.

    Example:
        >>> figure = runs_chart(["baseline", "SAN"], {"mAP": [[0.6, 0.62], [0.63, 0.64]]}, "baseline")
        >>> len(figure.axes)
        1
    """
    if not rows or not measures:
        raise UserError("An ablation needs at least one row and one measure to draw.")
    for name, scores in measures.items():
        style.check_count(scores, len(rows), name, "the rows")
        if not all(len(runs) for runs in scores):
            raise UserError(f"A row of {name} has no run; leave the row out.")
    left = 0.25 + 0.078 * max(map(style.text_width, rows))
    head = style.title_height(title) + 0.3
    tall = _LINE * len(rows)
    figure = style.new_figure(left + len(measures) * (_WIDE + 0.55), head + tall + 0.5, title)
    for row, name in enumerate(rows):
        style.write(figure, name, left - 0.12, head + (row + 0.5) * _LINE, style.LABEL, align="right")
    for number, (name, scores) in enumerate(measures.items()):
        axes = style.place(figure, left + number * (_WIDE + 0.55), head, _WIDE, tall)
        _draw_runs(axes, name, [100 * np.asarray(runs, float) for runs in scores], rows, baseline)
    return figure


def _draw_runs(
    axes: Axes, name: str, scores: Sequence[np.ndarray], rows: Sequence[str], baseline: str | None
) -> None:
    means = np.array([runs.mean() for runs in scores])
    # Without a baseline, the median row is the reference.
    middle = rows.index(baseline) if baseline in rows else int(np.argsort(means)[len(means) // 2])
    reference = means[middle]
    near = np.abs(means - reference) <= 15
    shown = np.concatenate([runs for runs, inside in zip(scores, near, strict=True) if inside])
    low, high = float(shown.min()), float(shown.max())
    margin = max(0.12 * (high - low), 0.4)
    axes.set_xlim(low - margin, high + 3.2 * margin)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(style.MUTED)
    axes.grid(axis="x", color=style.RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", colors=style.MUTED, labelsize=style.SMALL, length=0, pad=4)
    axes.set_yticks([])
    axes.set_title(f"{name}, %", loc="left", fontsize=style.LABEL, color=style.INK, fontweight="bold", pad=6)
    if baseline in rows:
        axes.axvline(means[rows.index(baseline)], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for row, runs in enumerate(scores):
        color = style.SERIES[row % len(style.SERIES)]
        if not near[row]:
            below = means[row] < reference
            axes.annotate(
                f"◂ {means[row]:.1f}" if below else f"{means[row]:.1f} ▸", (0 if below else 1, row),
                xycoords=("axes fraction", "data"), fontsize=style.SMALL, color=color, va="center",
                ha="left" if below else "right",
            )  # fmt: skip
            continue
        axes.plot([runs.min(), runs.max()], [row, row], color=color, linewidth=1.4, alpha=0.5)
        axes.plot(runs, np.full(len(runs), row), "o", color=color, markersize=4.5, alpha=0.75)
        axes.plot([means[row]] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2.4)
        axes.annotate(
            f"{means[row]:.1f}", (max(runs.max(), means[row]), row), (7, 0), textcoords="offset points",
            fontsize=style.SMALL, color=color, va="center",
        )  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A difference with its interval; NaN leaves the interval out."""

    difference: float
    low: float
    high: float


def difference_chart(
    rows: Sequence[str],
    differences: Mapping[str, Sequence[Bar | None]],
    captions: Mapping[str, str] | None = None,
    reference: str = "baseline",
    title: str | None = None,
) -> Figure:
    """Draw the difference of each row to a reference under each condition.

    Args:
        rows: R titles, without the reference.
        differences: for each condition one `Bar` per row, in percentage points, or None.
        captions: text under each condition, such as the number of queries.
        reference: name of the reference, for the axis.
        title: title above the figure.

    Returns:
        The figure with one axes.

    Raises:
        UserError: there is nothing to draw, or counts do not fit.

    Example:
        >>> figure = difference_chart(["SAN"], {"opposite sides": [Bar(2.0, 0.5, 3.5)]})
        >>> len(figure.axes)
        1
    """
    if not rows or not differences:
        raise UserError("Differences need at least one row and one condition to draw.")
    for name, bars in differences.items():
        style.check_count(bars, len(rows), name, "the rows")
    head = style.title_height(title) + 0.3
    # Room for the name under each condition, and for the points of all rows.
    wide = max(4.2, max(1.08, 0.15 * len(rows) + 0.2) * len(differences))
    figure = style.new_figure(
        0.65 + wide + 0.3 + 0.085 * max(map(style.text_width, rows)), head + 3.35, title
    )
    axes = style.plain_axes(style.place(figure, 0.65, head, wide, 2.7))
    axes.axhline(0, color=style.INK, linewidth=1.0)
    offsets = (np.arange(len(rows)) - (len(rows) - 1) / 2) * min(0.16, 0.8 / len(rows))
    for column, bars in enumerate(differences.values()):
        for row, bar in enumerate(bars):
            if bar is None:
                continue
            color, x = style.SERIES[(row + 1) % len(style.SERIES)], column + offsets[row]
            if np.isfinite(bar.low) and np.isfinite(bar.high):
                axes.plot([x, x], [bar.low, bar.high], color=color, linewidth=2.0, alpha=0.45)
            axes.plot([x], [bar.difference], "o", color=color, markersize=5)
    axes.set_xlim(-0.55, len(differences) - 0.45)
    axes.set_xticks(range(len(differences)))
    axes.set_xticklabels(
        [style.readable(f"{name}\n{(captions or {}).get(name, '')}") for name in differences],
        fontsize=style.SMALL, color=style.INK,
    )  # fmt: skip
    style.write(figure, f"points of mAP more than {reference}", 0.15, head - 0.14, style.SMALL, style.MUTED)
    for row, name in enumerate(rows):
        color = style.SERIES[(row + 1) % len(style.SERIES)]
        style.write(figure, name, 0.75 + wide, head + 0.15 + 0.24 * row, style.SMALL, color, weight="bold")
    return figure


def cell_label_pictures(
    crops: Sequence[np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray]],
    labels: Sequence[str],
    title: str | None = None,
) -> Figure:
    """Paint the label of every cell over the crops, one line per map below the crops.

    Args:
        crops: N crops (H, W, 3) uint8 RGB.
        maps: N maps (h, w) of int labels for each line's name; label 0 stays clear.
        labels: names of the labels; names that end in `_l` and `_r` get cool and warm colours.
        title: title above the figure.

    Returns:
        The figure, with one axes per crop, and one per crop and map.

    Raises:
        UserError: counts do not fit, or a label has no name.

    Example:
        >>> crop, cells = np.zeros((64, 32, 3), np.uint8), np.ones((4, 2), int)
        >>> len(cell_label_pictures([crop], {"truth": [cells]}, ["nothing", "torso"]).axes)
        2
    """
    pictures = style.as_pictures(crops, "crops")
    for name, values in maps.items():
        style.check_count(values, len(pictures), name, "the crops")
        if max(int(np.max(value)) for value in values) >= len(labels):
            raise UserError(f"The maps of {name!r} hold labels beyond the {len(labels)} that have names.")
    colors = _label_colors(labels)
    head, left = style.title_height(title), 0.25 + 0.08 * max(map(style.text_width, [*maps, "image"]))
    wide = _CELL * pictures[0].shape[1] / pictures[0].shape[0]
    used = sorted({int(label) for values in maps.values() for value in values for label in np.unique(value)})
    used = [label for label in used if label]
    across = len(pictures) * (wide + 0.06)
    per_line = max(1, int(across // 1.15))
    legend = 0.2 * -(-len(used) // per_line) + 0.15
    figure = style.new_figure(left + across + 0.1, head + (len(maps) + 1) * (_CELL + 0.06) + legend, title)
    lines: dict[str, Sequence[np.ndarray] | None] = {"image": None, **maps}
    for line, (name, cells) in enumerate(lines.items()):
        top = head + line * (_CELL + 0.06)
        style.write(figure, name, left - 0.1, top + _CELL / 2, style.SMALL, style.INK, "right")
        for n, picture in enumerate(pictures):
            shown = picture if cells is None else _painted_over(picture, cells[n], colors)
            style.show_picture(figure, shown, left + n * (wide + 0.06), top, wide, _CELL)
    bottom = head + (len(maps) + 1) * (_CELL + 0.06) + 0.08
    for number, label in enumerate(used):
        x, y = left + number % per_line * 1.15, bottom + 0.2 * (number // per_line)
        width, height = figure.get_size_inches()
        figure.add_artist(
            Rectangle((x / width, 1 - (y + 0.06) / height), 0.12 / width, 0.12 / height, color=colors[label])
        )
        style.write(figure, labels[label].replace("_", " "), x + 0.17, y, 6.5, style.MUTED)
    return figure


def _painted_over(picture: np.ndarray, cells: np.ndarray, colors: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    label = cv2.resize(np.asarray(cells, np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    grey = picture.mean(2, keepdims=True).repeat(3, 2) * 0.6 + 90
    strength = np.where(label[..., None] > 0, 0.62, 0.0)
    return np.rint((1 - strength) * grey + strength * 255 * colors[label]).clip(0, 255).astype(np.uint8)


def _label_colors(labels: Sequence[str]) -> np.ndarray:
    """(L, 3) RGB in [0, 1]: cool colours for the body's left, warm ones for its right."""
    sides = {"_l": ("#08306b", "#2171b5", "#6baed6", "#00a5b5", "#3f51b5", "#7fcdee"),
             "_r": ("#7f2704", "#d94801", "#fd8d3c", "#c2185b", "#e53935", "#fdae6b")}  # fmt: skip
    middle = ("#2f9e60", "#8bc34a", "#6a1b9a", "#ab47bc", "#ce93d8", "#c0ca33", "#fbc02d", "#795548")
    counts = {"_l": 0, "_r": 0, "": 0}
    colors = []
    for name in labels[1:]:
        side = name[-2:] if name[-2:] in sides else ""
        palette = sides.get(side, middle)
        colors.append(palette[counts[side] % len(palette)])
        counts[side] += 1
    return np.array([(0, 0, 0), *([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colors)])
