"""Scores by query camera and gallery camera, as two coloured tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from san_tf.errors import UserError
from san_tf.visualization import style

_SIDE, _HEAD, _GAP = 0.54, 0.62, 0.55
# Cells of fewer queries have pale numbers.
_FEWEST_QUERIES = 10
# One hue from white to blue: dark means good, also when printed in grey.
_COLORS = LinearSegmentedColormap.from_list("scores", ["#f4f7fa", "#9cc3e4", style.SERIES[0], "#06345a"])


def camera_matrix(
    rank1: np.ndarray,
    mean_precision: np.ndarray,
    queries: np.ndarray,
    query_cameras: Sequence[str] | np.ndarray,
    gallery_cameras: Sequence[str] | np.ndarray,
    title: str | None = None,
) -> Figure:
    """Draw rank-1 and mAP for each pair of query and gallery camera.

    Args:
        rank1: (A, B) float in 0..1; NaN, drawn as an empty cell, if nothing was measured.
        mean_precision: (A, B) float, mAP in 0..1 or NaN.
        queries: (A, B) int, number of queries of each cell; below 10 the cell's numbers are pale.
        query_cameras: A names.
        gallery_cameras: B names.
        title: Above the figure.

    Returns:
        The figure with two axes: rank-1 and mAP.

    Raises:
        UserError: If shapes do not fit or values are outside 0..1.

    Example:
        >>> table = np.array([[np.nan, 0.9], [0.7, np.nan]])
        >>> figure = camera_matrix(table, table, np.full((2, 2), 40), ["1", "2"], ["1", "2"])
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['rank-1', 'mAP']
    """
    tables = {"rank-1": np.asarray(rank1, float), "mAP": np.asarray(mean_precision, float)}
    counts = np.asarray(queries)
    shape = (len(query_cameras), len(gallery_cameras))
    for name, table in (*tables.items(), ("queries", counts)):
        if table.shape != shape or 0 in shape:
            raise UserError(
                f"{name} must be (query cameras, gallery cameras): {shape}. Received: {table.shape}."
            )
    for name, table in tables.items():
        known = table[np.isfinite(table)]
        if ((known < 0) | (known > 1)).any():
            raise UserError(f"{name} must be shares in 0..1. Received: up to {known.max():g}.")
    rows, columns = shape
    head, left = style.title_height(title), 0.95
    wide, tall = columns * _SIDE, rows * _SIDE
    width = max(left + 2 * wide + _GAP + 0.2, 4.2)
    figure = style.new_figure(width, head + _HEAD + tall + 0.35, title)
    for place, (name, table) in enumerate(tables.items()):
        axes = style.place(figure, left + place * (wide + _GAP), head + _HEAD, wide, tall)
        axes.imshow(np.ma.masked_invalid(table), cmap=_COLORS, vmin=0, vmax=1, aspect="auto")
        axes.set_title(name, loc="left", fontsize=style.LABEL, color=style.INK, fontweight="bold", pad=22)
        for row, column in np.argwhere(np.isfinite(table)):
            value = table[row, column]
            color = style.PAPER if value > 0.55 else style.INK
            axes.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=style.SMALL,
                color=color,
                alpha=1.0 if counts[row, column] >= _FEWEST_QUERIES else 0.55,
            )
        axes.set_xticks(
            np.arange(columns), [style.shortened(style.readable(str(name)), 7) for name in gallery_cameras]
        )
        names = [style.shortened(style.readable(str(name)), 8) for name in query_cameras]
        axes.set_yticks(np.arange(rows), names if place == 0 else [""] * rows)
        axes.xaxis.tick_top()
        axes.tick_params(colors=style.MUTED, labelsize=style.SMALL, length=0, pad=3)
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=style.PAPER, linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    style.write(
        figure, "query camera", 0.28, head + _HEAD + tall / 2, style.SMALL, style.MUTED, "center", rotation=90
    )
    style.write(
        figure,
        "percent; columns: gallery camera; empty: no query has a match there; pale: fewer than 10 queries",
        left,
        head + _HEAD + tall + 0.17,
        6.5,
        style.MUTED,
    )
    return figure
