"""Panels of photographs, painted textures and true textures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from san_tf.visualization import style

_TALL, _GAP = 1.5, 0.09


def texture_panels(
    images: Sequence[np.ndarray] | np.ndarray,
    painted: Sequence[np.ndarray] | np.ndarray,
    true: Sequence[np.ndarray] | np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    per_row: int = 2,
    title: str | None = None,
) -> Figure:
    """Draw samples side by side: input, painted texture, true texture.

    Args:
        images: N photographs (H, W, 3) uint8 RGB.
        painted: N textures (T, T, 3), uint8 or float in [-1, 1].
        true: N true textures of the same kind, or None if unknown.
        captions: N short texts under the photographs.
        per_row: Samples in a row.
        title: Above the figure.

    Returns:
        The figure: 2 axes per sample, or 3 with `true`.

    Raises:
        UserError: If counts, shapes or dtypes do not fit.

    Example:
        >>> images, painted = np.zeros((4, 128, 64, 3), np.uint8), np.zeros((4, 128, 128, 3), np.float32)
        >>> figure = texture_panels(images, painted)
        >>> len(figure.axes)
        8
    """
    pictures = style.as_pictures(images, "images")
    columns = [("painted", style.as_pictures(painted, "painted"))]
    if true is not None:
        columns.append(("true", style.as_pictures(true, "true")))
    for name, values in (*columns, ("captions", captions)):
        style.check_count(values, len(pictures), name, "the images")
    per_row = max(1, min(per_row, len(pictures)))
    rows = -(-len(pictures) // per_row)
    line = 0.18 if captions is not None else 0.0
    block = _TALL / 2 + len(columns) * (_TALL + _GAP) + 0.3
    head = style.title_height(title) + 0.24
    figure = style.new_figure(0.15 + per_row * block, head + rows * (_TALL + line + 0.12) + 0.06, title)
    for n, picture in enumerate(pictures):
        left, top = 0.15 + (n % per_row) * block, head + (n // per_row) * (_TALL + line + 0.12)
        style.show_picture(figure, picture, left, top, _TALL / 2, _TALL)
        if n < per_row:
            style.write(figure, "input", left + _TALL / 4, top - 0.12, style.SMALL, style.MUTED, "center")
        if captions is not None:
            style.caption(figure, captions[n], left + _TALL / 4, top + _TALL + 0.1, _TALL / 2 + 0.3)
        for c, (name, values) in enumerate(columns):
            at = left + _TALL / 2 + _GAP + c * (_TALL + _GAP)
            style.show_picture(figure, values[n], at, top, _TALL, _TALL)
            if n < per_row:
                style.write(figure, name, at + _TALL / 2, top - 0.12, style.SMALL, style.MUTED, "center")
    return figure
