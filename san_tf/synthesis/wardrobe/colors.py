"""Named colours, and how often people on the street wear them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from san_tf.synthesis.wardrobe.person import Color

RGB: Mapping[str, tuple[int, int, int]] = {
    "black": (28, 28, 31),
    "charcoal": (58, 59, 63),
    "grey": (122, 123, 126),
    "light grey": (182, 183, 185),
    "white": (236, 235, 231),
    "cream": (230, 221, 200),
    "beige": (196, 174, 143),
    "khaki": (150, 135, 99),
    "brown": (99, 69, 48),
    "dark brown": (58, 41, 32),
    "navy": (33, 40, 68),
    "denim": (70, 92, 130),
    "dark denim": (42, 52, 78),
    "light denim": (134, 157, 186),
    "blue": (52, 84, 146),
    "sky": (142, 182, 218),
    "teal": (38, 112, 116),
    "olive": (84, 86, 56),
    "green": (52, 108, 70),
    "mint": (172, 218, 198),
    "red": (166, 42, 44),
    "burgundy": (96, 30, 42),
    "pink": (226, 158, 172),
    "magenta": (166, 54, 104),
    "purple": (92, 66, 118),
    "lilac": (186, 170, 210),
    "orange": (204, 112, 52),
    "mustard": (196, 150, 50),
    "yellow": (222, 202, 84),
    "turquoise": (84, 168, 176),
}

# Weights follow pedestrian attribute data sets: half of all tops and two thirds of all trousers are black,
# grey, white or blue. Many people share few colours, so a colour histogram alone identifies people poorly.
TOP_WEIGHTS: Mapping[str, float] = {
    "black": 32, "charcoal": 9, "grey": 13, "light grey": 9, "white": 30, "cream": 3, "beige": 4, "khaki": 2,
    "brown": 2, "navy": 12, "blue": 5, "sky": 3, "denim": 2, "teal": 1, "olive": 3, "green": 2, "mint": 1,
    "red": 4, "burgundy": 2, "pink": 3, "magenta": 1, "purple": 1, "lilac": 1, "orange": 1, "mustard": 1,
    "yellow": 1.5, "turquoise": 1,
}  # fmt: skip
COAT_WEIGHTS: Mapping[str, float] = {
    "black": 40, "charcoal": 11, "grey": 9, "navy": 20, "beige": 8, "khaki": 5, "brown": 4, "olive": 5,
    "dark denim": 3, "denim": 4, "white": 2, "light grey": 3, "red": 3, "burgundy": 2, "blue": 2, "pink": 1,
    "mustard": 1, "green": 1,
}  # fmt: skip
TROUSER_WEIGHTS: Mapping[str, float] = {
    "black": 42, "charcoal": 12, "grey": 8, "navy": 12, "beige": 8, "khaki": 8, "brown": 4, "olive": 4,
    "white": 3, "light grey": 4, "dark brown": 2, "burgundy": 1, "red": 0.6, "blue": 1, "green": 0.5,
    "pink": 0.5,
}  # fmt: skip
# What most people wear in photographs of surveillance cameras: dark, and darker below than above.
PLAIN_WEIGHTS: Mapping[str, float] = {
    "black": 44, "charcoal": 14, "navy": 11, "grey": 8, "dark denim": 5, "khaki": 6, "beige": 5,
    "dark brown": 3, "olive": 2, "light grey": 2, "white": 1.5, "burgundy": 0.4, "red": 0.3,
}  # fmt: skip
JEANS_WEIGHTS: Mapping[str, float] = {
    "dark denim": 14, "denim": 18, "light denim": 5, "black": 6, "charcoal": 2, "navy": 1, "white": 0.5,
}  # fmt: skip
SKIRT_WEIGHTS: Mapping[str, float] = {
    "black": 20, "navy": 7, "grey": 6, "denim": 6, "dark denim": 4, "beige": 6, "white": 6, "cream": 3,
    "khaki": 3, "burgundy": 3, "red": 3, "pink": 4, "mint": 2, "mustard": 1, "green": 2, "olive": 2,
    "sky": 2, "lilac": 2, "yellow": 1,
}  # fmt: skip
SHOE_WEIGHTS: Mapping[str, float] = {
    "black": 36, "white": 26, "charcoal": 8, "grey": 7, "brown": 9, "dark brown": 6, "beige": 6, "navy": 5,
    "red": 2, "blue": 2, "light grey": 3, "pink": 1.5, "orange": 0.6, "green": 0.6, "yellow": 0.6,
}  # fmt: skip
LEATHER_WEIGHTS: Mapping[str, float] = {
    "black": 30, "charcoal": 4, "brown": 12, "dark brown": 9, "beige": 5, "navy": 2, "grey": 3, "burgundy": 2,
    "white": 1, "khaki": 2,
}  # fmt: skip
BAG_WEIGHTS: Mapping[str, float] = {
    "black": 42, "charcoal": 10, "grey": 7, "navy": 10, "brown": 8, "dark brown": 4, "beige": 5, "red": 5,
    "blue": 4, "olive": 4, "white": 3, "pink": 3, "burgundy": 2, "purple": 1, "turquoise": 1, "yellow": 1,
    "green": 1.5, "orange": 1.5,
}  # fmt: skip
ACCENT_WEIGHTS: Mapping[str, float] = {
    "white": 34, "black": 24, "grey": 10, "light grey": 9, "navy": 11, "red": 8, "blue": 6, "sky": 4,
    "yellow": 5, "orange": 4, "green": 4, "pink": 4, "burgundy": 2, "beige": 3, "teal": 2, "purple": 2,
    "turquoise": 2, "mustard": 2,
}  # fmt: skip


def draw_color(rng: np.random.Generator, weights: Mapping[str, float], jitter: float = 6.0) -> Color:
    """Draws a colour name by weight and varies its shade a little.

    Args:
        rng: `numpy.random.Generator`. Source of randomness.
        weights: mapping of names in `RGB` to positive weights.
        jitter: `float`. Standard deviation of the brightness in sRGB steps; each channel varies by a third.

    Returns:
        `Color` with every channel in [12, 246]; in photographs, no cloth is pure black or pure white.
    """
    names = list(weights)
    share = np.array([weights[name] for name in names], np.float64)
    name = names[int(rng.choice(len(names), p=share / share.sum()))]
    shake = rng.normal(0.0, jitter) + rng.normal(0.0, jitter / 3.0, 3)
    red, green, blue = np.clip(np.array(RGB[name]) + shake, 12, 246).astype(int).tolist()
    return Color(name, (red, green, blue))


def contrast(first: Color, second: Color) -> float:
    """Returns the largest channel difference between two colours, in sRGB steps [0, 255]."""
    return float(max(abs(a - b) for a, b in zip(first.rgb, second.rgb, strict=True)))


def draw_contrasting(
    rng: np.random.Generator, weights: Mapping[str, float], against: Color, least: float = 55.0
) -> Color:
    """Draws a colour that differs clearly from `against`.

    Args:
        rng: `numpy.random.Generator`. Source of randomness.
        weights: mapping of names in `RGB` to positive weights.
        against: `Color` to differ from.
        least: `float`. Smallest accepted `contrast`.

    Returns:
        `Color`; after 12 failed draws, white on dark or black on light.
    """
    for _ in range(12):
        color = draw_color(rng, weights)
        if contrast(color, against) >= least:
            return color
    name = "white" if sum(against.rgb) < 380 else "black"
    return Color(name, RGB[name])
