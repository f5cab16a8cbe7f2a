"""The ranked list as one picture, to be carried away."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from san_tf.visualization import style

_CELL, _TALL, _GAP, _LINE, _ROW = 0.8, 1.6, 0.14, 0.15, 10


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet.

    Attributes:
        picture: `(H, W, 3)` uint8 RGB, None if there is none.
        texture: `(T, T, 3)` uint8 RGB, None for none.
        caption: short lines below.
        right: frames it green (True) or red (False).
    """

    picture: np.ndarray | None
    texture: np.ndarray | None
    caption: tuple[str, ...]
    right: bool | None = None


def ranked_sheet(query: Cell, hits: Sequence[Cell], title: str) -> Figure:
    """Draw a query and what was found for it, best first, ten in a row.

    Args:
        query: whom was looked for.
        hits: may be none.
        title: above the figure.

    Returns:
        The figure.

    Example:
        >>> crop = np.zeros((128, 64, 3), np.uint8)
        >>> figure = ranked_sheet(Cell(crop, None, ("query",)), [Cell(crop, None, ("1", "0.93"))], "People")
    """
    cells = [query, *hits]
    textures = any(cell.texture is not None for cell in cells)
    lines = max(len(cell.caption) for cell in cells)
    pitch = _TALL + (_CELL + 0.06 if textures else 0) + lines * _LINE + 0.3
    head, first = style.title_height(title) + 0.1, 0.2 + _CELL + 0.4
    rows = max(1, -(-len(hits) // _ROW))
    columns = min(len(hits), _ROW) if hits else 1
    marked = any(cell.right is not None for cell in hits)
    width = max(first + columns * (_CELL + _GAP) + 0.1, 6.0)
    figure = style.new_figure(width, head + rows * pitch + (0.3 if marked else 0.05))
    style.write(figure, _plain(title), 0.2, 0.16, style.TITLE, weight="bold", vertical="top")
    _draw(figure, query, 0.2, head, style.INK)
    for place, cell in enumerate(hits):
        left = first + place % _ROW * (_CELL + _GAP)
        frame = {True: style.RIGHT, False: style.WRONG, None: None}[cell.right]
        _draw(figure, cell, left, head + place // _ROW * pitch, frame)
    if marked:
        bottom = head + rows * pitch + 0.08
        for text, color, left in (
            ("same person", style.RIGHT, first),
            ("another person", style.WRONG, first + 1.1),
        ):
            style.write(figure, "■", left, bottom, style.SMALL, color)
            style.write(figure, text, left + 0.13, bottom, style.SMALL, style.MUTED)
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure as a file."""
    target = io.BytesIO()
    figure.savefig(target, dpi=style.DPI, format="png")
    return target.getvalue()


def _draw(figure: Figure, cell: Cell, left: float, top: float, frame: str | None) -> None:
    if cell.picture is None:
        style.write(figure, "no picture", left + _CELL / 2, top + _TALL / 2, 6.0, style.MUTED, "center")
    else:
        style.show_picture(figure, cell.picture, left, top, _CELL, _TALL, frame)
    bottom = top + _TALL
    if cell.texture is not None:
        style.show_picture(figure, cell.texture, left, bottom + 0.06, _CELL, _CELL)
        bottom += _CELL + 0.06
    for number, line in enumerate(cell.caption):
        ink = style.INK if number == 0 else style.MUTED
        at = bottom + 0.12 + number * _LINE
        style.write(figure, _plain(line), left + _CELL / 2, at, 6.5, ink, "center")


def _plain(text: str) -> str:
    """Text that matplotlib takes for no formula; a long one is cut in its middle."""
    if len(text) > 60:
        text = f"{text[:28]} … {text[-28:]}"
    return text.replace("$", r"\$")
