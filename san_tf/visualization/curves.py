"""Training curves, one chart per metric, and CMC curves of several methods."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from san_tf.errors import UserError
from san_tf.visualization import style

_COUNTERS = ("step", "epoch")
_WIDE, _TALL = 2.7, 1.55
_LABEL_GAP = 0.13

Curve = tuple[np.ndarray, np.ndarray]


def loss_curves(
    metrics: Mapping[str, np.ndarray] | str | Path, stage: str | None = None, title: str | None = None
) -> Figure:
    """Draw training curves, one chart per metric.

    Args:
        metrics: Name -> values, one per epoch; "epoch" or "step", if given, is the x axis. Or the path of a
            run's `metrics.csv`; each of its stages is a line of another colour.
        stage: The stage of the CSV file to draw; all stages if None.
        title: Above the figure.

    Returns:
        The figure: one axes per metric.

    Raises:
        UserError: If the file is missing or is not a table, or there is nothing to draw.

    Example:
        >>> figure = loss_curves({"loss": np.array([3.0, 2.0, 1.5]), "accuracy": np.array([0.1, 0.4, 0.6])})
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['loss', 'accuracy']
    """
    if isinstance(metrics, (str, Path)):
        counter, curves = _read_csv(Path(metrics), stage)
    else:
        counter, curves = _from_mapping(metrics)
    if not curves:
        raise UserError("There are no metrics to draw; train for at least one epoch first.")
    stages = list(dict.fromkeys(s for lines in curves.values() for s in lines))
    color = {s: style.SERIES[i % len(style.SERIES)] for i, s in enumerate(stages)}
    across = min(3, len(curves))
    rows = -(-len(curves) // across)
    legend = 0.26 if len(stages) > 1 else 0.0
    head = style.title_height(title) + legend
    pitch = _TALL + 0.72
    figure = style.new_figure(0.2 + across * (_WIDE + 0.8), head + rows * pitch + 0.1, title)
    if legend:
        for i, name in enumerate(stages):
            style.write(
                figure, f"— {name}", 0.55 + 1.5 * i, head - 0.12, style.SMALL, color[name], weight="bold"
            )
    for n, (name, lines) in enumerate(curves.items()):
        left = 0.55 + (n % across) * (_WIDE + 0.8)
        axes = style.plain_axes(style.place(figure, left, head + (n // across) * pitch + 0.3, _WIDE, _TALL))
        axes.set_title(name, loc="left", fontsize=style.LABEL, color=style.INK, fontweight="bold", pad=6)
        for s, (x, y) in lines.items():
            axes.plot(x, y, color=color[s], linewidth=1.6, marker="o" if len(x) == 1 else None, markersize=3)
        ends = {
            s: (x[known][-1], y[known][-1]) for s, (x, y) in lines.items() if (known := np.isfinite(y)).any()
        }
        _label_ends(axes, ends, color)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(counter, fontsize=style.SMALL, color=style.MUTED, loc="right", labelpad=1)
    return figure


def cmc_curves(cmc: Mapping[str, np.ndarray], ranks: int = 20, title: str | None = None) -> Figure:
    """Draw the CMC curves of several methods in one chart.

    Args:
        cmc: Method -> (at least 2,) float in 0..1, where entry k - 1 is rank-k; drawn in this order.
        ranks: Number of ranks to show.
        title: Above the figure.

    Returns:
        The figure with one axes; each line has a label with method and rank-1.

    Raises:
        UserError: If a curve is not one-dimensional, leaves 0..1 or falls.

    Example:
        >>> figure = cmc_curves({"SAN": np.array([0.8, 0.9, 0.95])})
        >>> len(figure.axes[0].lines)
        1
    """
    if not cmc:
        raise UserError("cmc is empty: give at least one method's curve.")
    curves = {}
    for method, values in cmc.items():
        curve = np.asarray(values, float)
        if curve.ndim != 1 or len(curve) < 2 or not ((curve >= 0) & (curve <= 1)).all():
            raise UserError(f"The CMC of {method!r} must be (ranks,) in 0..1. Received: shape={curve.shape}.")
        if (np.diff(curve) < -1e-9).any():
            raise UserError(f"The CMC of {method!r} falls somewhere; a cumulative curve never does.")
        curves[method] = curve[:ranks]
    head = style.title_height(title)
    figure = style.new_figure(6.6, head + 3.7, title)
    axes = style.plain_axes(style.place(figure, 0.65, head + 0.15, 4.0, 3.0))
    longest = max(len(c) for c in curves.values())
    for i, curve in enumerate(curves.values()):
        color = style.SERIES[i % len(style.SERIES)]
        axes.plot(np.arange(1, len(curve) + 1), curve, color=color, linewidth=2.0, marker="o", markersize=3)
    axes.set_xlim(0.6, longest + 0.2)
    low = min(c.min() for c in curves.values())
    axes.set_ylim(max(0.0, np.floor(10 * low - 0.2) / 10), 1.005)
    bottom, top = axes.get_ylim()
    ends = np.array([(c[-1] - bottom) / (top - bottom) * 3.0 for c in curves.values()])
    for i, (method, at) in enumerate(zip(curves, _spread(ends, 0.32), strict=True)):
        color = style.SERIES[i % len(style.SERIES)]
        y = head + 0.15 + 3.0 - at
        style.write(figure, method, 4.75, y - 0.07, style.LABEL, color, weight="bold")
        style.write(
            figure, f"rank-1 {100 * curves[method][0]:.1f} %", 4.75, y + 0.08, style.SMALL, style.MUTED
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks([1, *range(5, longest + 1, 5)] if longest >= 5 else range(1, longest + 1))
    axes.set_xlabel("rank", fontsize=style.SMALL, color=style.MUTED)
    style.write(figure, "queries with a right match so far", 0.15, head - 0.06, style.SMALL, style.MUTED)
    return figure


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], color: Mapping[str, str]) -> None:
    """Write the last value of each line at its end, without overlap."""
    bottom, top = axes.get_ylim()
    for last in {x for x, _ in ends.values()}:
        here = [s for s, (x, _) in ends.items() if x == last]
        places = np.array([(ends[s][1] - bottom) / (top - bottom) * _TALL for s in here])
        for s, move in zip(here, _spread(places, _LABEL_GAP) - places, strict=True):
            axes.annotate(
                f"{ends[s][1]:.3g}",
                ends[s],
                (4, 72 * move),
                textcoords="offset points",
                fontsize=style.SMALL,
                color=color[s],
                va="center",
                annotation_clip=False,
            )


def _spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Move label positions at least `gap` apart; keep their order and, if possible, their middle."""
    order = np.argsort(places, kind="stable")
    moved = places[order].astype(float)
    for _ in range(200):
        push = np.maximum(0, gap - np.diff(moved)) / 2
        if push.max(initial=0) < 1e-3:
            break
        moved[:-1] -= push
        moved[1:] += push
    result = np.empty_like(moved)
    result[order] = moved
    return result


