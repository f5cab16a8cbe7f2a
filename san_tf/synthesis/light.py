"""Daylight at a camera's place: sun and sky, their direction, strength and colour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from san_tf.synthesis.seeds import generator_at


class Light(NamedTuple):
    """Sun and sky as seen from a camera, as `street_kernels.cast` takes them.

    Attributes:
        direction: `(3,)` unit vector towards the sun in the camera's world frame (y up).
        sun: `(3,)` RGB strength of direct light; 1 makes a white wall that faces the sun white.
        sky: `(3,)` RGB strength of light from all directions.
        hardness: darkness of cast shadows: 0 under clouds, 1 in full sun.
    """

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    hardness: float


def sample_light(seed: int, camid: int, sequence: int) -> Light:
    """Return the light at a camera during one recording.

    The camera fixes direction and openness of the place; the recording fixes the hour and the clouds.

    Args:
        seed: of the data set.
        camid: camera id, from 0.
        sequence: number of the recording, from 0.

    Returns:
        A `Light`; the same arguments give the same light.

    Example:
        >>> float(np.linalg.norm(sample_light(0, 0, 0).direction).round(6))
        1.0
    """
    place = generator_at(seed, "light", camid)
    azimuth, openness = place.uniform(-np.pi, np.pi), place.uniform(0.15, 1.0)
    hour = generator_at(seed, "light", camid, "sequence", sequence)
    azimuth += hour.normal(0.0, 0.5)
    elevation = np.deg2rad(hour.uniform(22.0, 68.0))
    hardness = float(np.clip(openness * hour.uniform(0.0, 1.3) - 0.1, 0.0, 0.95))
    direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    # A low sun is warm; skylight is bluish.
    warmth = float(np.clip((1.1 - elevation) * 0.25, 0.0, 0.2))
    brightness = hour.uniform(0.85, 1.1)
    sun = np.array([1.0 + warmth, 1.0, 1.0 - warmth]) * hardness * 0.75 * brightness
    level = (1.0 - 0.55 * hardness) * brightness * (0.75 + 0.25 * openness)
    sky = np.array([0.97, 1.0, 1.04]) * level
    return Light(direction, sun, sky, hardness)


def any_light(rng: np.random.Generator) -> Light:
    """Draw light of any place and hour, indoors too: mostly soft and from above, of any tint.

    Args:
        rng: source of randomness.

    Returns:
        A `Light`.
    """
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(15.0, 88.0))
    hardness = float(0.95 * rng.beta(0.7, 1.6))
    direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    warmth, brightness = rng.normal(0.0, 0.1, 2), np.exp(rng.normal(0.0, 0.2))
    sun = np.array([1 + warmth[0], 1.0, 1 - warmth[0]]) * hardness * 0.8 * brightness
    sky = np.array([1 + warmth[1], 1.0, 1 - warmth[1]]) * (1.0 - 0.6 * hardness) * brightness
    return Light(direction, sun, sky, hardness)
