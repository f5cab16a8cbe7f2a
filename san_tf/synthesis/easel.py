"""Drawing flat things with polygons, lines and discs, in metres."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

PIXELS_PER_METRE = 72


@dataclass(frozen=True, eq=False)
class Sprite:
    """An upright flat thing.

    Attributes:
        rgba: `(H, W, 4)` float32, linear RGB times alpha, and alpha, in 0..1; the last row is the foot.
        width: metres.
        height: metres.
    """

    rgba: np.ndarray
    width: float
    height: float


class Easel:
    """A canvas in metres: x from the left, y up from the ground, drawn at twice the final resolution."""

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
        """Fill a polygon of (x, y) metres with an RGB colour of 0..1."""
        place = self._points(points)
        cv2.fillPoly(self.rgb, [place], [float(c) for c in color])
        cv2.fillPoly(self.alpha, [place], opacity)

    def line(
        self, points: list[tuple[float, float]], color: np.ndarray, width: float, closed: bool = False
    ) -> None:
        """Draw a line through (x, y) metres, `width` metres thick."""
        place, thickness = [self._points(points)], max(1, round(width * self.scale))
        cv2.polylines(self.rgb, place, closed, [float(c) for c in color], thickness)
        cv2.polylines(self.alpha, place, closed, 1.0, thickness)

    def disc(
        self, x: float, y: float, radius: float, color: np.ndarray, width: float = -1.0, squash: float = 1.0
    ) -> None:
        """Draw a disc, or a ring where `width` is given; `squash` narrows it as if turned away."""
        centre = tuple(int(v) for v in self._points([(x, y)])[0, 0])
        thickness = -1 if width < 0 else max(1, round(width * self.scale))
        axes = (max(1, round(radius * squash * self.scale)), max(1, round(radius * self.scale)))
        cv2.ellipse(self.rgb, centre, axes, 0, 0, 360, [float(c) for c in color], thickness)
        cv2.ellipse(self.alpha, centre, axes, 0, 0, 360, 1.0, thickness)

    def rectangle(self, x: float, y: float, width: float, height: float, color: np.ndarray) -> None:
        """Fill an upright rectangle whose lower left corner is (x, y)."""
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], color)

    def finish(self, rng: np.random.Generator, roughness: float = 0.06) -> Sprite:
        """Shade the drawing a little darker to its foot, add roughness, and shrink it to its final size."""
        rows, columns = self.alpha.shape
        fall = np.linspace(1.08, 0.82, rows, dtype=np.float32)[:, None]
        coarse = rng.normal(1.0, roughness, (max(2, rows // 14), max(2, columns // 14))).astype(np.float32)
        shade = fall * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
        rgba = np.dstack([self.rgb * (self.alpha * shade)[..., None], self.alpha])
        rgba = cv2.resize(rgba, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        # Colours were chosen as they look; squaring brings them close to linear light.
        color = rgba[..., :3] ** 2 / np.maximum(rgba[..., 3:], 1e-3)
        return Sprite(np.clip(np.dstack([color, rgba[..., 3]]), 0, 1), self.width, self.height)
