"""The street behind the people: procedural places seen through a camera's window.

A place is ray cast for just the window that is needed, so each window shows the right part of the camera's
panorama.
"""

from __future__ import annotations

import numpy as np

from san_tf.synthesis.camera import Camera, Window
from san_tf.synthesis.light import Light
from san_tf.synthesis.places import Place
from san_tf.synthesis.street_kernels import cast


def render_place(
    place: Place, camera: Camera, window: Window, light: Light, size: tuple[int, int]
) -> np.ndarray:
    """Draw the empty street in a window of the camera's frame.

    Args:
        place: what stands there.
        camera: where the camera hangs.
        window: the part of the frame to draw.
        light: sun and sky.
        size: (height, width) of the result in pixels.

    Returns:
        `(height, width, 3)` float32 RGB in linear light; 1 is a white surface in full light.
    """
    height, width = size
    out = np.zeros((height, width, 3), np.float32)
    cast(
        height, width, np.array([window.left, window.top, window.width, window.height]), camera.focal,
        camera.rotation(), camera.height, place.street, place.strips, place.grounds, place.ground_params,
        place.kerbs, place.paint, place.walls, place.wall_planes, place.wall_params, place.far,
        place.dapple * light.hardness, place.seed, light.direction, light.sun, light.sky, out,
    )  # fmt: skip
    return out
