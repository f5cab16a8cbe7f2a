"""Surveillance cameras: their position, their view and their detector.

World frame: metres, x to the right of the view, y up with the ground at y = 0, z towards the camera. The
camera is above the origin; people walk at negative z. Pixels: x right, y down, (0, 0) on the optical axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from san_tf.synthesis.seeds import generator_at


@dataclass(frozen=True)
class Camera:
    """Geometry and habits of one surveillance camera.

    Attributes:
        camid: camera id, from 0.
        height: height of the lens above the ground in metres.
        tilt: downward tilt in radians.
        roll: sideways tilt in radians, small.
        focal: focal length in pixels of the native frame.
        distance: nearest and farthest distance of people in metres.
        half_width: how far to either side of the axis people walk, as a fraction of their distance.
        heading: most common yaw in degrees; people also walk the opposite way.
        heading_spread: standard deviation of yaw about `heading`, in degrees.
        heading_any: share of people who walk in a random direction.
        detector_shift: standard deviation of the crop's centre, as a fraction of its size.
        detector_scale: standard deviation of the logarithm of the crop's size.
        detector_margin: mean margin around the person, as a fraction of the height.
        occlusion: probability that something stands in front of a person.
        crowd: probability that another person is in the picture.
    """

    camid: int
    height: float
    tilt: float
    roll: float
    focal: float
    distance: tuple[float, float]
    half_width: float
    heading: float
    heading_spread: float
    heading_any: float
    detector_shift: float
    detector_scale: float
    detector_margin: float
    occlusion: float
    crowd: float

    def rotation(self) -> np.ndarray:
        """Return the (3, 3) float64 matrix that turns world directions into camera directions."""
        cos_t, sin_t, cos_r, sin_r = (
            np.cos(self.tilt),
            np.sin(self.tilt),
            np.cos(self.roll),
            np.sin(self.roll),
        )
        tilt = np.array([[1.0, 0, 0], [0, cos_t, -sin_t], [0, sin_t, cos_t]])
        roll = np.array([[cos_r, -sin_r, 0], [sin_r, cos_r, 0], [0, 0, 1.0]])
        return roll @ tilt

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Turn world points into camera coordinates.

        Args:
            points: `(..., 3)` world coordinates in metres.

        Returns:
            `(..., 3)` metres: x right, y up, z towards the camera (negative for visible points).
        """
        return (points - np.array([0.0, self.height, 0.0])) @ self.rotation().T

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project world points to the native frame.

        Args:
            points: `(..., 3)` world coordinates in metres, in front of the camera.

        Returns:
            `(..., 2)` pixels from the optical axis, x right and y down.

        Example:
            >>> camera = sample_camera(0, 0)
            >>> camera.project(np.array([[0.0, camera.height, -10.0]])).shape
            (1, 2)
        """
        seen = self.to_camera(points)
        depth = np.maximum(-seen[..., 2:3], 1e-3)
        return self.focal * np.concatenate([seen[..., :1], -seen[..., 1:2]], -1) / depth


@dataclass(frozen=True)
class Window:
    """A detector's bounding box in the native frame.

    Attributes:
        left, top: upper left corner in native pixels from the optical axis.
        width, height: in native pixels.
    """

    left: float
    top: float
    width: float
    height: float

    def to_image(self, pixels: np.ndarray, image_height: int, image_width: int) -> np.ndarray:
        """Map native pixels to pixels of an image that the window fills.

        Args:
            pixels: `(..., 2)` native pixels x, y.
            image_height: of the image in pixels.
            image_width: of the image in pixels.
        """
        scale = np.array([image_width / self.width, image_height / self.height])
        return (pixels - np.array([self.left, self.top])) * scale


def sample_camera(seed: int, camid: int, wide: float = 0.0) -> Camera:
    """Return camera `camid` of the data set with this seed.

    Args:
        seed: of the data set.
        camid: camera id, from 0.
        wide: probability that the camera hangs anywhere between eye level and a roof, near people or far.

    Returns:
        A `Camera`; the same arguments give the same camera.

    Example:
        >>> sample_camera(0, 1) == sample_camera(0, 1)
        True
    """
    rng = generator_at(seed, "camera", camid)
    height = rng.uniform(2.2, 6.0)
    near = height * 1.1 + rng.uniform(1.0, 4.0)
    if wide and (anywhere := generator_at(seed, "any camera", camid)).random() < wide:
        height = float(np.exp(anywhere.uniform(*np.log([1.5, 8.0]))))
        near = height * anywhere.uniform(0.7, 2.5) + anywhere.uniform(1.5, 4.0)
    far = near * rng.uniform(1.4, 2.2)
    middle = np.sqrt(near * far)
    person_pixels = np.exp(rng.uniform(np.log(75.0), np.log(150.0)))
    return Camera(
        camid=camid,
        height=height,
        # People cross about the middle of the frame: cameras are aimed by eye.
        tilt=float(np.arctan2(height - 0.9, middle) + rng.normal(0, 0.04)),
        roll=float(rng.normal(0, 0.02)),
        focal=float(person_pixels * middle / 1.7),
        distance=(near, far),
        half_width=rng.uniform(0.12, 0.32),
        heading=rng.uniform(-180.0, 180.0),
        heading_spread=rng.uniform(22.0, 40.0),
        heading_any=rng.uniform(0.12, 0.3),
        detector_shift=rng.uniform(0.012, 0.03),
        detector_scale=rng.uniform(0.03, 0.07),
        detector_margin=rng.uniform(0.02, 0.07),
        occlusion=rng.uniform(0.08, 0.22),
        crowd=rng.uniform(0.15, 0.4),
    )


def sample_yaw(camera: Camera, rng: np.random.Generator) -> float:
    """Draw the yaw of a person who crosses this camera's view.

    Args:
        camera: gives the heading, its spread and the share of random directions.
        rng: source of randomness.

    Returns:
        Degrees in (-180, 180]: 0 faces the camera, 90 shows the left side of the person.
    """
    if rng.random() < camera.heading_any:
        return wrap_degrees(rng.uniform(-180.0, 180.0))
    there_or_back = 0.0 if rng.random() < 0.55 else 180.0
    return wrap_degrees(camera.heading + there_or_back + rng.normal(0.0, camera.heading_spread))


def wrap_degrees(angle: float) -> float:
    """Return the same angle in (-180, 180] degrees."""
    return float(180.0 - (180.0 - angle) % 360.0)


def labelled_window(points: np.ndarray, rng: np.random.Generator) -> Window:
    """Return a box that touches the person, as people and modern detectors draw it.

    Args:
        points: `(V, 2)` native pixels of the person's vertices.
        rng: source of randomness.

    Returns:
        A `Window` of the silhouette's proportions, but between a quarter and nine tenths as wide as high.
    """
    low, high = points.min(0), points.max(0)
    size = high - low
    # Left, top, right and bottom margins are independent; some cut a little.
    margins = rng.normal(0.02, 0.02, 4) * np.array([1.5 * size[0], size[1], 1.5 * size[0], size[1]])
    low, high = low - margins[:2], high + margins[2:]
    height = float(high[1] - low[1])
    width = float(np.clip(high[0] - low[0], 0.25 * height, 0.9 * height))
    left = float(low[0] + high[0] - width) / 2
    return Window(left, float(low[1]), width, height)


def spoilt_window(window: Window, rng: np.random.Generator) -> Window:
    """Return a box with one error of a detector: a cut head, cut feet or side, a shift, a wrong size.

    Args:
        window: a good box.
        rng: source of randomness.

    Returns:
        A `Window` that still shows at least half of the good one.
    """
    left, top = window.left, window.top
    width, height = window.width, window.height
    kind = rng.choice(["head", "feet", "side", "shift", "wide", "large"], p=[0.13, 0.3, 0.12, 0.2, 0.15, 0.1])
    if kind == "head":
        cut = rng.uniform(0.03, 0.12) * height
        top, height = top + cut, height - cut
    elif kind == "feet":
        height *= 1 - float(rng.beta(1.3, 2.5)) * 0.5
    elif kind == "side":
        cut = rng.uniform(0.08, 0.25) * width
        left, width = left + cut * rng.integers(2), width - cut
    elif kind == "shift":
        left, top = left + rng.normal(0, 0.12) * width, top + rng.normal(0, 0.05) * height
    elif kind == "wide":
        more = rng.uniform(0.15, 0.7) * width
        left, width = left - more * rng.uniform(0.2, 0.8), width + more
    else:
        more = rng.uniform(0.08, 0.3)
        left, top = left - more * width * rng.uniform(0.3, 0.7), top - more * height * rng.uniform(0.3, 0.7)
        width, height = width * (1 + more), height * (1 + more)
    return Window(float(left), float(top), float(width), float(height))


def detector_window(
    points: np.ndarray, camera: Camera, rng: np.random.Generator, badness: float = 0.0
) -> Window:
    """Return a detector's bounding box of a person: nearly right.

    Args:
        points: `(V, 2)` native pixels of the person's vertices.
        camera: gives the size of the detector's errors.
        rng: source of randomness.
        badness: 0 for a usable crop, 1 for junk (too little overlap with the person), 2 for a false alarm.

    Returns:
        A `Window`, about half as wide as high.
    """
    low, high = points.min(0), points.max(0)
    centre, height = (low + high) / 2, float(high[1] - low[1])
    width = float(high[0] - low[0])
    scale = np.exp(rng.normal(0.0, camera.detector_scale))
    window_height = height * (1 + 2 * max(camera.detector_margin + rng.normal(0, 0.015), -0.02)) * scale
    # Detectors give boxes of nearly fixed proportions; outstretched legs widen them a little.
    window_width = window_height * 0.46 * np.exp(rng.normal(0.0, 0.06))
    window_width = max(window_width, 0.75 * window_width + 0.25 * width * 1.12)
    shift = rng.normal(0.0, camera.detector_shift, 2) * np.array([window_width * 1.6, window_height])
    if badness > 0:
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle) * window_width, np.sin(angle) * window_height])
        shift = shift + badness * rng.uniform(0.45, 0.75) * direction
        zoom = np.exp(badness * rng.choice([-0.55, -0.25, 0.35, 0.6]))
        window_height, window_width = window_height * zoom, window_width * zoom
    left_top = centre + shift - np.array([window_width, window_height]) / 2
    return Window(float(left_top[0]), float(left_top[1]), float(window_width), float(window_height))
