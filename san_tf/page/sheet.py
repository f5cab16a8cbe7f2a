"""Draws a ranked list as one picture, for export."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from san_tf.visualization import style

_CELL, _TALL, _GAP, _LINE, _ROW = 0.8, 1.6, 0.14, 0.15, 10
_FRAME = 3  # pixels


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet.

    Attributes:
        picture: `(H, W, 3)` uint8 RGB, or None.
        texture: `(T, T, 3)` uint8 RGB, or None.
        caption: short lines below the picture.
        right: True for a green frame, False for a red one, None for a neutral one.
    """

    picture: np.ndarray | None
    texture: np.ndarray | None
    caption: tuple[str, ...]
    right: bool | None = None


def ranked_sheet(query: Cell, hits: Sequence[Cell], title: str) -> np.ndarray:
    """Draw a query and its hits, best first, ten in a row.

    Matplotlib draws only the texts, and the pictures are copied in: axes for a hundred pictures would take
    ten seconds.

    Args:
        query: the query.
        hits: the hits; may be empty.
        title: text above the figure.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Example:
        >>> crop = np.zeros((128, 64, 3), np.uint8)
        >>> sheet = ranked_sheet(Cell(crop, None, ("query",)), [Cell(crop, None, ("1", "0.93"))], "People")
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
    across, down = _pixels(width), _pixels(head + rows * pitch + (0.3 if marked else 0.05))
    figure = style.new_figure(across / style.DPI, down / style.DPI)
    room = int((width - 0.3) / (0.6 / 72 * style.TITLE))
    title = style.shortened(style.readable(title), room)
    style.write(figure, title, 0.2, 0.16, style.TITLE, weight="bold", vertical="top")
    places = [(0.2, head)]
    for place in range(len(hits)):
        places.append((first + place % _ROW * (_CELL + _GAP), head + place // _ROW * pitch))
    for cell, (left, top) in zip(cells, places, strict=True):
        _write(figure, cell, left, top)
    if marked:
        bottom = head + rows * pitch + 0.08
        for text, color, left in (
            ("same person", style.RIGHT, first),
            ("another person", style.WRONG, first + 1.1),
        ):
            style.write(figure, "■", left, bottom, style.SMALL, color)
            style.write(figure, text, left + 0.13, bottom, style.SMALL, style.MUTED)
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    sheet = np.array(drawn.buffer_rgba())[..., :3].copy()
    frames = {True: style.RIGHT, False: style.WRONG, None: style.RULE}
    for cell, (left, top) in zip(cells, places, strict=True):
        if cell.picture is not None:
            frame = style.INK if cell is query else frames[cell.right]
            _put(sheet, cell.picture, left, top, _TALL, frame)
        if cell.texture is not None:
            _put(sheet, cell.texture, left, top + _TALL + 0.06, _CELL, style.RULE)
    return sheet


def as_png(sheet: np.ndarray) -> bytes:
    """Return the sheet as a PNG file."""
    target = io.BytesIO()
    Image.fromarray(sheet).save(target, "PNG", compress_level=3)
    return target.getvalue()


def _pixels(inches: float) -> int:
    return round(inches * style.DPI)


def _write(figure: Figure, cell: Cell, left: float, top: float) -> None:
    if cell.picture is None:
        style.write(figure, "no picture", left + _CELL / 2, top + _TALL / 2, 6.0, style.MUTED, "center")
    bottom = top + _TALL + (0 if cell.texture is None else _CELL + 0.06)
    for number, line in enumerate(cell.caption):
        ink = style.INK if number == 0 else style.MUTED
        at = bottom + 0.12 + number * _LINE
        style.caption(figure, line, left + _CELL / 2, at, _CELL + _GAP, color=ink)


def _put(sheet: np.ndarray, picture: np.ndarray, left: float, top: float, tall: float, frame: str) -> None:
    """Copy a picture into a box as wide as a cell, whole and undistorted, with a frame."""
    wide, high = _pixels(_CELL), _pixels(tall)
    scale = min(wide / picture.shape[1], high / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    shown = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    x, y = _pixels(left) + (wide - size[0]) // 2, _pixels(top) + (high - size[1]) // 2
    edge = 1 if frame == style.RULE else _FRAME
    color = np.rint(255 * np.array(to_rgb(frame))).astype(np.uint8)
    sheet[y - edge : y + size[1] + edge, x - edge : x + size[0] + edge] = color
    sheet[y : y + size[1], x : x + size[0]] = shown
