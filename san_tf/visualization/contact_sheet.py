"""Contact sheets: crops in a grid, people in rows, cameras in columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from san_tf.errors import UserError
from san_tf.visualization import style


def contact_sheet(
    crops: Sequence[Sequence[np.ndarray | None]],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    cell_height: float = 1.0,
) -> Figure:
    """Draw crops in a grid.

    Args:
        crops: R rows of C crops (H, W, 3) uint8 RGB; None leaves a cell empty.
        rows: R captions at the left, e.g. identities.
        columns: C captions at the top, e.g. cameras.
        title: Above the figure.
        cell_height: Height of a cell in inches; its width follows the first crop's proportions.

    Returns:
        The figure: one axes per crop that is not None, row by row.

    Raises:
        UserError: If the rows differ in length, captions do not fit, or there is no crop at all.

    Example:
        >>> crop = np.zeros((128, 64, 3), np.uint8)
        >>> len(contact_sheet([[crop, None], [crop, crop]]).axes)
        3
    """
    lengths = {len(row) for row in crops}
    if len(lengths) != 1:
        raise UserError(f"All rows of a contact sheet must be equally long. Received: {sorted(lengths)}.")
    across = lengths.pop()
    pictures = [
        [None if crop is None else style.as_picture(crop, f"crops[{r}][{c}]") for c, crop in enumerate(row)]
        for r, row in enumerate(crops)
    ]
    first = next((p for row in pictures for p in row if p is not None), None)
    if first is None:
        raise UserError("A contact sheet needs at least one crop; all cells are None.")
    style.check_count(rows, len(pictures), "rows", "the rows of crops")
    style.check_count(columns, across, "columns", "the columns of crops")
    wide = cell_height * first.shape[1] / first.shape[0]
    left = 0.15 + (0.075 * max(map(style.text_width, rows)) + 0.1 if rows is not None else 0.0)
    head = style.title_height(title) + (0.24 if columns is not None else 0.0)
    gap = 0.05
    figure = style.new_figure(
        left + across * (wide + gap) + 0.1, head + len(pictures) * (cell_height + gap) + 0.1, title
    )
    for c, name in enumerate(columns or ()):
        at = left + c * (wide + gap) + wide / 2
        style.caption(figure, name, at, head - 0.12, wide + gap, style.SMALL)
    for r, row in enumerate(pictures):
        top = head + r * (cell_height + gap)
        if rows is not None:
            style.write(
                figure, rows[r], left - 0.08, top + cell_height / 2, style.SMALL, style.MUTED, "right"
            )
        for c, picture in enumerate(row):
            if picture is not None:
                style.show_picture(figure, picture, left + c * (wide + gap), top, wide, cell_height)
    return figure
