"""Figures to files, whole or not at all."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from san_tf.atomic import atomic_file


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: float | None = None) -> None:
    """Write a figure; the suffix of `path` says the format (`.png`, `.pdf`, `.svg`).

    Args:
        figure: any.
        path: of the file; parent folders are made.
        dpi: pixels an inch; the figure's own if None.

    Raises:
        UserError: the place cannot be written.

    Example:
        >>> save_figure(cmc_curves({"SAN": cmc}), "figures/cmc.png")
    """
    with atomic_file(path) as temporary:
        # No date or version inside: the same figure is the same file.
        figure.savefig(
            temporary, dpi=dpi or "figure", metadata={"Software": None} if str(path).endswith("png") else None
        )
