"""The common look of figures: colours, fonts, and layout in inches."""

from __future__ import annotations

import contextlib
import functools
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, ScalarFormatter

from san_tf.atomic import atomic_file
from san_tf.errors import UserError
from san_tf.normalization import texture_to_uint8

INK, MUTED, RULE, PAPER = "#1f2933", "#7b8794", "#e4e7eb", "#ffffff"
RIGHT, WRONG = "#2f9e60", "#d6453d"
# One hue per line or series, distinct also with colour vision deficiency (after Okabe and Ito, 2008).
SERIES = ("#0b62a8", "#d9660a", "#0f8f6b", "#b5467f", "#8a6d00", "#4f9fd0", "#5b6770", "#7a4fb5")
TITLE, LABEL, SMALL = 13.0, 9.5, 8.0
DPI = 115


# Font families with many scripts, in order of preference; all others follow in alphabetical order.
_FAMILIES = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Noto Sans SC", "Microsoft YaHei", "PingFang SC", "PingFang HK",
    "Hiragino Sans GB", "Hiragino Sans", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei", "Yu Gothic",
    "Malgun Gothic", "Apple SD Gothic Neo", "Droid Sans Fallback", "Noto Sans", "Arial Unicode MS",
)  # fmt: skip
# Characters that reverse or hide their neighbours or are invisible, beside the control characters.
_UNSEEN = frozenset(
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
# matplotlib's formula fonts, which draw other characters than their tables state, and a placeholder font.
_NO_LETTERS = (
    "Last Resort",
    "STIXNonUnicode",
    "STIXSize",
    "cmb10",
    "cmex10",
    "cmmi10",
    "cmr10",
    "cmss10",
    "cmsy10",
    "cmtt10",
)
Slant = Literal["normal", "italic", "oblique"]
_told: set[str] = set()
_font_log = logging.getLogger("matplotlib.font_manager")


class LiteralFigure(Figure):
    r"""A figure that writes every text literally.

    A dollar sign does not start a formula. If the figure's font lacks a character, such as a Chinese one,
    another font of this system draws it. A character that no font has is written as its number, `\u4eba`, and
    logged once.
    """

    def draw(self, renderer: Any) -> None:
        """Draw everything; see `matplotlib.figure.Figure.draw`."""
        with _without_notes_on_weights():
            _make_literal(self)
            super().draw(renderer)


@contextlib.contextmanager
def _without_notes_on_weights() -> Iterator[None]:
    """Hide matplotlib's message, repeated at each text, that a font has no bold form."""
    _font_log.addFilter(_is_worth_telling)
    try:
        yield
    finally:
        _font_log.removeFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    return "Failed to find font weight" not in record.getMessage()


def _make_literal(figure: Figure) -> None:
    numbers: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        # Tick labels exist only after they are asked for. Powers of ten stay formulas of matplotlib.
        for minor, formatter in ((False, axis.get_major_formatter()), (True, axis.get_minor_formatter())):
            labels = axis.get_ticklabels(minor=minor)
            if isinstance(formatter, (LogFormatter, ScalarFormatter)):
                numbers.update([*labels, axis.get_offset_text()])
    for text in figure.findobj(Text):
        if not isinstance(text, Text) or text in numbers:
            continue
        text.set_parse_math(False)
        text.set_usetex(False)
        if text.get_text().isascii() and text.get_text().isprintable():
            continue
        shown, families = _readable(
            text.get_text(), tuple(text.get_fontfamily()), text.get_fontweight(), text.get_fontstyle()
        )
        text.set_text(shown)
        text.set_fontfamily(families)


def readable(text: str) -> str:
    """Return a text with invisible characters, and those that no font has, as numbers.

    It is for texts that are measured before they are drawn, and for tick labels. All other texts of a
    `LiteralFigure` become readable when it is drawn.
    """
    return _readable(text, tuple(FontProperties().get_family()), "normal", "normal")[0]


def _readable(
    text: str, families: tuple[str, ...], weight: str | int, slant: Slant
) -> tuple[str, tuple[str, ...]]:
    """Return a text that can be drawn, and font families that together have its letters."""
    text = visible(text)
    number = len(fontManager.ttflist)  # grows when a font is added
    letters = frozenset(text) - {"\n"}
    for family in families:
        letters -= _letters(family, weight, slant, number)
    more, nowhere = _families_with(letters, weight, slant, number) if letters else ((), frozenset())
    if nowhere:
        _tell(nowhere)
        text = "".join(_number(letter) if letter in nowhere else letter for letter in text)
    return text, (*families, *(family for family in more if family not in families))


def visible(text: str) -> str:
    r"""Return a text with control, reversing and invisible characters as numbers.

    Line ends, letters of all scripts, and characters that join letters do not change.

    Example:
        >>> visible("photo\u202egpj.exe")
        'photo\\u202egpj.exe'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _number(c) if c in _UNSEEN or (c != "\n" and unicodedata.category(c) in ("Cc", "Cs")) else c
        for c in text
    )


def text_width(text: str) -> int:
    """Return a text's width in Latin letters; Chinese, Japanese and Korean count twice."""
    shown = visible(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in shown)


def shortened(text: str, width: int) -> str:
    """Return a text on one line, with its middle cut out if wider than `width` Latin letters.

    Example:
        >>> shortened("bounding_box_test", 9)
        'boun…test'
    """
    text = " ".join(text.split("\n"))
    if text_width(text) <= width:
        return text
    letters = list(text)
    while len(letters) > 1 and text_width("".join(letters)) >= width:
        del letters[len(letters) // 2]
    letters.insert((len(letters) + 1) // 2, "…")
    return "".join(letters)


def _number(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _tell(letters: Iterable[str]) -> None:
    new = sorted(set(letters) - _told)
    if not new:
        return
    first = not _told
    _told.update(new)
    if first:
        shown = "".join(letter for letter in new[:12] if letter.isprintable())
        logging.getLogger("san_tf").warning(
            "Figures: no font of this system has %s, so such letters are written as their numbers; install "
            "one that has them, such as Noto Sans CJK.", shown or f"the letter {_number(new[0])}",
        )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _letters(family: str, weight: str | int, slant: Slant, number: int) -> frozenset[str]:
    """Letters of a font family in a weight and slant; the cache is valid for a `number` of known fonts."""
    try:
        properties = FontProperties(family=[family], weight=weight, style=slant)
        with _without_notes_on_weights():
            return _file_letters(findfont(properties, fallback_to_default=False))
    except (ValueError, RuntimeError, OSError):  # a missing font, a colour emoji font, or a broken one
        return frozenset()


@functools.lru_cache(maxsize=64)
def _file_letters(path: str) -> frozenset[str]:
    return frozenset(map(chr, get_font(path).get_charmap()))


@functools.lru_cache(maxsize=256)
def _families_with(
    letters: frozenset[str], weight: str | int, slant: Slant, number: int
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return font families that together have the letters, and the letters that no font has."""
    order = {name: place for place, name in enumerate(_FAMILIES)}
    chosen: list[str] = []
    names = {entry.name for entry in fontManager.ttflist if not entry.name.startswith(_NO_LETTERS)}
    for family in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        if not letters:
            break
        found = letters & _letters(family, weight, slant, number)
        if found:
            chosen.append(family)
            letters -= found
    return tuple(chosen), letters


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Return an empty white figure with a title at the top left.

    Args:
        width: Inches.
        height: Inches.
        title: None for no title.
    """
    figure = LiteralFigure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    if title:
        write(figure, title, 0.15, 0.14, size=TITLE, weight="bold", vertical="top")
    return figure


def title_height(title: str | None) -> float:
    """Return the inches to leave free at the top for a title."""
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
    """Write text on a figure.

    Args:
        figure: To draw on.
        text: What to write.
        left: Inches from the figure's left edge.
        top: Inches from the figure's top edge.
        size: Font size in points.
        color: Colour of the text.
        align: Horizontal alignment, as matplotlib's `ha`.
        weight: Font weight.
        vertical: Vertical alignment, as matplotlib's `va`.
        rotation: Degrees.
    """
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


def caption(
    figure: Figure, text: str, center: float, top: float, room: float, size: float = 6.5, color: str = MUTED
) -> None:
    """Write a centred caption that fits its room: smaller, or with its middle cut out.

    Args:
        figure: To draw on.
        text: Written on one line.
        center: Inches from the figure's left edge to the caption's middle.
        top: Inches from the figure's top edge.
        room: Width that it may take in inches.
        size: Font size in points; it may shrink to half of it.
        color: Colour of the text.
    """
    letter = 0.6 / 72  # mean width of a letter in inches per point of font size
    text = shortened(readable(text), int(room / (0.5 * size * letter)))
    size = min(size, room / (letter * max(text_width(text), 1)))
    write(figure, text, center, top, size, color, "center")


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Return new axes at a place on a figure.

    Args:
        figure: To draw on.
        left: Inches from the figure's left edge.
        top: Inches from the figure's top edge.
        width: Inches.
        height: Inches.
    """
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
    """Show a picture in a box, whole and undistorted.

    Args:
        figure: To draw on.
        picture: (H, W, 3) uint8 RGB.
        left: Inches from the figure's left edge.
        top: Inches from the figure's top edge.
        width: Width of the box in inches.
        height: Height of the box in inches.
        border: Colour of a frame around the picture; None for a hairline.

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
    """Style a chart's axes: a light grid, no box, muted tick labels."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=SMALL, length=0, pad=4)
    return axes


def as_picture(value: np.ndarray, name: str) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB.

    Args:
        value: (H, W, 3) uint8 RGB, or a float texture in [-1, 1].
        name: Name of the argument, for messages.

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
    """Return images as uint8 RGB, see `as_picture`; an empty sequence raises UserError."""
    if len(values) == 0:
        raise UserError(f"{name} is empty: a figure needs at least one image.")
    return [as_picture(value, f"{name}[{i}]") for i, value in enumerate(values)]


def check_count(values: Sequence[object] | np.ndarray | None, count: int, name: str, of: str) -> None:
    """Check that `values` is None or has `count` entries.

    Args:
        values: What to check.
        count: The expected number of entries.
        name: Name of the argument, for messages.
        of: What each entry belongs to, for messages.

    Raises:
        UserError: If the number differs.
    """
    if values is not None and len(values) != count:
        raise UserError(f"{name} must have one entry for each of {of}: {count}. Received: {len(values)}.")


def hues(count: int) -> np.ndarray:
    """Return `count` distinct colours, (count, 3) float RGB in 0..1."""
    # golden-ratio steps around the OKLCH hue circle, with two alternating lightnesses
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
    """Write a figure as .png, .pdf or .svg, by the suffix; complete or not at all."""
    path = Path(path)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format=path.suffix.lstrip(".") or "png")
