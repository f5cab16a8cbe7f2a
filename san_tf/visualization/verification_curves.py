"""Verification ("same person or not?"): ROC curves and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from san_tf.errors import UserError
from san_tf.visualization import style

# More points than pixels would not show.
_POINTS = 2000


def roc_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    equal_error: Mapping[str, float] | None = None,
    lowest: float = 1e-5,
    title: str | None = None,
) -> Figure:
    """Draw ROC curves: true accept rate over false accept rate.

    The x axis is logarithmic, because systems work at low false accept rates.

    Args:
        curves: Name -> false accept rates and true accept rates, both (P,) float in 0..1 and rising; drawn in
            this order.
        equal_error: Name -> equal error rate, marked on the curve and written beside it.
        lowest: The lowest false accept rate shown.
        title: Above the figure.

    Returns:
        The figure with one axes.

    Raises:
        UserError: If no curve is given, or a curve is not two rising arrays of equal length.

    Example:
        >>> figure = roc_curves({"SAN": (np.array([0, 0.01, 1]), np.array([0, 0.9, 1]))}, {"SAN": 0.05})
        >>> len(figure.axes)
        1
    """
    if not curves:
        raise UserError("curves is empty: give at least one ROC curve.")
    head = style.title_height(title)
    figure = style.new_figure(6.6, head + 4.05, title)
    axes = style.plain_axes(style.place(figure, 0.65, head + 0.15, 4.2, 3.3))
    axes.set_xscale("log")
    axes.set_xlim(lowest, 1.0)
    axes.set_ylim(0, 1.005)
    axes.grid(axis="x", color=style.RULE, linewidth=0.8)
    rates = np.geomspace(lowest, 1, 400)
    axes.plot(rates, 1 - rates, color=style.RULE, linewidth=1.2, linestyle=(0, (4, 3)))
    for i, (name, (false, true)) in enumerate(curves.items()):
        false, true = np.asarray(false, float), np.asarray(true, float)
        fits = false.shape == true.shape and false.ndim == 1 and len(false) > 1
        if not fits or (np.diff(false) < 0).any() or (np.diff(true) < 0).any():
            raise UserError(f"The ROC curve {name!r} must be two rising (points,) arrays in 0..1.")
        color = style.SERIES[i % len(style.SERIES)]
        # A straight segment is curved on a logarithmic axis, so points between its ends are drawn too.
        shown = np.geomspace(lowest, 1, _POINTS)
        axes.plot(shown, _height_at(shown, false, true), color=color, linewidth=2.0)
        top = head + 0.45 + 0.5 * i
        style.write(figure, name, 4.98, top, style.LABEL, color, weight="bold")
        if equal_error and name in equal_error:
            rate = equal_error[name]
            axes.plot([rate], [1 - rate], marker="o", markersize=5, color=color, clip_on=False)
            style.write(figure, f"equal error {100 * rate:.2f} %", 4.98, top + 0.16, style.SMALL, style.MUTED)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel("different-person pairs accepted", fontsize=style.SMALL, color=style.MUTED)
    style.write(figure, "same-person pairs accepted", 0.15, head - 0.06, style.SMALL, style.MUTED)
    return figure


def _height_at(rates: np.ndarray, false: np.ndarray, true: np.ndarray) -> np.ndarray:
    """True accept rates of a curve at false accept rates; the upper end of vertical segments."""
    after = np.searchsorted(false, rates, side="right")
    before = np.maximum(after - 1, 0)
    after = np.minimum(after, len(false) - 1)
    step = false[after] - false[before]
    share = np.divide(rates - false[before], step, out=np.zeros_like(rates), where=step > 0)
    return true[before] + share * (true[after] - true[before])


def reliability_diagram(
    predicted: np.ndarray,
    observed: np.ndarray,
    weight: np.ndarray,
    error: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the observed share of same-person pairs over their predicted probability.

    Perfect calibration lies on the diagonal.

    Args:
        predicted: (B,) mean predicted probability of each bin, in 0..1; NaN for an empty bin.
        observed: (B,) share of same-person pairs of each bin; NaN for an empty bin.
        weight: (B,) share of all pairs in each bin.
        error: The expected calibration error, written in the figure.
        title: Above the figure.

    Returns:
        The figure with two axes: the diagram, and a histogram of the pairs.

    Raises:
        UserError: If the arrays do not fit.

    Example:
        >>> figure = reliability_diagram(np.array([0.1, 0.9]), np.array([0.2, 0.8]), np.array([1, 1]) / 2)
        >>> len(figure.axes)
        2
    """
    predicted, observed, weight = (np.asarray(values, float) for values in (predicted, observed, weight))
    if predicted.ndim != 1 or not predicted.shape == observed.shape == weight.shape or not len(weight):
        raise UserError(
            "predicted, observed and weight must be (bins,) each. Received: "
            f"{predicted.shape}, {observed.shape}, {weight.shape}."
        )
    head = style.title_height(title)
    figure = style.new_figure(4.6, head + 5.15, title)
    axes = style.plain_axes(style.place(figure, 0.65, head + 0.15, 3.6, 3.3))
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    some = np.isfinite(predicted) & np.isfinite(observed)
    for x, y in zip(predicted[some], observed[some], strict=True):
        axes.plot([x, x], [x, y], color=style.WRONG, linewidth=1.4, alpha=0.7)
    axes.plot(
        predicted[some], observed[some], color=style.SERIES[0], linewidth=1.6, marker="o", markersize=4.5
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.01, 1.01)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    style.write(figure, "pairs that show the same person", 0.15, head - 0.06, style.SMALL, style.MUTED)
    if error is not None:
        axes.text(
            0.03,
            0.95,
            f"expected calibration error {100 * error:.1f} %",
            fontsize=style.SMALL,
            color=style.INK,
            va="top",
        )
    below = style.plain_axes(style.place(figure, 0.65, head + 3.95, 3.6, 0.6))
    edges = np.linspace(0, 1, len(weight) + 1)
    below.bar(
        edges[:-1], weight, width=np.diff(edges) * 0.92, align="edge", color=style.SERIES[0], alpha=0.85
    )
    below.set_xlim(0, 1)
    below.set_ylim(0, max(weight.max() * 1.05, 1e-9))
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.set_yticks([0, weight.max()])
    below.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.set_xlabel("predicted probability of the same person", fontsize=style.SMALL, color=style.MUTED)
    style.write(figure, "share of the pairs", 0.15, head + 3.8, style.SMALL, style.MUTED)
    return figure