def _from_mapping(metrics: Mapping[str, np.ndarray]) -> tuple[str, dict[str, dict[str, Curve]]]:
    counter = next((c for c in reversed(_COUNTERS) if c in metrics), "epoch")
    curves: dict[str, dict[str, Curve]] = {}
    for name, values in metrics.items():
        if name in _COUNTERS:
            continue
        y = np.asarray(values, float)
        x = (
            np.asarray(metrics[counter], float)
            if counter in metrics
            else np.arange(1.0, len(np.atleast_1d(y)) + 1)
        )
        if y.ndim != 1 or x.shape != y.shape:
            raise UserError(
                f"Metric {name!r} must be one number per epoch. Received: {y.shape} for {x.shape}."
            )
        curves[name] = {"": (x, y)}
    return counter, curves


def _read_csv(path: Path, stage: str | None) -> tuple[str, dict[str, dict[str, Curve]]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table of metrics ({error}).") from error
    rows = [row for row in rows if stage is None or row.get("stage") == stage]
    if not rows:
        raise UserError(f"{path} holds no metrics{f' of stage {stage!r}' if stage else ''}; train first.")
    counter = "epoch" if rows[0].get("epoch") else "step"
    curves: dict[str, dict[str, Curve]] = {}
    try:
        for name in rows[0]:
            if name in (*_COUNTERS, "stage"):
                continue
            for s in dict.fromkeys(row.get("stage") or "" for row in rows):
                pairs = [
                    (float(r[counter]), float(r[name]))
                    for r in rows
                    if (r.get("stage") or "") == s and r[name]
                ]
                if pairs:
                    x, y = np.array(pairs).T
                    curves.setdefault(name, {})[s] = (x, y)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of metrics: {error}.") from error
    return counter, curves
