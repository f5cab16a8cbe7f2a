"""A learning-rate range test: the loss over the rate."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from san_tf.errors import UserError
from san_tf.visualization import style


def rate_sweep(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    suggestion: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the losses of a learning-rate range test over log rate.

    Args:
        rates: (N,) learning rates, rising, above 0.
        losses: (N,) losses of single batches, drawn as dots.
        smoothed: (N,) smoothed losses, drawn as a line.
        suggestion: A rate to mark, or None.
        title: Above the figure.

    Returns:
        The figure: one axes.

    Raises:
        UserError: If the lengths differ or there is nothing to draw.

    Example:
        >>> rates = np.geomspace(1e-5, 1, 50)
        >>> figure = rate_sweep(rates, 3 - rates, 3 - rates, 1e-3)
    """
    if not len(rates) == len(losses) == len(smoothed) or len(rates) < 2:
        raise UserError(
            f"A sweep needs as many losses as rates, at least 2. Received: {len(rates)}, {len(losses)} and"
            f" {len(smoothed)}."
        )
    head = style.title_height(title)
    figure = style.new_figure(6.2, head + 3.4, title)
    axes = style.plain_axes(style.place(figure, 0.7, head + 0.3, 5.2, 2.5))
    axes.set_xscale("log")
    axes.plot(rates, losses, ".", color=style.MUTED, markersize=3, label="loss of a batch")
    axes.plot(rates, smoothed, color=style.SERIES[0], label="smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=style.SERIES[1], linewidth=1)
        axes.annotate(
            f"{suggestion:.2g}", (suggestion, 1), (3, -9), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=style.SMALL, color=style.SERIES[1],
        )  # fmt: skip
    # The limits ignore the last, exploded losses, which would hide the rest of the curve.
    low, high = float(smoothed.min()), float(smoothed[: max(2, len(smoothed) // 2)].max())
    axes.set_ylim(low - 0.15 * (high - low) - 1e-6, high + 0.5 * (high - low) + 1e-6)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(frameon=False, fontsize=style.SMALL, loc="lower left")
    return figure
