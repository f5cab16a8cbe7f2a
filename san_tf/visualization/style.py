"""The look all figures share: colours, type sizes, and pictures laid out in inches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.normalization import texture_to_uint8

INK, MUTED, RULE, PAPER = "#1f2933", "#7b8794", "#e4e7eb", "#ffffff"
RIGHT, WRONG = "#2f9e60", "#d6453d"
# One hue a line or series; told apart by people with colour vision deficiency (after Okabe and Ito, 2008).
SERIES = ("#0b62a8", "#d9660a", "#0f8f6b", "#b5467f", "#8a6d00", "#4f9fd0", "#5b6770", "#7a4fb5")
TITLE, LABEL, SMALL = 13.0, 9.5, 8.0
DPI = 115


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty white figure of so many inches, with its title at the top left."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    if title:
        write(figure, title, 0.15, 0.14, size=TITLE, weight="bold", vertical="top")
    return figure


def title_height(title: str | None) -> float:
    """Inches to leave free at the top for a title."""
    return 0.52 if title else 0.15


def write(
    figure: Figure,
    text: str,
    left: float,
    top: float,
    size: float = LABEL,
    color: str = INK,
    align: str = "left",
    weight: str = "normal",
    vertical: str = "center",
    rotation: float = 0.0,
) -> None:
    """Put text at a place given in inches from the figure's top left corner."""
    width, height = figure.get_size_inches()
    figure.text(
        left / width,
        1 - top / height,
        text,
        fontsize=size,
        color=color,
        ha=align,
        va=vertical,
        fontweight=weight,
        rotation=rotation,
    )


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the figure's top left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def show_picture(
    figure: Figure,
    picture: np.ndarray,
    left: float,
    top: float,
    width: float,
    height: float,
    border: str | None = None,
) -> Axes:
    """Show a picture in a box of so many inches, whole and undistorted.

    Args:
        figure: To draw on.
        picture: (H, W, 3) uint8 RGB.
        left: Inches from the figure's left edge.
        top: Inches from the figure's top edge.
        width: Of the box, inches.
        height: Of the box, inches.
        border: Colour of a frame around the picture; a hairline if None.

    Returns:
        The axes, without ticks.
    """
    rows, columns = picture.shape[:2]
    scale = min(width / columns, height / rows)
    across, down = columns * scale, rows * scale
    axes = place(figure, left + (width - across) / 2, top + (height - down) / 2, across, down)
    axes.imshow(picture, interpolation="antialiased", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(border or RULE)
        spine.set_linewidth(2.6 if border else 0.6)
    return axes


def plain_axes(axes: Axes) -> Axes:
    """A chart's axes: a quiet grid, no box, muted tick labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=SMALL, length=0, pad=4)
    return axes


def as_picture(value: np.ndarray, name: str) -> np.ndarray:
    """Check one image: (H, W, 3) uint8 RGB as it is; float is a texture in [-1, 1] and becomes uint8.

    Raises:
        UserError: If it is neither.
    """
    value = np.asarray(value)
    if value.ndim != 3 or value.shape[2] != 3 or value.size == 0:
        raise UserError(f"{name} must be an image (height, width, 3). Received: shape={value.shape}.")
    if value.dtype == np.uint8:
        return value
    if value.dtype.kind == "f" and np.isfinite(value).all() and np.abs(value).max() <= 1.001:
        return texture_to_uint8(value)
    raise UserError(
        f"{name} must be uint8 RGB, or a float texture in [-1, 1]. Received: {value.dtype}; turn normalised "
        "images back with san_tf.normalization.denormalize."
    )


def as_pictures(values: Sequence[np.ndarray] | np.ndarray, name: str) -> list[np.ndarray]:
    """Check a sequence of images, see `as_picture`; UserError if it is empty."""
    if len(values) == 0:
        raise UserError(f"{name} is empty: a figure needs at least one image.")
    return [as_picture(value, f"{name}[{i}]") for i, value in enumerate(values)]


def check_count(values: Sequence[object] | np.ndarray | None, count: int, name: str, of: str) -> None:
    """UserError unless `values` is None or holds `count` entries, one for each of `of`."""
    if values is not None and len(values) != count:
        raise UserError(f"{name} must have one entry for each of {of}: {count}. Received: {len(values)}.")


def hues(count: int) -> np.ndarray:
    """(count, 3) float RGB in 0..1: as many distinct colours as there are identities."""
    # golden-ratio steps around the OKLCH hue circle, in two lightnesses
    step = np.arange(count)
    hue, light = 2 * np.pi * ((0.08 + step * 0.61803398875) % 1), np.where(step % 2, 0.72, 0.55)
    a, b = 0.14 * np.cos(hue), 0.14 * np.sin(hue)
    lms = np.stack(
        [
            light + 0.3963377774 * a + 0.2158037573 * b,
            light - 0.1055613458 * a - 0.0638541728 * b,
            light - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=1,
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(lms**3 @ to_rgb.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as the file's suffix says (.png, .pdf, .svg), whole or not at all."""
    path = Path(path)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=path.suffix.lstrip(".") or "png")
