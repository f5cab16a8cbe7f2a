"""Street furniture as flat, partly transparent pictures: bicycles, cars, poles, plants.

Pictures are placed behind people as parked things and in front of them as occluders. A picture is upright and
faces the camera. The lens blurs it, so it needs an outline and believable colours, but little detail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from san_tf.synthesis.seeds import generator_at

PIXELS_PER_METRE = 72


@dataclass(frozen=True, eq=False)
class Sprite:
    """An upright flat picture of a thing.

    Attributes:
        rgba: `(H, W, 4)` float32 in 0..1: linear RGB times alpha, then alpha; the last row is the foot.
        width: metres.
        height: metres.
    """

    rgba: np.ndarray
    width: float
    height: float


class Easel:
    """A canvas in metres: x from the left, y up from the ground.

    It is drawn at twice the final resolution. Colours are RGB in 0..1.
    """

    def __init__(self, width: float, height: float) -> None:
        self.scale = 2 * PIXELS_PER_METRE
        self.width, self.height = width, height
        self.rgb = np.zeros((round(height * self.scale), round(width * self.scale), 3), np.float32)
        self.alpha = np.zeros(self.rgb.shape[:2], np.float32)

    def _points(self, points: list[tuple[float, float]]) -> np.ndarray:
        array = np.array(points, np.float64) * self.scale
        array[:, 1] = self.alpha.shape[0] - 1 - array[:, 1]
        return np.rint(array).astype(np.int32).reshape(-1, 1, 2)

    def polygon(self, points: list[tuple[float, float]], color: np.ndarray, opacity: float = 1.0) -> None:
        """Fill a polygon.

        Args:
            points: (x, y) of the corners in metres.
            color: `(3,)` RGB.
            opacity: 0..1.
        """
        place = self._points(points)
        cv2.fillPoly(self.rgb, [place], [float(c) for c in color])
        cv2.fillPoly(self.alpha, [place], opacity)

    def line(
        self, points: list[tuple[float, float]], color: np.ndarray, width: float, closed: bool = False
    ) -> None:
        """Draw a line.

        Args:
            points: (x, y) along the line in metres.
            color: `(3,)` RGB.
            width: thickness in metres.
            closed: whether the last point is joined to the first.
        """
        place, thickness = [self._points(points)], max(1, round(width * self.scale))
        cv2.polylines(self.rgb, place, closed, [float(c) for c in color], thickness)
        cv2.polylines(self.alpha, place, closed, 1.0, thickness)

    def disc(
        self, x: float, y: float, radius: float, color: np.ndarray, width: float = -1.0, squash: float = 1.0
    ) -> None:
        """Draw a disc or a ring.

        Args:
            x: centre in metres.
            y: centre in metres.
            radius: in metres.
            color: `(3,)` RGB.
            width: thickness of a ring in metres; negative fills the disc.
            squash: factor on the horizontal radius; below 1 the disc looks turned away.
        """
        centre = tuple(int(v) for v in self._points([(x, y)])[0, 0])
        thickness = -1 if width < 0 else max(1, round(width * self.scale))
        axes = (max(1, round(radius * squash * self.scale)), max(1, round(radius * self.scale)))
        cv2.ellipse(self.rgb, centre, axes, 0, 0, 360, [float(c) for c in color], thickness)
        cv2.ellipse(self.alpha, centre, axes, 0, 0, 360, 1.0, thickness)

    def rectangle(self, x: float, y: float, width: float, height: float, color: np.ndarray) -> None:
        """Fill an upright rectangle.

        Args:
            x: left edge in metres.
            y: lower edge in metres.
            width: in metres.
            height: in metres.
            color: `(3,)` RGB.
        """
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], color)

    def finish(self, rng: np.random.Generator, roughness: float = 0.06) -> Sprite:
        """Return the drawing as a sprite: darker towards the foot, rough, at final size."""
        rows, columns = self.alpha.shape
        fall = np.linspace(1.08, 0.82, rows, dtype=np.float32)[:, None]
        coarse = rng.normal(1.0, roughness, (max(2, rows // 14), max(2, columns // 14))).astype(np.float32)
        shade = fall * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
        rgba = np.dstack([self.rgb * (self.alpha * shade)[..., None], self.alpha])
        rgba = cv2.resize(rgba, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        # Colours are given as they look on a screen; squaring approximates linear light.
        color = rgba[..., :3] ** 2 / np.maximum(rgba[..., 3:], 1e-3)
        return Sprite(np.clip(np.dstack([color, rgba[..., 3]]), 0, 1), self.width, self.height)


# Number of drawings of each kind; every place picks from them.
VARIANTS = 8


def _paint(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour of lacquer: mostly black, white or grey, sometimes a strong colour."""
    if rng.random() < 0.6:
        return np.full(3, rng.choice([0.05, 0.12, 0.3, 0.55, 0.8])) * (1 + rng.normal(0, 0.04, 3))
    hue = rng.integers(0, 180)
    hsv = np.array([[[hue, rng.integers(60, 180), rng.integers(60, 180)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] / 255.0


def _bicycle(rng: np.random.Generator) -> Sprite:
    easel, frame, dark = Easel(1.8, 1.12), _paint(rng), np.full(3, rng.uniform(0.04, 0.12))
    squash = rng.uniform(0.45, 1.0)
    middle = 0.9

    def at(x: float) -> float:
        return middle + (x - middle) * squash

    for x in (0.38, 1.42):
        easel.disc(at(x), 0.34, 0.32, dark, 0.035, squash)
        for angle in np.linspace(0, np.pi, 5)[:-1]:
            dx, dy = 0.3 * np.cos(angle) * squash, 0.3 * np.sin(angle)
            easel.line([(at(x) - dx, 0.34 - dy), (at(x) + dx, 0.34 + dy)], np.full(3, 0.4), 0.006)
    tubes = [(0.38, 0.34), (0.78, 0.36), (0.68, 0.8), (1.25, 0.78), (0.78, 0.36)]
    easel.line([(at(x), y) for x, y in tubes], frame, 0.045)
    easel.line([(at(0.38), 0.34), (at(0.68), 0.8)], frame, 0.03)
    easel.line([(at(1.42), 0.34), (at(1.22), 0.98), (at(1.12), 1.02)], frame, 0.04)
    easel.line([(at(0.56), 0.92), (at(0.8), 0.9)], dark, 0.07)
    easel.disc(at(0.78), 0.36, 0.09, dark, -1, squash)
    if rng.random() < 0.6:
        # A basket in front.
        easel.rectangle(at(1.28), 0.72, 0.34 * squash, 0.24, _paint(rng) * 0.6 + 0.05)
    if rng.random() < 0.4:
        # A child seat or a bag behind.
        easel.rectangle(at(0.2), 0.66, 0.34 * squash, 0.26, _paint(rng) * 0.8)
    easel.line([(at(0.15), 0.55), (at(0.38), 0.7), (at(0.62), 0.55)], np.full(3, 0.35), 0.03)
    return easel.finish(rng)


def _car(rng: np.random.Generator) -> Sprite:
    length, high = rng.uniform(3.6, 4.6), rng.uniform(1.4, 1.75)
    easel, body, glass = Easel(length, high), _paint(rng), np.full(3, rng.uniform(0.06, 0.2))
    shape = [
        (0.0, 0.3),
        (0.02, 0.75),
        (0.16, 0.85),
        (0.27, 0.98),
        (0.8, 0.98),
        (0.95, 0.85),
        (1.0, 0.6),
        (1.0, 0.3),
    ]
    belt = 0.58 * high
    hull = [
        (x * length, 0.2 + (y - 0.3) * (belt - 0.1) / 0.55 if y < 0.86 else belt + 0.02) for x, y in shape
    ]
    easel.polygon(hull, body)
    roof = [
        (0.2 * length, belt),
        (0.33 * length, high - 0.03),
        (0.75 * length, high - 0.03),
        (0.9 * length, belt),
    ]
    easel.polygon(roof, body)
    inner = [
        (0.245 * length, belt + 0.03),
        (0.35 * length, high - 0.11),
        (0.73 * length, high - 0.11),
        (0.85 * length, belt + 0.03),
    ]
    easel.polygon(inner, glass)
    easel.line([(0.54 * length, belt), (0.54 * length, high - 0.1)], body, 0.07)
    easel.line([(0.54 * length, 0.3), (0.54 * length, belt)], body * 0.7, 0.02)
    easel.line([(0.02 * length, 0.42), (0.98 * length, 0.42)], body * 0.75, 0.04)
    for x in (0.19, 0.81):
        easel.disc(x * length, 0.31, 0.34, body * 0.3)
        easel.disc(x * length, 0.31, 0.3, np.full(3, 0.04))
        easel.disc(x * length, 0.31, 0.18, np.full(3, rng.uniform(0.3, 0.6)))
    easel.rectangle(0.0, belt - 0.25, 0.1, 0.12, np.array([0.8, 0.75, 0.6]))
    easel.rectangle(length - 0.1, belt - 0.2, 0.1, 0.14, np.array([0.5, 0.05, 0.05]))
    return easel.finish(rng, 0.04)


def _pole(rng: np.random.Generator) -> Sprite:
    thickness, high = rng.uniform(0.07, 0.24), rng.uniform(2.6, 3.6)
    easel, color = Easel(0.9, high), np.full(3, rng.choice([0.12, 0.35, 0.6])) * (1 + rng.normal(0, 0.06, 3))
    easel.rectangle(0.45 - thickness / 2, 0, thickness, high, color)
    easel.rectangle(0.45 + thickness / 6, 0, thickness / 3, high, color * 0.75)
    easel.rectangle(0.45 - thickness * 0.8, 0, thickness * 1.6, 0.14, color * 0.8)
    if rng.random() < 0.4:
        easel.rectangle(0.12, 2.0, 0.66, rng.uniform(0.4, 0.6), _paint(rng))
    return easel.finish(rng)


def _bin(rng: np.random.Generator) -> Sprite:
    width, high = rng.uniform(0.45, 0.75), rng.uniform(0.8, 1.15)
    easel, color = Easel(width, high), _paint(rng) * 0.7
    easel.polygon([(0.06, 0), (width - 0.06, 0), (width, high - 0.12), (0, high - 0.12)], color)
    easel.rectangle(0, high - 0.14, width, 0.13, color * 0.6)
    if rng.random() < 0.5:
        easel.rectangle(width * 0.25, high * 0.45, width * 0.5, high * 0.22, _paint(rng))
    for x in np.arange(0.1, width - 0.05, 0.12):
        easel.line([(x, 0.06), (x, high - 0.2)], color * 0.8, 0.015)
    return easel.finish(rng)


def _plant(rng: np.random.Generator) -> Sprite:
    width, high = rng.uniform(0.7, 1.5), rng.uniform(0.7, 1.6)
    easel, pot = Easel(width, high), rng.uniform(0.15, 0.4)
    if rng.random() < 0.6:
        color = np.array([0.45, 0.35, 0.3]) * rng.uniform(0.5, 1.4)
        easel.polygon([(width * 0.3, 0), (width * 0.7, 0), (width * 0.8, pot), (width * 0.2, pot)], color)
    else:
        pot = 0.0
    _leaves(easel, rng, width / 2, (high + pot) / 2, width * 0.48, (high - pot) * 0.5, 260)
    return easel.finish(rng, 0.12)


def _tree(rng: np.random.Generator) -> Sprite:
    high, width = rng.uniform(3.2, 4.2), rng.uniform(1.8, 3.0)
    easel, trunk = Easel(width, high), rng.uniform(0.12, 0.3)
    bark = np.array([0.3, 0.25, 0.2]) * rng.uniform(0.5, 1.3)
    easel.polygon(
        [
            (width / 2 - trunk * 0.6, 0),
            (width / 2 + trunk * 0.6, 0),
            (width / 2 + trunk * 0.4, 2.6),
            (width / 2 - trunk * 0.4, 2.6),
        ],
        bark,
    )
    easel.rectangle(width / 2, 0, trunk * 0.4, 2.5, bark * 0.7)
    _leaves(easel, rng, width / 2, high - 0.8, width * 0.48, 0.8, 700)
    return easel.finish(rng, 0.12)


def _leaves(
    easel: Easel, rng: np.random.Generator, x: float, y: float, across: float, up: float, count: int
) -> None:
    """Fill an ellipse with small green blobs, lighter towards the top."""
    green = np.array([0.17, 0.26, 0.08]) * rng.uniform(0.6, 1.6) * np.exp(rng.normal(0, 0.12, 3))
    for _ in range(count):
        radius, angle = np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        rise = radius * np.sin(angle)
        light = 0.75 + 0.35 * rise + rng.normal(0, 0.22)
        spot = rng.uniform(0.03, 0.09)
        easel.disc(
            x + across * radius * np.cos(angle) * 0.92,
            y + up * rise * 0.92,
            spot,
            np.clip(green * light, 0.01, 1),
            -1,
            rng.uniform(0.5, 1.4),
        )


def _bench(rng: np.random.Generator) -> Sprite:
    width = rng.uniform(1.2, 1.9)
    easel, wood = Easel(width, 0.9), np.array([0.42, 0.3, 0.2]) * rng.uniform(0.5, 1.5)
    for x in (0.12, width - 0.2):
        easel.rectangle(x, 0, 0.07, 0.85, np.full(3, 0.12))
    for y in (0.4, 0.58, 0.72):
        easel.rectangle(0, y, width, 0.1, wood * rng.uniform(0.85, 1.1))
    return easel.finish(rng)


def _bollards(rng: np.random.Generator) -> Sprite:
    easel, color = Easel(2.2, 0.95), np.full(3, rng.choice([0.08, 0.4, 0.6]))
    for x in (0.1, 1.0, 1.9):
        easel.rectangle(x, 0, 0.14, 0.85, color)
        easel.disc(x + 0.07, 0.85, 0.08, color)
        easel.rectangle(x, 0.62, 0.14, 0.1, np.array([0.75, 0.7, 0.65]))
    return easel.finish(rng)


def _railing(rng: np.random.Generator) -> Sprite:
    easel, color = Easel(2.4, 1.1), np.full(3, rng.choice([0.1, 0.45, 0.65])) * (1 + rng.normal(0, 0.05, 3))
    for y in (0.25, 1.05):
        easel.line([(0, y), (2.4, y)], color, 0.05)
    step = rng.uniform(0.12, 0.3)
    for x in np.arange(0.03, 2.4, step):
        easel.line([(x, 0.05 if x % 1.0 < step else 0.25), (x, 1.05)], color, 0.03)
    return easel.finish(rng)


def _boxes(rng: np.random.Generator) -> Sprite:
    easel = Easel(1.2, 1.15)
    for x, y, w, h in (
        (0.0, 0.0, 0.62, 0.5),
        (0.6, 0.0, 0.6, 0.42),
        (0.15, 0.48, 0.6, rng.uniform(0.3, 0.6)),
    ):
        color = np.array([0.5, 0.4, 0.28]) * rng.uniform(0.6, 1.3) if rng.random() < 0.6 else _paint(rng)
        easel.rectangle(x, y, w, h, color)
        easel.rectangle(x + w * 0.35, y + h * 0.3, w * 0.3, h * 0.4, color * 0.75)
    return easel.finish(rng)


def _scooter(rng: np.random.Generator) -> Sprite:
    easel, body, dark = Easel(1.7, 1.15), _paint(rng), np.full(3, 0.06)
    for x in (0.3, 1.38):
        easel.disc(x, 0.25, 0.24, dark)
        easel.disc(x, 0.25, 0.1, np.full(3, 0.4))
    easel.polygon(
        [
            (0.1, 0.35),
            (0.2, 0.68),
            (0.8, 0.7),
            (0.85, 0.35),
            (1.1, 0.3),
            (1.2, 0.9),
            (1.32, 0.9),
            (1.4, 0.3),
            (0.9, 0.2),
            (0.4, 0.25),
        ],
        body,
    )
    easel.polygon([(0.18, 0.68), (0.22, 0.8), (0.78, 0.8), (0.82, 0.68)], dark)
    easel.line([(1.38, 0.3), (1.2, 1.02), (1.08, 1.06)], dark, 0.06)
    return easel.finish(rng)


KINDS: dict[str, Callable[[np.random.Generator], Sprite]] = {
    "bicycle": _bicycle,
    "car": _car,
    "pole": _pole,
    "bin": _bin,
    "plant": _plant,
    "tree": _tree,
    "bench": _bench,
    "bollards": _bollards,
    "railing": _railing,
    "boxes": _boxes,
    "scooter": _scooter,
}


@functools.cache
def sprite(kind: str, variant: int) -> Sprite:
    """Return one drawing of a thing.

    Args:
        kind: a key of `KINDS`.
        variant: 0..VARIANTS-1.

    Returns:
        A `Sprite`, read-only; the same arguments give the same drawing.

    Example:
        >>> sprite("bin", 0).rgba.shape[2]
        4
    """
    return KINDS[kind](generator_at(0, "sprite", kind, variant))
